// SPDX-License-Identifier: GPL-2.0-or-later
// A move from guest to guest as a two-phase commit: at every point of failure one copy lives.
#include "cli/move.h"

#include <string.h>

#include "cli/agent_client.h"
#include "cli/channel.h"
#include "cli/diskread.h"
#include "cli/place.h"
#include "cli/refusal.h"
#include "cli/select.h"
#include "cli/signals.h"
#include "formats/stream.h"
#include "introspect/process.h"

#define SLEEPER_LOOKS   5
#define SLEEPER_LOOK_US 1000
#define SETTLE_LOOKS    50
#define SETTLE_EVERY_US 200000

enum phase {
    PHASE_BEGUN,
    PHASE_FROZEN,    // the source stands still
    PHASE_BUILDING,  // the target may have a part of it
    PHASE_HELD,      // the target has all of it, and keeps it
    PHASE_FINISHING, // FINISH was sent
    PHASE_FINISHED,  // the original is dead
};

struct move {
    struct cli *cli;
    struct cli_move_options *options;
    const char *source_name, *target_name; // as shown
    cli_guest source;
    cli_guest target;
    CliAgent *source_agent, *target_agent; // source_agent is NULL for a copy
    CliDiskReader *disks;                  // NULL where they are not asked for
    enum phase phase;
    GArray *pids; // uint32_t, of the original tree
    uint32_t tracer_pid;
    IntroSleepers *sleepers; // NULL where they could not be read
    int64_t still_since_ns;
    FmtImage *img;
    GPtrArray *reasons;
    struct cli_move_result *result;
};

static bool refuse(struct move *m, GError **error, const char *kind, const char *text)
{
    g_ptr_array_add(m->reasons, cli_reason(0, -1, kind, text));
    g_set_error(error, CLI_ERROR, CLI_ERROR_REFUSED,
                "%s: the process cannot be moved:", m->source_name);
    return false;
}

static bool connect_source_agent(struct move *m, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autofree char *text = NULL;

    if (vmm_machine_why_stopped(m->source.vm)) {
        text = g_strdup_printf("the source guest does not run, as %s, so its agent cannot end the "
                               "original: --copy would do without",
                               vmm_machine_why_stopped(m->source.vm));
        return refuse(m, error, "source-paused", text);
    }
    if (vmm_machine_is_paused(m->source.vm))
        return refuse(m, error, "source-paused",
                      "the source guest is paused, so its agent cannot end the "
                      "original: let it run or pass --copy");
    m->source_agent =
        cli_agent_connect(m->cli, m->source.vm, m->source_name, m->options->timeout_ms, &why);
    if (m->source_agent)
        return true;
    if (g_error_matches(why, CLI_ERROR, CLI_ERROR_INTERRUPTED)) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    text = g_strdup_printf("the source guest runs no agent that could end the original, "
                           "and --copy would do without: %s",
                           why->message);
    return refuse(m, error, "source-agent", text);
}

static bool is_far(const struct move *m)
{
    const struct cli_move_side *target = &m->options->target;

    return m->options->target_channel >= 0 ||
           cli_remote_wanted(m->cli, target->operand, target->uri);
}

// The channel to an agent that is not reached from this process.
static GSocketConnection *open_channel(struct move *m, GError **error)
{
    const struct cli_move_side *target = &m->options->target;
    int fd = m->options->target_channel;

    if (m->cli->here && fd < 0) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: the way there is gone", target->shown);
        return NULL;
    }
    m->options->target_channel = -1; // it can be taken once
    if (fd < 0 && !cli_channel_start(m->cli, target->operand, target->uri, &fd, error))
        return NULL;
    return cli_channel_await(m->cli, fd, error);
}

static bool connect_target(struct move *m, GError **error)
{
    const int64_t timeout_ms = m->options->timeout_ms;
    GSocketConnection *channel;

    if (m->target.vm) {
        m->target_agent =
            cli_agent_connect(m->cli, m->target.vm, m->target_name, timeout_ms, error);
    } else {
        channel = open_channel(m, error);
        if (channel)
            m->target_agent = cli_agent_attach(m->cli, channel, m->target_name, timeout_ms, error);
    }
    return m->target_agent != NULL;
}

