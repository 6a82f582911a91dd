// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft agent: asks the agent of a guest, and settles a move that was interrupted.
#include <stdio.h>
#include <string.h>

#include "cli/agent_client.h"
#include "cli/arrival.h"
#include "cli/signals.h"

static bool print_status(struct cli *cli, CliAgent *agent, GError **error)
{
    const struct cli_agent_info *info = cli_agent_info(agent);

    if (cli->json) {
        struct json_object *obj = json_object_new_object();

        json_object_object_add(obj, "version", json_object_new_string(info->version));
        json_object_object_add(obj, "pid", json_object_new_int64(info->agent_pid));
        json_object_object_add(obj, "kernel", json_object_new_string(info->release));
        json_object_object_add(obj, "hostname", json_object_new_string(info->hostname));
        json_object_object_add(obj, "held", info->held ? json_object_new_string(info->held) : NULL);
        cli_print_json(obj);
        return true;
    }
    printf("agent %s, pid %" G_GINT64_FORMAT ", on %s, Linux %s\n", info->version, info->agent_pid,
           info->hostname, info->release);
    if (info->held)
        printf("holds %s, prepared by a move that was interrupted: see whether the original still "
               "lives, then 'vmgraft agent abort' (it does) or 'vmgraft agent release' (it does "
               "not)\n",
               info->held);
    return true;
}

static bool check_held(CliAgent *agent, GError **error)
{
    if (cli_agent_info(agent)->held)
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "the agent holds nothing");
    return false;
}

static bool release(struct cli *cli, CliAgent *agent, GError **error)
{
    g_autoptr(GArray) pids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    g_autoptr(GPtrArray) notes = g_ptr_array_new();

    if (!check_held(agent, error) || !cli_agent_release(agent, pids, error))
        return false;
    if (cli->json) {
        struct json_object *obj = json_object_new_object();

        json_object_object_add(obj, "result", json_object_new_string("released"));
        cli_arrival_add_json(obj, pids, notes);
        cli_print_json(obj);
    } else {
        cli_note(cli, "runs as pid %u", pids->len > 0 ? g_array_index(pids, uint32_t, 0) : 0);
    }
    return true;
}

static bool abort_held(struct cli *cli, CliAgent *agent, GError **error)
{
    if (!check_held(agent, error) || !cli_agent_abort(agent, error))
        return false;
    cli_note(cli, "nothing is left of it");
    return true;
}

static const struct {
    const char *name;
    bool (*run)(struct cli *cli, CliAgent *agent, GError **error);
} actions[] = {
    {"status", print_status},
    {"release", release},
    {"abort", abort_held},
};

static bool act(struct cli *cli, double timeout, GError **error)
{
    g_autoptr(VmmMachine) vm = NULL;
    g_autoptr(CliAgent) agent = NULL;
    int64_t timeout_ms;
    size_t i = 0;

    while (i < G_N_ELEMENTS(actions) && strcmp(actions[i].name, cli->operands[0]) != 0)
        i++;
    if (i == G_N_ELEMENTS(actions)) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "'%s' is none of status, release, abort",
                    cli->operands[0]);
        return false;
    }
    if (!cli_check_seconds(timeout, "--agent-timeout", &timeout_ms, error))
        return false;
    vm = vmm_machine_open(cli->operands[1], cli->connect, error);
    if (!vm)
        return false;
    cli_signals_hold(cli);
    agent = cli_agent_connect(cli, vm, cli->operands[1], timeout_ms, error);
    return agent && actions[i].run(cli, agent, error);
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    double timeout = CLI_AGENT_TIMEOUT_S;
    const GOptionEntry entries[] = {
        CLI_AGENT_TIMEOUT_OPTION(&timeout),
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (!cli_parse(cli, entries, argc, argv, &exit))
        return exit;
    return act(cli, timeout, &error) ? cli_done(cli) : cli_fail(cli, error);
}

const struct cli_command cli_cmd_agent = {
    .name = "agent",
    .operands = "status|release|abort TARGET",
    .min_operands = 2,
    .max_operands = 2,
    .has_json = true,
    .has_target = true,
    .summary = "Ask the agent of a guest, or settle an interrupted move",
    .about = "status   is the agent there, which version, on which kernel, what does it hold?\n"
             "release  let a process run that was prepared by a move whose vmgraft vanished\n"
             "abort    remove such a process",
    .examples = "  vmgraft agent status qmp:/run/b.sock",
    .run = run,
};
