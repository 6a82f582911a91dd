// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft: the table of commands.
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/remote.h"
#include "cli/signals.h"
#include "cli/version.h"

static const struct cli_command *const commands[] = {
    &cli_cmd_ps,      &cli_cmd_show,    &cli_cmd_capture, &cli_cmd_inspect, &cli_cmd_verify,
    &cli_cmd_convert, &cli_cmd_restore, &cli_cmd_migrate, &cli_cmd_agent,
};

// For one vmgraft that runs another; not in the help page.
static const struct cli_command *const inner[] = {
    &cli_cmd_remote_helper,
    &cli_cmd_remote_link,
    &cli_cmd_remote_channel,
};

static const char intro[] =
    "Usage: vmgraft COMMAND [OPTION...] OPERAND...\n"
    "\n"
    "Takes a running process out of one QEMU guest, from the outside, and lets it go on in\n"
    "another. TARGET names a guest: a libvirt domain, or qmp:/path/to/socket.\n"
    "\n";

static const char outro[] =
    "  help       This page; vmgraft help COMMAND: that command's page\n"
    "\n"
    "To move a job:       vmgraft migrate qmp:/run/a.sock 1234 qmp:/run/b.sock\n"
    "To keep one for gdb: vmgraft capture qmp:/run/a.sock 1234 -o job.vmg\n"
    "                     vmgraft convert job.vmg --to core -o job.core\n";

static const struct cli_command *find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    for (size_t i = 0; i < G_N_ELEMENTS(inner); i++) {
        if (strcmp(inner[i]->name, name) == 0)
            return inner[i];
    }
    return NULL;
}

// Levenshtein distance of two short words.
static size_t distance(const char *a, const char *b)
{
    size_t row[32], n = MIN(strlen(b), G_N_ELEMENTS(row) - 1);

    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            row[j] = MIN(MIN(row[j], row[j - 1]) + 1, replaced);
        }
    }
    return row[n];
}

static enum cli_exit unknown(const char *name)
{
    const char *nearest = NULL;
    size_t best = 3; // farther away it is no slip of the finger

    if (*name == '-') {
        fprintf(stderr, "vmgraft: options follow the command: vmgraft COMMAND %s\n", name);
        return CLI_EXIT_USAGE;
    }

    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        size_t d = distance(name, commands[i]->name);

        if (d < best || (*name && g_str_has_prefix(commands[i]->name, name))) {
            best = MIN(d, best);
            nearest = commands[i]->name;
        }
    }
    fprintf(stderr, "vmgraft: '%s' is no command; ", name);
    if (nearest)
        fprintf(stderr, "did you mean '%s'?\n", nearest);
    else
        fputs("see vmgraft help\n", stderr);
    return CLI_EXIT_USAGE;
}

static void print_help(FILE *to)
{
    fputs(intro, to);
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++)
        fprintf(to, "  %-9s  %s\n", commands[i]->name, commands[i]->summary);
    fputs(outro, to);
}

static enum cli_exit run(const struct cli_command *command, int argc, char **argv)
{
    struct cli cli = {.command = command, .signal_fd = -1, .words = g_strdupv(argv)};
    g_autofree char *name = g_strdup_printf("vmgraft %s", command->name);
    enum cli_exit result;

    g_set_prgname(name);
    result = command->run(&cli, argc, argv);
    g_free(cli.connect);
    g_free(cli.here);
    g_strfreev(cli.words);
    // What was interrupted ends by the signal; what had been completed all the same does not.
    if (cli.signal != 0 && result != CLI_EXIT_DONE) {
        fflush(stdout);
        cli_signals_die(cli.signal);
    }
    return result;
}

static enum cli_exit help(int argc, char **argv)
{
    char *page[] = {argv[0], (char *)"--help", NULL};
    const struct cli_command *command;

    if (argc < 2) {
        print_help(stdout);
        return CLI_EXIT_DONE;
    }
    command = find(argv[1]);
    return command ? run(command, 2, page) : unknown(argv[1]);
}

// The next file to be opened would take the place of a standard stream that is closed, and get what
// is said there. Reading the one and writing the others fails as before.
static void occupy_standard_streams(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};

    for (int fd = 0; fd < (int)G_N_ELEMENTS(modes); fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", modes[fd]) != fd)
            abort();
    }
}

int main(int argc, char **argv)
{
    const struct cli_command *command;

    occupy_standard_streams();
    setlocale(LC_CTYPE, "");
    if (argc < 2) {
        print_help(stderr);
        return CLI_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("vmgraft %s\n", CLI_VERSION);
        return CLI_EXIT_DONE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0)
        return (int)help(argc - 1, argv + 1);
    command = find(argv[1]);
    if (!command)
        return (int)unknown(argv[1]);
    return (int)run(command, argc - 1, argv + 1);
}
