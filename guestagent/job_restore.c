// SPDX-License-Identifier: GPL-2.0-or-later
// The job behind RESTORE: feeds the image stream to the restore engine as it comes.
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "formats/stream.h"
#include "guestagent/job.h"
#include "guestagent/restore.h"

#define PROGRESS_EVERY_BYTES (4u << 20)

struct restore_job {
    struct agent_job *job;
    struct agent_restore_options options;
    FmtDecoder *decoder;
    AgentRestore *restore; // NULL before the plan and after the end
    GPtrArray *notes;
    GArray *pids;
    uid_t stranger; // once `pids` are let go
    uint64_t done_bytes, told_bytes;
    bool placing;  // some pages wait for their contents from outside
    bool complete; // END has been seen, all is prepared
    bool over;     // the last answer has been given
};

static GPtrArray *sentences(const GPtrArray *refusals)
{
    GPtrArray *list = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < refusals->len; i++) {
        const struct agent_refusal *r = g_ptr_array_index(refusals, i);
        GString *s = g_string_new(NULL);

        if (r->pid > 0)
            g_string_append_printf(s, "pid %" G_GUINT64_FORMAT, r->pid);
        if (r->fd >= 0)
            g_string_append_printf(s, " fd %" G_GINT64_FORMAT, r->fd);
        g_string_append_printf(s, "%s%s: %s", s->len > 0 ? ": " : "", r->kind, r->text);
        g_ptr_array_add(list, g_string_free(s, FALSE));
    }
    return list;
}

static void send_list(struct restore_job *rj, enum agent_message type, const char *key,
                      const GPtrArray *refusals)
{
    g_autoptr(GPtrArray) list = sentences(refusals);

    agent_job_send(rj->job, type, agent_json_strings(key, list));
}

static bool on_meta(FmtImage *img, void *user, GError **error)
{
    struct restore_job *rj = user;
    g_autoptr(GPtrArray) refusals = agent_refusal_list_new();

    rj->restore = agent_restore_plan(img, &rj->options, refusals, rj->notes, error);
    if (!rj->restore) {
        if (refusals->len > 0) {
            send_list(rj, AGENT_REFUSED, "reasons", refusals);
            rj->over = true;
        }
        return false;
    }
    send_list(rj, AGENT_PLANNED, "notes", rj->notes);
    return agent_restore_build(rj->restore, error);
}

static bool on_pages(const struct fmt_pages *pages, uint64_t offset_bytes, const void *data,
                     uint64_t size_bytes, void *user, GError **error)
{
    struct restore_job *rj = user;

    rj->placing |= pages->kind == FMT_PAGES_PLACED;
    return agent_restore_pages(rj->restore, pages, offset_bytes, data, size_bytes, error);
}

static const struct fmt_decoder_ops decoder_ops = {
    .meta = on_meta,
    .pages = on_pages,
};

static bool on_data(struct restore_job *rj, const struct agent_frame *frame, GError **error)
{
    if (!fmt_decoder_feed(rj->decoder, frame->payload, frame->length, error))
        return false;
    rj->done_bytes += frame->length;
    if (rj->done_bytes - rj->told_bytes >= PROGRESS_EVERY_BYTES) {
        struct json_object *obj = json_object_new_object();

        json_object_object_add(obj, "done_bytes", json_object_new_int64((int64_t)rj->done_bytes));
        agent_job_send(rj->job, AGENT_PROGRESS, obj);
        rj->told_bytes = rj->done_bytes;
    }
    return true;
}

static bool prepare(struct restore_job *rj, GError **error)
{
    if (!agent_restore_finish(rj->restore, error))
        return false;
    rj->complete = true;
    send_list(rj, AGENT_PREPARED, "notes", rj->notes);
    return true;
}

static struct json_object *spaces_json(const AgentRestore *restore)
{
    struct json_object *obj = json_object_new_object(), *list = json_object_new_array();
    g_autoptr(GArray) spaces = agent_restore_spaces(restore);

    for (guint i = 0; i < spaces->len; i++) {
        const struct agent_space *space = &g_array_index(spaces, struct agent_space, i);
        struct json_object *one = json_object_new_object();

        json_object_object_add(one, "mm", json_object_new_int64((int64_t)space->mm));
        json_object_object_add(one, "pid", json_object_new_int64(space->pid));
        json_object_array_add(list, one);
    }
    json_object_object_add(obj, "spaces", list);
    return obj;
}