static bool open_both(struct move *m, GError **error)
{
    const struct cli_move_side *source = &m->options->source, *target = &m->options->target;
    struct cli *cli = m->cli;

    if (strcmp(source->operand, target->operand) == 0 && g_strcmp0(source->uri, target->uri) == 0 &&
        !is_far(m)) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "source and target are the same guest");
        return false;
    }
    if ((!is_far(m) &&
         !cli_guest_open_target(cli, target->operand, target->uri, true, &m->target, error)) ||
        !cli_guest_open(cli, source->operand, &m->source, error))
        return false;
    m->source.target = m->source_name;
    cli_signals_hold(cli);
    if (!cli_select(cli, &m->source, m->options->process, &m->options->pid, error))
        return false;
    // Takes seconds, in which no agent should have to wait.
    if (m->options->disks && (!(m->disks = cli_disk_reader_open(cli, &m->source, error)) ||
                              cli_signals_check(cli, error)))
        return false;
    if (!m->options->copy && !connect_source_agent(m, error))
        return false;
    return connect_target(m, error) && cli_agent_check_free(m->target_agent, error);
}

// A freeze wakes up who sleeps. One who is expected to sleep on is told for how long; others start
// over, which is worth a few pauses but no failure.
static void note_sleepers(struct move *m)
{
    g_autoptr(GError) error = NULL;

    for (int i = 0; i < SLEEPER_LOOKS && !m->sleepers; i++) {
        g_autoptr(GArray) vcpus = NULL;
        struct vmm_clock clock;

        g_clear_error(&error);
        if (cli_guest_pause(&m->source, &error) &&
            (vcpus = vmm_machine_read_vcpus(m->source.vm, &error)) &&
            vmm_machine_read_clock(m->source.vm, &clock, &error))
            m->sleepers =
                intro_sleepers_read(m->source.kernel, m->options->pid, vcpus, &clock, &error);
        if (!vmm_machine_resume(m->source.vm, NULL))
            break;
        g_usleep(SLEEPER_LOOK_US);
    }
    if (!m->sleepers)
        cli_debug(m->cli, "%s: timeouts may start over: %s", m->source_name,
                  error ? error->message : "the guest does not go on");
}

// The agent refuses. What the capture would refuse as well is to be told along with that; whether
// it would succeed does not matter.
static void add_refusals(struct move *m)
{
    const struct intro_capture_options options = {
        .pid = m->options->pid,
        .records_only = true,
        .allow = m->options->allow,
        .disks = m->disks ? cli_disk_reader(m->disks) : NULL,
        .source = m->source_name,
    };
    struct cli_capture_stats stats;

    fmt_image_unref(cli_capture(m->cli, &m->source, &options, m->options->deadline_ms,
                                CLI_AFTER_RESUME, &stats, m->reasons, NULL));
}

