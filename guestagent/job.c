// SPDX-License-Identifier: GPL-2.0-or-later
// A worker's end of the socket to the agent.
#include "guestagent/job.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

enum agent_job_wait agent_job_wait(struct agent_job *job, int signal_fd, int timeout_ms,
                                   struct agent_frame *ret)
{
    for (;;) {
        struct pollfd fds[] = {{job->fd, POLLIN, 0}, {signal_fd, POLLIN, 0}};
        enum agent_wire_result got = agent_wire_next(job->wire, ret);
        int n;

        if (got != AGENT_WIRE_MORE)
            return got == AGENT_WIRE_FRAME ? AGENT_JOB_FRAME : AGENT_JOB_EOF;
        n = poll(fds, G_N_ELEMENTS(fds), timeout_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return AGENT_JOB_TIMEOUT;
        if (fds[1].revents)
            return AGENT_JOB_SIGNAL;
        if (agent_wire_read(job->wire, job->fd) <= 0)
            return AGENT_JOB_EOF;
    }
}

void agent_job_send(struct agent_job *job, enum agent_message type, struct json_object *take)
{
    agent_wire_queue_json(job->wire, type, take);
    agent_wire_write(job->wire, job->fd);
}

void agent_job_fail(struct agent_job *job, const char *message)
{
    struct json_object *obj = json_object_new_object();

    json_object_object_add(obj, "message", json_object_new_string(message));
    agent_job_send(job, AGENT_FAILED, obj);
}
