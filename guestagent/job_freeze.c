// SPDX-License-Identifier: GPL-2.0-or-later
// The job behind FREEZE: holds a tree still until it is told THAW or FINISH.
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "guestagent/freeze.h"
#include "guestagent/job.h"
#include "guestagent/leave.h"

// A wait is counted in polls, not by a clock: a guest that is paused for a minute between two of
// them has not waited for a minute.
#define POLL_MS 100

static int open_sigchld(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void drain(int signal_fd)
{
    struct signalfd_siginfo info;

    while (read(signal_fd, &info, sizeof(info)) > 0)
        ;
}

static void send_frozen(struct agent_job *job, AgentFreeze *f)
{
    g_autoptr(GArray) pids = agent_freeze_pids(f);
    struct json_object *obj = agent_json_pids("pids", pids);

    json_object_object_add(obj, "threads", json_object_new_int64(agent_freeze_n_threads(f)));
    json_object_object_add(obj, "tracer_pid", json_object_new_int64(getpid()));
    agent_job_send(job, AGENT_FROZEN, obj);
}

// Steps until all are stopped. false: has answered, or the host has changed its mind.
static bool freeze_all(struct agent_job *job, AgentFreeze *f, int signal_fd, int64_t deadline_ms)
{
    g_autoptr(GPtrArray) refusals = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    struct agent_frame frame;
    int64_t waited_ms = 0;

    for (;;) {
        switch (agent_freeze_step(f, refusals, &error)) {
        case AGENT_FREEZE_DONE:
            return true;
        case AGENT_FREEZE_FAILED:
            agent_freeze_thaw(f);
            agent_job_fail(job, error->message);
            return false;
        case AGENT_FREEZE_AGAIN:
            if (waited_ms < deadline_ms)
                break;
            agent_freeze_explain(f, refusals);
            G_GNUC_FALLTHROUGH;
        case AGENT_FREEZE_REFUSED:
            agent_freeze_thaw(f);
            agent_job_send(job, AGENT_REFUSED, agent_json_strings("reasons", refusals));
            return false;
        }
        switch (agent_job_wait(job, signal_fd, POLL_MS, &frame)) {
        case AGENT_JOB_SIGNAL:
            drain(signal_fd);
            break;
        case AGENT_JOB_TIMEOUT:
            waited_ms += POLL_MS;
            break;
        case AGENT_JOB_FRAME:
        case AGENT_JOB_EOF:
            agent_freeze_thaw(f);
            agent_job_send(job, AGENT_ABORTED, NULL);
            return false;
        }
    }
}

// What is to be removed along with the tree. An older host says nothing of it.
static GPtrArray *read_finish(const struct agent_frame *frame)
{
    GPtrArray *leave = g_ptr_array_new_with_free_func(g_free);
    struct json_object *obj = frame->length ? agent_frame_json(frame, NULL) : NULL;

    if (obj)
        agent_json_get_strings(obj, "remove", leave);
    json_object_put(obj);
    return leave;
}

static void finish(struct agent_job *job, AgentFreeze *f, int signal_fd, const GPtrArray *leave)
{
    g_autoptr(GArray) pids = agent_freeze_pids(f);
    struct agent_frame frame;

    agent_freeze_kill(f);
    for (;;) {
        agent_freeze_reap(f);
        if (agent_freeze_n_threads(f) == 0)
            break;
        // Whatever the host says now, this goes on: SIGKILL cannot be taken back.
        if (agent_job_wait(job, signal_fd, POLL_MS, &frame) == AGENT_JOB_EOF)
            g_usleep(POLL_MS * 1000);
        drain(signal_fd);
    }
    agent_leave(leave);
    agent_job_send(job, AGENT_FINISHED, agent_json_pids("pids", pids));
}

void agent_job_freeze(struct agent_job *job, struct json_object *request)
{
    g_autoptr(AgentFreeze) f = agent_freeze_new((pid_t)agent_json_int(request, "pid", 0));
    int signal_fd = open_sigchld();
    struct agent_frame frame;
    enum agent_job_wait got;

    if (!freeze_all(job, f, signal_fd, agent_json_int(request, "deadline_ms", 5000)))
        return;
    send_frozen(job, f);
    do {
        got = agent_job_wait(job, signal_fd, -1, &frame);
        drain(signal_fd);
        agent_freeze_reap(f);
    } while (got == AGENT_JOB_SIGNAL || got == AGENT_JOB_TIMEOUT);

    if (got == AGENT_JOB_FRAME && frame.type == AGENT_FINISH) {
        g_autoptr(GPtrArray) leave = read_finish(&frame);

        if (!agent_freeze_was_signalled(f)) {
            finish(job, f, signal_fd, leave);
            return;
        }
        agent_freeze_thaw(f);
        agent_job_fail(job, "it was sent a signal while it was frozen, which the copy would never "
                            "get: the original goes on; try again");
        return;
    }
    agent_freeze_thaw(f);
    agent_job_send(
        job, got == AGENT_JOB_FRAME && frame.type == AGENT_THAW ? AGENT_THAWED : AGENT_ABORTED,
        NULL);
}
