// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft restore: an image becomes a running process of a guest.
#include <string.h>
#include <unistd.h>

#include "cli/agent_client.h"
#include "cli/arrival.h"
#include "cli/input.h"
#include "cli/place.h"
#include "cli/remote.h"
#include "cli/signals.h"
#include "formats/stream.h"

struct restore {
    gboolean new_pid_namespace;
    int64_t timeout_ms;
    GPtrArray *notes, *reasons; // char *
    GArray *pids;
};

// How long the image waited. -1 where it does not say when it was taken.
static int64_t asleep_ns(FmtImage *img)
{
    const int64_t taken = fmt_image_head(img)->taken_ns;

    return taken ? MAX(g_get_real_time() * 1000 - taken, 0) : -1;
}

// Whether an agent answers: whoever writes into our pipe is spared an image that nobody takes.
static bool probe(struct cli *cli, const struct restore *r, GError **error)
{
    g_auto(cli_guest) target = {0};
    g_autoptr(CliAgent) agent = NULL;

    if (!cli_guest_open_target(cli, cli->operands[1], cli->connect, false, &target, error))
        return false;
    agent = cli_agent_connect(cli, target.vm, cli->operands[1], r->timeout_ms, error);
    return agent != NULL;
}

static bool restore(struct cli *cli, struct restore *r, GError **error)
{
    g_autoptr(FmtImage) img = NULL;
    g_auto(cli_guest) target = {0};
    g_autoptr(CliAgent) agent = NULL;
    bool placeable;

    if ((cli->here || (strcmp(cli->operands[0], "-") == 0 && !isatty(STDIN_FILENO))) &&
        !probe(cli, r, error))
        return false;
    img = cli->here ? cli_load_image_here(error) : cli_load_image(cli->operands[0], error);
    placeable = img && cli_place_bytes(img) >= CLI_PLACE_MIN_BYTES;

    if (!img ||
        !cli_guest_open_target(cli, cli->operands[1], cli->connect, placeable, &target, error))
        return false;
    const struct cli_agent_restore_options options = {
        .new_pid_namespace = r->new_pid_namespace,
        .elapsed_ns = -1,
        .asleep_ns = asleep_ns(img),
        .target = target.kernel ? &target : NULL,
    };
    cli_signals_hold(cli);
    agent = cli_agent_connect(cli, target.vm, cli->operands[1], r->timeout_ms, error);
    if (!agent || !cli_agent_check_free(agent, error))
        return false;
    if (cli_agent_restore(agent, img, &options, r->notes, r->reasons, error) &&
        cli_agent_release(agent, r->pids, error))
        return true;
    if (!g_error_matches(*error, CLI_ERROR, CLI_ERROR_REFUSED) && !cli_agent_abort(agent, NULL))
        cli_warn("%s: the agent does not confirm that nothing is left there; it undoes its work "
                 "as soon as it notices that we are gone",
                 cli->operands[1]);
    return false;
}

// On the host of the domain; the image comes from here.
static enum cli_exit restore_there(struct cli *cli)
{
    g_autoptr(GError) error = NULL;
    int fd = cli_open_image(cli->operands[0], &error);

    if (fd < 0)
        return cli_fail(cli, error);
    return cli_remote_delegate(cli, NULL, (struct cli_remote_image){fd, -1});
}

static void report(struct cli *cli, const struct restore *r)
{
    cli_print_notes(cli, r->notes);
    if (cli->json) {
        struct json_object *obj = json_object_new_object();

        json_object_object_add(obj, "result", json_object_new_string("restored"));
        cli_arrival_add_json(obj, r->pids, r->notes);
        cli_print_json(obj);
    } else {
        cli_note(cli, "%s: runs as pid %u", cli->operands[1],
                 r->pids->len > 0 ? g_array_index(r->pids, uint32_t, 0) : 0);
    }
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    double timeout = CLI_AGENT_TIMEOUT_S;
    g_autoptr(GPtrArray) notes = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) pids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    struct restore r = {.notes = notes, .reasons = reasons, .pids = pids};
    const GOptionEntry entries[] = {
        {"new-pid-namespace", 0, 0, G_OPTION_ARG_NONE, &r.new_pid_namespace,
         "Keep the pids, in a pid namespace of their own", NULL},
        CLI_AGENT_TIMEOUT_OPTION(&timeout),
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (!cli_parse(cli, entries, argc, argv, &exit))
        return exit;
    if (cli_remote_wanted(cli, cli->operands[1], cli->connect))
        return restore_there(cli);
    if (!cli_check_seconds(timeout, "--agent-timeout", &r.timeout_ms, &error) ||
        !restore(cli, &r, &error))
        return cli_fail_refused(cli, error, reasons);
    report(cli, &r);
    return cli_done(cli);
}

const struct cli_command cli_cmd_restore = {
    .name = "restore",
    .operands = "FILE TARGET",
    .min_operands = 2,
    .max_operands = 2,
    .has_json = true,
    .has_target = true,
    .summary = "Bring the process in an image back to life in a guest",
    .about =
        "The guest must run vmgraft-agent. It checks first whether all that the process needs\n"
        "is there: files, pids, CPU and kernel features; what is missing is refused, all of it\n"
        "in one list. The process runs when everything is in place; a failure leaves nothing\n"
        "behind. FILE may be - for standard input.",
    .examples = "  vmgraft restore job.vmg qmp:/run/b.sock\n"
                "  vmgraft restore --new-pid-namespace job.vmg qmp:/run/b.sock\n"
                "  zstd -dc job.vmg.zst | vmgraft restore - qmp:/run/b.sock\n"
                "  vmgraft capture web 4009 -o - | ssh HOST vmgraft restore - web2",
    .run = run,
};
