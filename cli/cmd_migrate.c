// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft migrate: a process leaves one guest and goes on in another.
#include "cli/agent_client.h"
#include "cli/arrival.h"
#include "cli/move.h"
#include "cli/refusal.h"
#include "cli/select.h"

static void report(struct cli *cli, const struct cli_move_options *o,
                   const struct cli_move_result *r)
{
    uint32_t pid = r->pids->len > 0 ? g_array_index(r->pids, uint32_t, 0) : 0;
    g_autofree char *size = cli_format_bytes(r->image_bytes);

    cli_print_notes(cli, r->notes);
    if (cli->json) {
        struct json_object *obj = json_object_new_object();

        json_object_object_add(obj, "result", json_object_new_string(o->copy ? "copied" : "moved"));
        json_object_object_add(obj, "pid", json_object_new_int64(o->pid));
        cli_capture_add_json(&r->capture, obj);
        json_object_object_add(obj, "bytes", json_object_new_uint64(r->image_bytes));
        json_object_object_add(obj, "still_ms", cli_json_ms(r->still_ns));
        json_object_object_add(obj, "total_ms", cli_json_ms(r->total_ns));
        cli_arrival_add_json(obj, r->pids, r->notes);
        cli_print_json(obj);
        return;
    }
    cli_note(cli,
             "pid %u %s: runs as pid %u; guest paused %.1f ms, process still for %.0f ms, %s, "
             "%.1f s in all",
             o->pid, o->copy ? "copied" : "moved", pid, (double)r->capture.pause_ns / 1e6,
             (double)r->still_ns / 1e6, size, (double)r->total_ns / 1e9);
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    double timeout = CLI_AGENT_TIMEOUT_S, deadline = CLI_CAPTURE_DEADLINE_S;
    gboolean copy = FALSE, new_pid_namespace = FALSE;
    g_auto(GStrv) allow = NULL;
    g_auto(cli_carry) carry = {0};
    const GOptionEntry entries[] = {
        {"copy", 0, 0, G_OPTION_ARG_NONE, &copy,
         "The original lives on (needs no agent in the source)", NULL},
        {"new-pid-namespace", 0, 0, G_OPTION_ARG_NONE, &new_pid_namespace,
         "Keep the pids, in a pid namespace of their own", NULL},
        {"allow", 0, 0, G_OPTION_ARG_STRING_ARRAY, &allow,
         "Accept to lose what is refused by this name (more below)", "KIND[,KIND]"},
        CLI_CARRY_OPTIONS(&carry),
        {"deadline", 0, 0, G_OPTION_ARG_DOUBLE, &deadline,
         "Give up when no moment within this time was safe (default 10)", "SECONDS"},
        CLI_AGENT_TIMEOUT_OPTION(&timeout),
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) kinds = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    struct cli_move_options o = {.allow = kinds};
    struct cli_move_result result = {0};
    enum cli_exit exit;

    if (!cli_parse(cli, entries, argc, argv, &exit))
        return exit;
    o.copy = copy;
    o.new_pid_namespace = new_pid_namespace;
    o.process = cli->operands[1];
    if (!cli_parse_allow(allow, kinds, &error) ||
        !cli_parse_carry(&carry, &o.carry_bytes, &error) || !cli_select_check(o.process, &error) ||
        !cli_check_seconds(deadline, "--deadline", &o.deadline_ms, &error) ||
        !cli_check_seconds(timeout, "--agent-timeout", &o.timeout_ms, &error))
        return cli_fail(cli, error);
    if (cli_move(cli, cli->operands[0], cli->operands[2], &o, &result, reasons, &error)) {
        report(cli, &o, &result);
        exit = cli_done(cli);
    } else {
        exit = cli_fail_refused(cli, error, reasons);
    }
    cli_move_result_clear(&result);
    return exit;
}

const struct cli_command cli_cmd_migrate = {
    .name = "migrate",
    .operands = "SOURCE PID TARGET",
    .min_operands = 3,
    .max_operands = 3,
    .has_json = true,
    .has_target = true,
    .has_allow = true,
    .summary = "Move a process and its descendants to another guest",
    .about =
        "The agent in the source holds the process still, the guest is paused for some\n"
        "milliseconds to take it, the agent in the target rebuilds it; then the original is\n"
        "ended and the copy let go, in this order. Whatever fails, and Ctrl-C at any time: one\n"
        "of the two lives. With --copy the original lives on, and so does the copy.",
    .examples = "  vmgraft migrate qmp:/run/a.sock 1234 qmp:/run/b.sock\n"
                "  vmgraft migrate --copy qmp:/run/a.sock 1234 qmp:/run/b.sock",
    .run = run,
};