static bool freeze(struct move *m, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (m->options->copy)
        return true;
    note_sleepers(m);
    if (!cli_agent_freeze(m->source_agent, m->options->pid, m->pids, &m->tracer_pid, m->reasons,
                          &why)) {
        if (g_error_matches(why, CLI_ERROR, CLI_ERROR_REFUSED))
            add_refusals(m);
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    m->still_since_ns = cli_now_ns();
    m->phase = PHASE_FROZEN;
    cli_debug(m->cli, "%s: %u processes are frozen", m->source_name, m->pids->len);
    return true;
}

static void add_losses(struct move *m)
{
    const struct fmt_note *note;

    for (size_t i = 0; FMT_NEXT(m->img, NOTE, i, note); i++)
        if (note->level != FMT_NOTE_INFO)
            g_ptr_array_add(m->result->notes,
                            cli_reason(note->pid, note->fd, note->kind, note->text));
}

static bool capture(struct move *m, GError **error)
{
    const struct intro_capture_options options = {
        .pid = m->options->pid,
        .allow = m->options->allow,
        .carry_bytes = m->options->carry_bytes,
        .disks = m->disks ? cli_disk_reader(m->disks) : NULL,
        .frozen_by = m->tracer_pid,
        .source = m->source_name,
        .sleepers = m->sleepers,
    };

    m->img = cli_capture(m->cli, &m->source, &options, m->options->deadline_ms, CLI_AFTER_RESUME,
                         &m->result->capture, m->reasons, error);
    if (!m->img)
        return false;
    add_losses(m);
    if (m->options->copy)
        m->still_since_ns = m->result->capture.taken_ns;
    m->result->image_bytes = fmt_encoded_size(m->img);
    cli_debug(m->cli, "%s: paused %.1f ms", m->source_name,
              (double)m->result->capture.pause_ns / 1e6);
    return true;
}

static bool restore(struct move *m, GError **error)
{
    const struct cli_agent_restore_options options = {
        .new_pid_namespace = m->options->new_pid_namespace,
        .elapsed_ns = cli_now_ns() - m->result->capture.taken_ns,
        .asleep_ns = -1,
        .target =
            m->target.kernel && cli_place_bytes(m->img) >= CLI_PLACE_MIN_BYTES ? &m->target : NULL,
    };

    m->phase = PHASE_BUILDING;
    return cli_agent_restore(m->target_agent, m->img, &options, m->result->notes, m->reasons,
                             error);
}

static bool hold(struct move *m, GError **error)
{
    g_autofree char *note = NULL;

    if (m->options->copy)
        return true;
    note = g_strdup_printf("pid %u of %s", m->options->pid, m->source_name);
    // Also where no answer comes back.
    m->phase = PHASE_HELD;
    // Ctrl-C that has come by now stops the move for the last time.
    if (!cli_agent_hold(m->target_agent, note, error))
        return false;
    cli_debug(m->cli, "%s: holds the whole copy", m->target_name);
    return !cli_signals_check(m->cli, error);
}

/* ---- beyond the point of no return ---- */

enum fate { FATE_DEAD, FATE_LIVES, FATE_UNKNOWN };

// One look from outside at what has become of the original.
static enum fate look(struct move *m)
{
    g_autoptr(GPtrArray) list = NULL;
    enum fate fate = FATE_DEAD;

    if (!cli_guest_pause(&m->source, NULL))
        return FATE_UNKNOWN;
    list = intro_list_processes(m->source.kernel, false, NULL);
    if (!vmm_machine_resume(m->source.vm, NULL) || !list)
        return FATE_UNKNOWN;
    for (guint i = 0; i < list->len; i++) {
        const struct intro_process *p = g_ptr_array_index(list, i);

        for (guint j = 0; j < m->pids->len; j++) {
            if (p->pid != g_array_index(m->pids, uint32_t, j) || strchr("ZX", p->state))
                continue;
            if (p->state != 't' && !p->is_dying)
                return FATE_LIVES;
            fate = FATE_UNKNOWN; // not over; the agent that still holds it may yet do either
        }
    }
    return fate;
}

// FINISH was not answered. The agent obeys it or, when it finds us gone, lets the tree go on: which
// of the two is to be seen in the guest's memory.
static enum fate settle(struct move *m)
{
    enum fate fate = FATE_UNKNOWN;

    g_clear_pointer(&m->source_agent, cli_agent_free);
    for (int i = 0; i < SETTLE_LOOKS && fate == FATE_UNKNOWN; i++) {
        g_usleep(SETTLE_EVERY_US);
        fate = look(m);
    }
    return fate;
}

#define MAX_REMOVED 1000 // a message has room for more; who has so many keeps the rest

// Objects of IPC outlive processes: those that have gone along are to go from here.
static GPtrArray *things_to_remove(const FmtImage *img)
{
    static const char *const kinds[] = {
        [FMT_IPC_SEM] = "sem", [FMT_IPC_MSG] = "msg", [FMT_IPC_SHM] = "shm"};
    GPtrArray *things = g_ptr_array_new_with_free_func(g_free);
    const struct fmt_ipc *ipc;
    const struct fmt_mqueue *q;

    for (size_t i = 0; things->len < MAX_REMOVED && FMT_NEXT(img, IPC, i, ipc); i++)
        if (ipc->flags & FMT_IPC_OWNED && ipc->kind < G_N_ELEMENTS(kinds))
            g_ptr_array_add(things,
                            g_strdup_printf("%s %" G_GUINT64_FORMAT, kinds[ipc->kind], ipc->id));
    for (size_t i = 0; things->len < MAX_REMOVED && FMT_NEXT(img, MQUEUE, i, q); i++)
        if (!q->unlinked)
            g_ptr_array_add(things, g_strdup_printf("queue %s", q->name));
    return things;
}

static bool finish(struct move *m, GError **error)
{
    g_autoptr(GPtrArray) remove = things_to_remove(m->img);
    g_autoptr(GError) why = NULL;

    if (m->options->copy)
        return true;
    m->cli->committed = true;
    m->phase = PHASE_FINISHING;
    if (cli_agent_finish(m->source_agent, remove, &why)) {
        m->phase = PHASE_FINISHED;
        return true;
    }
    cli_warn("%s", why->message);
    switch (settle(m)) {
    case FATE_DEAD:
        cli_note(m->cli, "%s: the original is dead all the same: the move goes on", m->source_name);
        m->phase = PHASE_FINISHED;
        return true;
    case FATE_LIVES:
        m->phase = PHASE_HELD;
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "%s: the agent did not end the original, which lives on", m->source_name);
        return false;
    case FATE_UNKNOWN:
        break;
    }
    g_set_error(
        error, CLI_ERROR, CLI_ERROR_FAILED,
        "%s: it is not known whether the original is dead; %s holds the copy, stopped. Look "
        "with 'vmgraft ps %s', then 'vmgraft agent release %s' if it is dead, 'vmgraft "
        "agent abort %s' if it lives",
        m->source_name, m->target_name, m->options->source.words, m->options->target.words,
        m->options->target.words);
    return false;
}

