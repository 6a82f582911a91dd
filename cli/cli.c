// SPDX-License-Identifier: GPL-2.0-or-later
// What all commands share: options, operands, exit codes, messages.
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/refusal.h"
#include "introspect/kernel.h"
#include "vmm/machine.h"

#define PID_MAX 4194304 // PID_MAX_LIMIT, include/linux/threads.h

GQuark cli_error_quark(void)
{
    return g_quark_from_static_string("cli-error");
}

static enum cli_exit usage_error(struct cli *cli, const char *message)
{
    fprintf(stderr, "vmgraft: %s: %s\nTry 'vmgraft %s --help'.\n", cli->command->name, message,
            cli->command->name);
    return CLI_EXIT_USAGE;
}

static GOptionContext *make_context(struct cli *cli, const GOptionEntry *entries)
{
    const struct cli_command *cmd = cli->command;
    GOptionContext *context = g_option_context_new(cmd->operands);
    g_autofree char *about = g_strconcat(cmd->summary, ".\n\n", cmd->about, NULL);
    g_autofree char *allow = cmd->has_allow ? cli_allow_help() : NULL;
    g_autofree char *end = g_strconcat(
        allow ? allow : "", allow ? "\n" : "", "Examples:\n", cmd->examples,
        cmd->has_target
            ? "\n\nTargets: NAME, a domain of libvirt (name, UUID or id; see --connect);\n"
              "         --connect qemu+ssh://[USER@]HOST[:PORT]/system: of another host, by the\n"
              "         vmgraft that is installed there;\n"
              "         qmp:/path/to/socket, a QEMU process by its QMP socket."
            : "",
        "\n\nExit status: 0 done, 1 failed, 2 usage, 3 refused (the reasons are on stderr).", NULL);
    const GOptionEntry common[] = {
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &cli->quiet, "Say nothing but errors", NULL},
        {"verbose", 'v', 0, G_OPTION_ARG_NONE, &cli->verbose, "Say what is being done", NULL},
        G_OPTION_ENTRY_NULL,
    };
    const GOptionEntry target[] = {
        {"connect", 'c', 0, G_OPTION_ARG_STRING, &cli->connect,
         "Where targets that are domains live (default: as virsh has it)", "URI"},
        {"connect-here", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_STRING, &cli->here, NULL, NULL},
        G_OPTION_ENTRY_NULL,
    };
    const GOptionEntry json[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &cli->json, "Print the facts as JSON on stdout", NULL},
        G_OPTION_ENTRY_NULL,
    };

    g_option_context_set_summary(context, about);
    g_option_context_set_description(context, end);
    if (entries)
        g_option_context_add_main_entries(context, entries, NULL);
    if (cmd->has_target)
        g_option_context_add_main_entries(context, target, NULL);
    if (cmd->has_json)
        g_option_context_add_main_entries(context, json, NULL);
    g_option_context_add_main_entries(context, common, NULL);
    return context;
}

bool cli_parse(struct cli *cli, const GOptionEntry *entries, int argc, char **argv,
               enum cli_exit *ret)
{
    g_autoptr(GOptionContext) context = make_context(cli, entries);
    g_autoptr(GError) error = NULL;
    const struct cli_command *cmd = cli->command;

    *ret = CLI_EXIT_USAGE;
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        usage_error(cli, error->message);
        return false;
    }
    // GOption leaves the "--" that ended the options where it was.
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            memmove(&argv[i], &argv[i + 1], (size_t)(argc - i) * sizeof(*argv));
            argc--;
            break;
        }
    }
    if (cli->here) {
        g_free(cli->connect);
        cli->connect = g_strdup(cli->here);
    }
    cli->operands = argv + 1;
    cli->n_operands = argc - 1;
    if (cli->n_operands < cmd->min_operands || cli->n_operands > cmd->max_operands) {
        g_autofree char *message = g_strdup_printf(
            "%s; it takes: %s",
            cli->n_operands < cmd->min_operands ? "too few operands" : "too many operands",
            cmd->operands);

        usage_error(cli, message);
        return false;
    }
    return true;
}

bool cli_parse_pid(const char *text, uint32_t *ret, GError **error)
{
    g_autoptr(GError) why = NULL;
    guint64 pid;

    if (!g_ascii_string_to_unsigned(text, 10, 1, PID_MAX, &pid, &why)) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "'%s' is no pid: a number of 1 or more",
                    text);
        return false;
    }
    *ret = (uint32_t)pid;
    return true;
}

bool cli_check_seconds(double seconds, const char *option, int64_t *ret_ms, GError **error)
{
    if (!(seconds >= 0) || seconds > 1e6) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "%s takes a number of seconds", option);
        return false;
    }
    *ret_ms = (int64_t)(seconds * 1000);
    return true;
}

