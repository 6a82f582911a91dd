// SPDX-License-Identifier: GPL-2.0-or-later
// What all commands share: options, operands, exit codes, messages.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

enum cli_exit {
    CLI_EXIT_DONE = 0,
    CLI_EXIT_FAILED = 1,
    CLI_EXIT_USAGE = 2,
    CLI_EXIT_REFUSED = 3,
};

#define CLI_ERROR (cli_error_quark())
GQuark cli_error_quark(void);

enum cli_error {
    CLI_ERROR_USAGE,
    CLI_ERROR_FAILED,
    CLI_ERROR_REFUSED,     // the reasons are in a list beside the error
    CLI_ERROR_INTERRUPTED, // a signal came; cli_signals_raise ends the process as it would have
    CLI_ERROR_AGENT,       // the agent does not answer, or breaks the protocol
};

struct cli_command;

// Of a vmgraft that another one runs: an image, or the channel of a move.
#define CLI_STREAM_FD 3

// One run of one command.
struct cli {
    const struct cli_command *command;
    bool json, quiet, verbose;
    char *connect; // libvirt URI for targets that are domains, NULL: libvirt's default
    char **words;  // the command line, from the command's name on
    char *here;    // run for a vmgraft of another host (remote.h): this is connect, as it is here;
                   // images, and the channel of a move, are on CLI_STREAM_FD
    char **operands;
    int n_operands;
    int signal_fd;  // see signals.h; -1: signals end the process at once
    int signal;     // the one that came, 0 for none
    bool committed; // past the point of no return: signals wait until the command is over
};

// A row of the table of commands.
struct cli_command {
    const char *name;
    const char *operands; // "TARGET PID"
    int min_operands, max_operands;
    bool has_json;
    bool has_target;     // takes --connect
    bool has_allow;      // takes --allow: --help says of what
    const char *summary; // one line, for `vmgraft help`
    const char *about;   // what it does to the guests, for --help
    const char *examples;
    enum cli_exit (*run)(struct cli *cli, int argc, char **argv);
};

extern const struct cli_command cli_cmd_ps, cli_cmd_show, cli_cmd_capture, cli_cmd_inspect,
    cli_cmd_verify, cli_cmd_convert, cli_cmd_restore, cli_cmd_migrate, cli_cmd_agent;

// Parses options (entries may be NULL) and operands. false: *ret is the exit code, all was said.
bool cli_parse(struct cli *cli, const GOptionEntry *entries, int argc, char **argv,
               enum cli_exit *ret);

// A pid as the user gave it.
bool cli_parse_pid(const char *text, uint32_t *ret, GError **error);
// Seconds as the user gave them, to milliseconds.
bool cli_check_seconds(double seconds, const char *option, int64_t *ret_ms, GError **error);

// Says what went wrong, on stderr, and returns the exit code for it.
enum cli_exit cli_fail(struct cli *cli, const GError *error);
// The same; the reasons (char *) of CLI_ERROR_REFUSED each on a line, by pid and descriptor, with
// --json on stdout too.
enum cli_exit cli_fail_refused(struct cli *cli, const GError *error, GPtrArray *reasons);
// A line on stderr, unless --quiet; cli_debug: only with --verbose.
void cli_note(const struct cli *cli, const char *format, ...) G_GNUC_PRINTF(2, 3);
void cli_debug(const struct cli *cli, const char *format, ...) G_GNUC_PRINTF(2, 3);
void cli_warn(const char *format, ...) G_GNUC_PRINTF(1, 2);

// Prints JSON on stdout and frees it.
void cli_print_json(struct json_object *take);
// Nanoseconds as a number of milliseconds, with three digits behind the point.
struct json_object *cli_json_ms(int64_t ns);
// Flushes stdout; the exit code of a command that is done, unless writing failed.
enum cli_exit cli_done(struct cli *cli);

// The text with everything replaced that could disturb a terminal: guests choose names and paths.
// Owned by the caller; NULL becomes "".
char *cli_printable(const char *text);
// As JSON has it: what is no UTF-8, as names of files may be, becomes U+FFFD. NULL gives null.
struct json_object *cli_json_text(const char *text);
char *cli_format_bytes(uint64_t bytes); // "12.3 MiB"; owned by the caller
int64_t cli_now_ns(void);               // CLOCK_MONOTONIC
