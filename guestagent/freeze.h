// SPDX-License-Identifier: GPL-2.0-or-later
// Stopping a process tree so that it can be captured, and letting it go or ending it.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

// A tree that is being or has been stopped by ptrace. The process that makes it is the tracer: if
// it ends, everything goes on as before.
typedef struct AgentFreeze AgentFreeze;

enum agent_freeze_state {
    AGENT_FREEZE_AGAIN,   // not all are stopped: step again at the next SIGCHLD
    AGENT_FREEZE_DONE,    // all are
    AGENT_FREEZE_REFUSED, // the reasons were added to refusals
    AGENT_FREEZE_FAILED,
};

AgentFreeze *agent_freeze_new(pid_t root);
void agent_freeze_free(AgentFreeze *f); // NULL-safe; does not thaw
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AgentFreeze, agent_freeze_free)

enum agent_freeze_state agent_freeze_step(AgentFreeze *f, GPtrArray *refusals, GError **error);
// Adds what the thread that keeps the step at AGAIN is doing.
void agent_freeze_explain(AgentFreeze *f, GPtrArray *refusals);
void agent_freeze_thaw(AgentFreeze *f);
// Sends SIGKILL to all; they are gone when, after agent_freeze_reap, no threads are left.
void agent_freeze_kill(AgentFreeze *f);
void agent_freeze_reap(AgentFreeze *f);

// freeze_vdso.c: has a stopped thread leave the vdso, for it goes on in another kernel's only if
// that is the same build. True where it runs again for that: another stop is on its way, or its
// end.
bool agent_freeze_leave_vdso(pid_t pid, pid_t tid);

// freeze_signals.c: how many signals wait for a stopped thread, alone or with others, that a
// program has sent.
uint64_t agent_freeze_count_signals(pid_t tid);

// Whether the tree has been sent signals since it was frozen: the original has to get them.
bool agent_freeze_was_signalled(AgentFreeze *f);

guint agent_freeze_n_threads(const AgentFreeze *f);
GArray *agent_freeze_pids(const AgentFreeze *f); // of uint32_t, owned by the caller
