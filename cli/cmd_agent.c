// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft agent: asks the agent of a guest, and settles a move that was interrupted.
#include <stdio.h>
#include <string.h>

#include "cli/agent_client.h"
#include "cli/agent_install.h"
#include "cli/arrival.h"
#include "cli/remote.h"
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

// What is asked of an agent that runs, and what is done with the disks of a guest that is off.
static const struct action {
    const char *name;
    bool (*ask)(struct cli *cli, CliAgent *agent, GError **error);
    bool (*on_disk)(struct cli *cli, const struct cli_agent_place *place, GError **error);
} actions[] = {
    {"status", print_status, cli_agent_look},
    {"install", NULL, cli_agent_install},
    {"remove", NULL, cli_agent_remove},
    {"release", release, NULL},
    {"abort", abort_held, NULL},
};

static bool fail_usage(GError **error, const char *format, const char *word) G_GNUC_PRINTF(2, 0);
static bool fail_usage(GError **error, const char *format, const char *word)
{
    g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, format, word);
    return false;
}

static bool ask(struct cli *cli, const struct action *action, double timeout, GError **error)
{
    g_autoptr(VmmMachine) vm = NULL;
    g_autoptr(CliAgent) agent = NULL;
    int64_t timeout_ms;

    if (!cli_check_seconds(timeout, "--agent-timeout", &timeout_ms, error))
        return false;
    vm = vmm_machine_open(cli->operands[1], cli->connect, error);
    if (!vm)
        return false;
    cli_signals_hold(cli);
    agent = cli_agent_connect(cli, vm, cli->operands[1], timeout_ms, error);
    return agent && action->ask(cli, agent, error);
}

// Whether it is the disks that are meant, by what the operands are and whether the domain runs.
static bool choose(struct cli *cli, const struct action *action, bool *ret_disk, GError **error)
{
    const char *operand = cli->operands[1];
    bool disk = cli_agent_is_disk(operand), bare = g_str_has_prefix(operand, "qmp:");

    for (int i = 2; i < cli->n_operands; i++) {
        if (!disk || !cli_agent_is_disk(cli->operands[i]))
            return fail_usage(error, "'%s' is one too many: only of disks there may be several",
                              cli->operands[i]);
    }
    if (disk && !action->on_disk)
        return fail_usage(error, "'%s' is a disk, and no guest that runs", operand);
    if (bare && !action->ask)
        return fail_usage(error,
                          "'%s' runs, and its disk is its own: shut it down and name the "
                          "disk",
                          operand);
    *ret_disk = disk || !action->ask;
    if (*ret_disk || bare || !action->on_disk)
        return true;
    return cli_agent_is_off(cli, operand, ret_disk, error);
}

static bool act(struct cli *cli, double timeout, struct cli_agent_place *place, GError **error)
{
    bool disk;
    size_t i = 0;

    while (i < G_N_ELEMENTS(actions) && strcmp(actions[i].name, cli->operands[0]) != 0)
        i++;
    if (i == G_N_ELEMENTS(actions))
        return fail_usage(error, "'%s' is none of status, install, remove, release, abort",
                          cli->operands[0]);
    if (!choose(cli, &actions[i], &disk, error))
        return false;
    place->operands = cli->operands + 1;
    return disk ? actions[i].on_disk(cli, place, error) : ask(cli, &actions[i], timeout, error);
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    double timeout = CLI_AGENT_TIMEOUT_S;
    g_autofree char *agent = NULL, *format = NULL;
    const GOptionEntry entries[] = {
        {"agent", 0, 0, G_OPTION_ARG_FILENAME, &agent,
         "install: this agent (default: the one that came with vmgraft)", "FILE"},
        {"format", 0, 0, G_OPTION_ARG_STRING, &format,
         "Of DISK, as raw or qcow2 (default: what the image says of itself)", "FORMAT"},
        CLI_AGENT_TIMEOUT_OPTION(&timeout),
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (!cli_parse(cli, entries, argc, argv, &exit))
        return exit;
    if (!cli_agent_is_disk(cli->operands[1]) &&
        cli_remote_wanted(cli, cli->operands[1], cli->connect)) {
        if (!agent)
            return cli_remote_delegate(cli, NULL, (struct cli_remote_image){-1, -1});
        fail_usage(&error, "--agent %s is a file of this host, and the domain is on another",
                   agent);
        return cli_fail(cli, error);
    }
    struct cli_agent_place place = {.agent = agent, .format = format};

    return act(cli, timeout, &place, &error) ? cli_done(cli) : cli_fail(cli, error);
}

const struct cli_command cli_cmd_agent = {
    .name = "agent",
    .operands = "status|install|remove|release|abort TARGET|DISK...",
    .min_operands = 2,
    .max_operands = 64,
    .has_json = true,
    .has_target = true,
    .summary = "Install the agent in a guest, ask it, or settle an interrupted move",
    .about =
        "status   is the agent there, and which version? Of a guest that runs: what does it hold?\n"
        "install  put the agent and its service into a guest that is shut down, and the port into\n"
        "         the domain's XML; what is there already stays\n"
        "remove   take away what install has put there\n"
        "release  let a process run that was prepared by a move whose vmgraft vanished\n"
        "abort    remove such a process\n"
        "\n"
        "DISK is the image of a guest that is shut down, or a block device, as a path with a "
        "slash;\n"
        "several of one guest may be named. libguestfs does the work, in some seconds. A disk "
        "that\n"
        "a running guest uses is never opened for writing. The guest's services are started by\n"
        "systemd, OpenRC or sysvinit; status says which, and whether the agent is among them.",
    .examples = "  vmgraft agent install web && virsh start web\n"
                "  vmgraft agent status web\n"
                "  vmgraft agent install --agent ./vmgraft-agent --format qcow2 ./guest.qcow2\n"
                "  vmgraft agent remove web\n"
                "  vmgraft agent status qmp:/run/b.sock",
    .run = run,
};
