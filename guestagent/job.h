// SPDX-License-Identifier: GPL-2.0-or-later
// What a session has the agent do, each in a process of its own: restoring, freezing.
#pragma once

#include "guestagent/protocol.h"

/*
 * The agent forks one worker for each job. The worker reads the session's messages from a socket
 * and answers on it; the agent passes both on. So a crash in a job is an answer to the host, not
 * the end of the agent, and takes everything that the job traces with it (restore) or lets it go
 * (freeze). End of file on the socket stands for ABORT.
 */
struct agent_job {
    AgentWire *wire;
    int fd;
};

enum agent_job_wait { AGENT_JOB_FRAME, AGENT_JOB_EOF, AGENT_JOB_TIMEOUT, AGENT_JOB_SIGNAL };

// Waits for the next message. timeout_ms -1: for ever. signal_fd may be -1; SIGNAL: it is readable.
enum agent_job_wait agent_job_wait(struct agent_job *job, int signal_fd, int timeout_ms,
                                   struct agent_frame *ret);
// Sends, blocking. The agent being gone is no error here: the next wait tells.
void agent_job_send(struct agent_job *job, enum agent_message type, struct json_object *take);
void agent_job_fail(struct agent_job *job, const char *message);

// The jobs, entered in the worker with the parsed request; they return when all is over.
void agent_job_restore(struct agent_job *job, struct json_object *request);
void agent_job_freeze(struct agent_job *job, struct json_object *request);
