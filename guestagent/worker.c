// SPDX-License-Identifier: GPL-2.0-or-later
// Forking a process for a job.
#include "guestagent/worker.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/fork.h"
#include "guestagent/job.h"

static void run_job(int fd, const struct agent_frame *request)
{
    struct agent_job job = {.wire = agent_wire_new(AGENT_SIDE_AGENT), .fd = fd};
    g_autoptr(GError) error = NULL;
    struct json_object *json = agent_frame_json(request, &error);
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (!json)
        agent_job_fail(&job, error->message);
    else if (request->type == AGENT_RESTORE)
        agent_job_restore(&job, json);
    else
        agent_job_freeze(&job, json);
    json_object_put(json);
    agent_wire_free(job.wire);
}

AgentWorker *agent_worker_start(const struct agent_frame *request, GError **error)
{
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        agent_set_errno(error, AGENT_ERROR_FAILED, "socketpair");
        return NULL;
    }
    pid = agent_fork_high(0);
    if (pid == 0) {
        // Only the socket is kept: restored processes must not inherit the port.
        dup2(pair[1], 3);
        close_range(4, ~0u, 0);
        run_job(3, request);
        _exit(EXIT_SUCCESS);
    }
    close(pair[1]);
    if (pid < 0) {
        agent_set_errno(error, AGENT_ERROR_FAILED, "fork");
        close(pair[0]);
        return NULL;
    }

    AgentWorker *w = g_new0(AgentWorker, 1);

    w->pid = pid;
    w->fd = pair[0];
    fcntl(w->fd, F_SETFL, O_NONBLOCK);
    w->wire = agent_wire_new(AGENT_SIDE_HOST);
    return w;
}

void agent_worker_free(AgentWorker *w)
{
    if (!w)
        return;
    close(w->fd);
    agent_wire_free(w->wire);
    g_free(w->note);
    g_free(w);
}

void agent_worker_close(AgentWorker *w)
{
    w->closing = true;
    agent_worker_flush(w);
}

void agent_worker_flush(AgentWorker *w)
{
    bool dead = agent_wire_write(w->wire, w->fd) < 0;

    if (w->closing && (dead || agent_wire_pending(w->wire) == 0))
        shutdown(w->fd, SHUT_WR);
}
