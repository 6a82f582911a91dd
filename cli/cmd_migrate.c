// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft migrate: a process leaves one guest and goes on in another.
#include <fcntl.h>

#include "cli/agent_client.h"
#include "cli/arrival.h"
#include "cli/channel.h"
#include "cli/diskread.h"
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

#define HIDDEN(name, type, variable)                                                               \
    {                                                                                              \
        name, 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_##type, (variable), NULL, NULL                 \
    }

// How both sides are called, here and, where another vmgraft does the work, there.
struct names {
    char *connect_to; // as given
    gboolean stream;  // hidden, as are these: the target's channel is descriptor 3
    char *shown[2], *words[2];
};

static void clear_names(struct names *n)
{
    g_free(n->connect_to);
    for (size_t i = 0; i < 2; i++) {
        g_free(n->shown[i]);
        g_free(n->words[i]);
    }
}

// Unless we were told.
static void name_sides(struct cli *cli, struct names *n, struct cli_move_options *o)
{
    struct cli_move_side *const sides[] = {&o->source, &o->target};

    o->source = (struct cli_move_side){.operand = cli->operands[0], .uri = cli->connect};
    o->target = (struct cli_move_side){
        .operand = cli->operands[2],
        .uri = n->connect_to && !cli->here ? n->connect_to : cli->connect,
    };
    for (size_t i = 0; i < G_N_ELEMENTS(sides); i++) {
        struct cli_move_side *s = sides[i];

        if (!n->shown[i])
            n->shown[i] = cli_remote_shown(cli, s->operand, s->uri);
        if (!n->words[i])
            n->words[i] = cli_remote_words(cli, s->operand, s->uri);
        s->shown = n->shown[i];
        s->words = n->words[i];
    }
}

// The source is on another host, and so is the vmgraft that moves it: of the two links that a move
// has, the one to the source does not break. The target's agent is reached from here.
static enum cli_exit run_there(struct cli *cli, const struct cli_move_options *o,
                               const struct names *n)
{
    const char *const names[] = {"--source-shown", "--target-shown", "--source-words",
                                 "--target-words"};
    const char *const values[] = {n->shown[0], n->shown[1], n->words[0], n->words[1]};
    const bool same = cli_remote_wanted(cli, o->target.operand, o->target.uri) &&
                      g_strcmp0(o->source.uri, o->target.uri) == 0;
    g_autoptr(GPtrArray) extra = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    struct cli_remote_image channel = {-1, -1};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        g_ptr_array_add(extra, g_strconcat(names[i], "=", values[i], NULL));
    if (!same) {
        g_ptr_array_add(extra, g_strdup("--stream"));
        if (!cli_channel_start(cli, o->target.operand, o->target.uri, &channel.from, &error))
            return cli_fail(cli, error);
        channel.to = fcntl(channel.from, F_DUPFD_CLOEXEC, CLI_STREAM_FD + 1);
    }
    g_ptr_array_add(extra, NULL);
    return cli_remote_delegate(cli, (const char *const *)extra->pdata, channel);
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    double timeout = CLI_AGENT_TIMEOUT_S, deadline = CLI_CAPTURE_DEADLINE_S;
    gboolean copy = FALSE, disks = FALSE, new_pid_namespace = FALSE;
    g_auto(GStrv) allow = NULL;
    g_auto(cli_carry) carry = {0};
    struct names names = {0};
    const GOptionEntry entries[] = {
        {"copy", 0, 0, G_OPTION_ARG_NONE, &copy,
         "The original lives on (needs no agent in the source)", NULL},
        {"new-pid-namespace", 0, 0, G_OPTION_ARG_NONE, &new_pid_namespace,
         "Keep the pids, in a pid namespace of their own", NULL},
        {"allow", 0, 0, G_OPTION_ARG_STRING_ARRAY, &allow,
         "Accept to lose what is refused by this name (more below)", "KIND[,KIND]"},
        CLI_CARRY_OPTIONS(&carry),
        CLI_DISKS_OPTION(&disks),
        {"deadline", 0, 0, G_OPTION_ARG_DOUBLE, &deadline,
         "Give up when no moment within this time was safe (default 10)", "SECONDS"},
        CLI_AGENT_TIMEOUT_OPTION(&timeout),
        {"connect-to", 0, 0, G_OPTION_ARG_STRING, &names.connect_to,
         "Where TARGET lives, if not where --connect says", "URI"},
        HIDDEN("stream", NONE, &names.stream),
        HIDDEN("source-shown", STRING, &names.shown[0]),
        HIDDEN("target-shown", STRING, &names.shown[1]),
        HIDDEN("source-words", STRING, &names.words[0]),
        HIDDEN("target-words", STRING, &names.words[1]),
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) kinds = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    struct cli_move_options o = {.allow = kinds};
    struct cli_move_result result = {0};
    enum cli_exit exit;

    if (!cli_parse(cli, entries, argc, argv, &exit)) {
        clear_names(&names);
        return exit;
    }
    name_sides(cli, &names, &o);
    o.target_channel = cli->here && names.stream ? CLI_STREAM_FD : -1;
    o.copy = copy;
    o.disks = disks;
    o.new_pid_namespace = new_pid_namespace;
    o.process = cli->operands[1];
    if (!cli_parse_allow(allow, kinds, &error) ||
        !cli_parse_carry(&carry, &o.carry_bytes, &error) || !cli_select_check(o.process, &error) ||
        !cli_check_seconds(deadline, "--deadline", &o.deadline_ms, &error) ||
        !cli_check_seconds(timeout, "--agent-timeout", &o.timeout_ms, &error)) {
        exit = cli_fail(cli, error);
    } else if (cli_remote_wanted(cli, o.source.operand, o.source.uri)) {
        exit = run_there(cli, &o, &names);
    } else if (cli_move(cli, &o, &result, reasons, &error)) {
        report(cli, &o, &result);
        exit = cli_done(cli);
    } else {
        exit = cli_fail_refused(cli, error, reasons);
    }
    cli_move_result_clear(&result);
    clear_names(&names);
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
                "  vmgraft migrate web 1234 web2 --connect-to qemu+ssh://root@hostb/system\n"
                "  vmgraft migrate -c qemu+ssh://hosta/system web name:nginx web \\\n"
                "      --connect-to qemu+ssh://hostb/system\n"
                "  vmgraft migrate --copy qmp:/run/a.sock 1234 qmp:/run/b.sock",
    .run = run,
};