// The target does not answer: once more, on a new channel, to one that holds the copy.
static bool connect_again(struct move *m, GError **error)
{
    g_clear_pointer(&m->target_agent, cli_agent_free);
    return connect_target(m, error) && cli_agent_info(m->target_agent)->held;
}

static bool release_again(struct move *m, GError **error)
{
    return connect_again(m, error) && cli_agent_release(m->target_agent, m->result->pids, error);
}

// The last copy that is certain is the one in our memory: it becomes a file.
static void rescue(struct move *m)
{
    g_autofree char *folder = g_get_current_dir();
    g_autofree char *path = g_strdup_printf("%s/vmgraft-rescue-%u.vmg", folder, m->options->pid);
    g_autoptr(GError) error = NULL;

    if (fmt_save(m->img, path, NULL, NULL, &error))
        cli_warn("the process was saved as %s: 'vmgraft restore' brings it back", path);
    else
        cli_warn("the process could not be saved either: %s", error->message);
}

static bool release(struct move *m, GError **error)
{
    g_autoptr(GError) why = NULL, again = NULL;

    if (cli_agent_release(m->target_agent, m->result->pids, &why))
        return true;
    if (m->options->copy) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    cli_warn("%s", why->message);
    if (release_again(m, &again))
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                "%s: the original is dead, and whether the copy runs here is not known: look with "
                "'vmgraft ps %s'",
                m->target_name, m->options->target.words);
    rescue(m);
    return false;
}

/* ---- the way back ---- */

// Nothing is lost by trying: the original goes on.
static bool abort_again(struct move *m)
{
    g_clear_pointer(&m->target_agent, cli_agent_free);
    return connect_target(m, NULL) &&
           (!cli_agent_info(m->target_agent)->held || cli_agent_abort(m->target_agent, NULL));
}

// Up to PHASE_HELD everything can be undone; from then on nothing is.
static void roll_back(struct move *m)
{
    const bool frozen = !m->options->copy && m->phase >= PHASE_FROZEN;
    bool gone = true, thawed = true;

    if (m->phase >= PHASE_FINISHING)
        return;
    if (m->phase >= PHASE_BUILDING)
        gone = cli_agent_abort(m->target_agent, NULL);
    if (frozen)
        thawed = m->source_agent && cli_agent_thaw(m->source_agent, NULL);
    // What holds does not notice that we have gone.
    if (!gone && m->phase == PHASE_HELD)
        gone = abort_again(m);
    if (!gone)
        cli_warn("%s: the agent does not confirm that nothing is left there%s%s", m->target_name,
                 m->phase == PHASE_HELD ? "; when it answers again: vmgraft agent abort "
                                        : "; it cleans up as soon as it notices that we are gone",
                 m->phase == PHASE_HELD ? m->options->target.words : "");
    if (!thawed)
        cli_warn("%s: the agent does not confirm that the process goes on; it lets it go as soon "
                 "as it notices that we are gone",
                 m->source_name);
    if (frozen && gone && thawed)
        cli_note(m->cli, "the process goes on in %s; nothing is left in %s", m->source_name,
                 m->target_name);
}

void cli_move_result_clear(struct cli_move_result *r)
{
    g_clear_pointer(&r->pids, g_array_unref);
    g_clear_pointer(&r->notes, g_ptr_array_unref);
}

bool cli_move(struct cli *cli, struct cli_move_options *options, struct cli_move_result *ret,
              GPtrArray *reasons, GError **error)
{
    static bool (*const steps[])(struct move * m, GError * *error) = {
        open_both, freeze, capture, restore, hold, finish, release,
    };
    struct move m = {
        .cli = cli,
        .options = options,
        .source_name = options->source.shown,
        .target_name = options->target.shown,
        .pids = g_array_new(FALSE, FALSE, sizeof(uint32_t)),
        .reasons = reasons,
        .result = ret,
    };
    int64_t start_ns = cli_now_ns();
    bool ok = true;

    ret->pids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    ret->notes = g_ptr_array_new_with_free_func(g_free);
    for (size_t i = 0; i < G_N_ELEMENTS(steps) && ok; i++)
        ok = steps[i](&m, error);
    if (!ok)
        roll_back(&m);
    ret->still_ns = cli_now_ns() - m.still_since_ns;
    ret->total_ns = cli_now_ns() - start_ns;

    cli_agent_free(m.source_agent);
    cli_agent_free(m.target_agent);
    intro_sleepers_free(m.sleepers);
    fmt_image_unref(m.img);
    g_array_unref(m.pids);
    cli_disk_reader_free(m.disks);
    cli_guest_clear(&m.target);
    cli_guest_clear(&m.source);
    return ok;
}