// What to do about errors whose message only says what is wrong.
static const char *find_hint(const GError *error)
{
    const struct {
        GQuark domain;
        int code;
        const char *text;
    } hints[] = {
        {VMM_ERROR, VMM_ERROR_TARGET,
         "a target is the name of a libvirt domain, or qmp:/path/to/socket"},
        {INTRO_ERROR, INTRO_ERROR_NO_KERNEL, "is the guest a Linux, and has it booted?"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(hints); i++) {
        if (g_error_matches(error, hints[i].domain, hints[i].code))
            return hints[i].text;
    }
    return NULL;
}

static enum cli_exit exit_code(const GError *error)
{
    // A kernel thread, a zombie ...: well understood, and nothing that could go along.
    if (g_error_matches(error, CLI_ERROR, CLI_ERROR_REFUSED) ||
        g_error_matches(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED))
        return CLI_EXIT_REFUSED;
    return CLI_EXIT_FAILED;
}

enum cli_exit cli_fail(struct cli *cli, const GError *error)
{
    const char *hint = find_hint(error);

    if (g_error_matches(error, CLI_ERROR, CLI_ERROR_USAGE))
        return usage_error(cli, error->message);
    cli_warn("%s%s%s", error->message, hint ? "; " : "", hint ? hint : "");
    return exit_code(error);
}

enum cli_exit cli_fail_refused(struct cli *cli, const GError *error, GPtrArray *reasons)
{
    if (!g_error_matches(error, CLI_ERROR, CLI_ERROR_REFUSED))
        return cli_fail(cli, error);
    cli_reasons_sort(reasons);
    g_autofree char *allowable = cli_reasons_allowable(reasons);
    cli_warn("%s", error->message);
    for (guint i = 0; i < reasons->len; i++) {
        g_autofree char *text = cli_printable(g_ptr_array_index(reasons, i));

        fprintf(stderr, "  %s\n", text);
    }
    if (allowable && cli->command->has_allow)
        fprintf(stderr, "vmgraft: --allow %s would let it go without; see --help\n", allowable);
    if (cli->json) {
        struct json_object *obj = json_object_new_object(), *list = json_object_new_array();

        for (guint i = 0; i < reasons->len; i++)
            json_object_array_add(list, cli_json_text(g_ptr_array_index(reasons, i)));
        json_object_object_add(obj, "result", json_object_new_string("refused"));
        json_object_object_add(obj, "reasons", list);
        json_object_object_add(obj, "refusals", cli_reasons_json(reasons));
        cli_print_json(obj);
        fflush(stdout);
    }
    return CLI_EXIT_REFUSED;
}

struct json_object *cli_json_text(const char *text)
{
    g_autofree char *valid = text ? g_utf8_make_valid(text, -1) : NULL;

    return valid ? json_object_new_string(valid) : NULL;
}

char *cli_printable(const char *text)
{
    char *copy = g_utf8_make_valid(text ? text : "", -1);

    for (char *at = copy; *at; at++) {
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '?';
    }
    return copy;
}

static void print_line(const char *prefix, const char *format, va_list args) G_GNUC_PRINTF(2, 0);
static void print_line(const char *prefix, const char *format, va_list args)
{
    g_autofree char *raw = g_strdup_vprintf(format, args);
    g_autofree char *text = cli_printable(raw);

    fprintf(stderr, "%s%s\n", prefix, text);
}

void cli_warn(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    print_line("vmgraft: ", format, args);
    va_end(args);
}

void cli_note(const struct cli *cli, const char *format, ...)
{
    va_list args;

    if (cli->quiet)
        return;
    va_start(args, format);
    print_line("", format, args);
    va_end(args);
}

void cli_debug(const struct cli *cli, const char *format, ...)
{
    va_list args;

    if (!cli->verbose)
        return;
    va_start(args, format);
    print_line("", format, args);
    va_end(args);
}

void cli_print_json(struct json_object *take)
{
    puts(json_object_to_json_string_ext(take, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                  JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(take);
}

struct json_object *cli_json_ms(int64_t ns)
{
    g_autofree char *text = g_strdup_printf("%.3f", (double)ns / 1e6);

    return json_object_new_double_s((double)ns / 1e6, text);
}

enum cli_exit cli_done(struct cli *cli)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_EXIT_DONE;
    cli_warn("cannot write to standard output: %s", g_strerror(errno));
    return CLI_EXIT_FAILED;
}

char *cli_format_bytes(uint64_t bytes)
{
    return g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
}

int64_t cli_now_ns(void)
{
    return g_get_monotonic_time() * 1000;
}