static bool on_end_frame(struct restore_job *rj, const struct agent_frame *frame, GError **error)
{
    if (!fmt_decoder_finish(rj->decoder, error))
        return false;
    if (!rj->placing)
        return prepare(rj, error);
    if (!agent_restore_end_pages(rj->restore, error))
        return false;
    agent_job_send(rj->job, AGENT_MARKED, spaces_json(rj->restore));
    return true;
}

static bool on_placed(struct restore_job *rj, const struct agent_frame *frame, GError **error)
{
    if (!rj->placing || !fmt_decoder_finish(rj->decoder, error)) {
        g_clear_error(error);
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_PROTOCOL, "nothing was to be placed");
        return false;
    }
    return prepare(rj, error);
}

static bool on_hold(struct restore_job *rj, const struct agent_frame *frame, GError **error)
{
    agent_job_send(rj->job, AGENT_HELD, NULL);
    return true;
}

static bool on_release(struct restore_job *rj, const struct agent_frame *frame, GError **error)
{
    rj->stranger = agent_restore_stranger(rj->restore);
    if (!agent_restore_release(rj->restore, &rj->pids, error))
        return false;
    rj->restore = NULL;
    rj->over = true;
    agent_job_send(rj->job, AGENT_RELEASED, agent_json_pids("pids", rj->pids));
    return true;
}

// Nothing may be left when the host is told so, not even a pid: what had become an orphan is waited
// for here, as init may take its time.
static void undo(struct restore_job *rj)
{
    agent_restore_abort(g_steal_pointer(&rj->restore));
    while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR)
        ;
}

static bool on_abort(struct restore_job *rj, const struct agent_frame *frame, GError **error)
{
    undo(rj);
    rj->over = true;
    agent_job_send(rj->job, AGENT_ABORTED, NULL);
    return true;
}

static const struct {
    enum agent_message type;
    bool complete; // comes after END, else before
    bool (*handle)(struct restore_job *rj, const struct agent_frame *frame, GError **error);
} handlers[] = {
    {AGENT_DATA, false, on_data},      {AGENT_END, false, on_end_frame},
    {AGENT_PLACED, false, on_placed},  {AGENT_HOLD, true, on_hold},
    {AGENT_RELEASE, true, on_release}, {AGENT_ABORT, false, on_abort},
    {AGENT_ABORT, true, on_abort},
};

static bool handle(struct restore_job *rj, const struct agent_frame *frame, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(handlers); i++) {
        if (handlers[i].type == frame->type && handlers[i].complete == rj->complete)
            return handlers[i].handle(rj, frame, error);
    }
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_PROTOCOL,
                "'%s' cannot come %s the image is complete", agent_message_name(frame->type),
                rj->complete ? "after" : "before");
    return false;
}

// Contents are compared as they come in, long after the plan.
static void refuse(struct restore_job *rj, const GError *error, const char *kind)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(g_free);

    g_ptr_array_add(list, g_strdup_printf("%s: %s", kind, error->message));
    agent_job_send(rj->job, AGENT_REFUSED, agent_json_strings("reasons", list));
}

void agent_job_restore(struct agent_job *job, struct json_object *request)
{
    struct restore_job rj = {
        .job = job,
        .options =
            {
                .new_pid_namespace = agent_json_bool(request, "new_pid_namespace"),
                .elapsed_ns = agent_json_int(request, "elapsed_ns", -1),
                .asleep_ns = agent_json_int(request, "asleep_ns", -1),
                .told_ns = g_get_monotonic_time() * 1000,
                .place_nonce = (uint64_t)agent_json_int(request, "place_nonce", 0),
            },
        .notes = agent_refusal_list_new(),
    };
    g_autoptr(GError) error = NULL;
    struct agent_frame frame;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    rj.decoder = fmt_decoder_new(&decoder_ops, &rj);
    while (!rj.over && !error && agent_job_wait(job, -1, -1, &frame) == AGENT_JOB_FRAME) {
        if (!handle(&rj, &frame, &error)) {
            undo(&rj);
            if (!rj.over && g_error_matches(error, AGENT_ERROR, AGENT_ERROR_MISMATCH))
                refuse(&rj, error, "file-contents");
            else if (!rj.over)
                agent_job_fail(job, error ? error->message : "the image cannot be restored");
            rj.over = true;
        }
    }
    if (!rj.over) // the host is gone
        undo(&rj);
    fmt_decoder_free(rj.decoder);
    g_ptr_array_unref(rj.notes);
    if (rj.pids) {
        g_array_unref(rj.pids);
        agent_restore_part(rj.stranger);
    }
}
