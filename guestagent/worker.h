// SPDX-License-Identifier: GPL-2.0-or-later
// The agent's end of the socket to the process that does a job.
#pragma once

#include "guestagent/protocol.h"

typedef struct AgentWorker {
    pid_t pid;
    int fd;
    AgentWire *wire;
    bool held;    // HELD was sent to the host: survives the session
    bool ended;   // its last message has been passed on
    bool closing; // was told to undo everything; what it still says is dropped
    unsigned closing_ticks;
    char *note; // what the host said with HOLD
} AgentWorker;

// Starts the worker for a RESTORE or FREEZE frame.
AgentWorker *agent_worker_start(const struct agent_frame *request, GError **error);
// To be called when the process has been waited for.
void agent_worker_free(AgentWorker *w); // NULL-safe

// The session is over: the worker gets what was queued for it, then end of file.
void agent_worker_close(AgentWorker *w);
// Writes what can be written. A worker that is dead is none of its business.
void agent_worker_flush(AgentWorker *w);
