// SPDX-License-Identifier: GPL-2.0-or-later
// Who gives birth to whom, and in which order. Not for users of the engine.
#pragma once

#include "guestagent/engine.h"

enum agent_step_kind {
    AGENT_STEP_BIRTH,       // `by` (NULL: what the root is cloned from) clones `task` with `flags`
    AGENT_STEP_SESSION,     // setsid, and the controlling terminal
    AGENT_STEP_ADOPT,       // PR_SET_CHILD_SUBREAPER for a while
    AGENT_STEP_DISOWN,      // takes it back
    AGENT_STEP_GROUP,       // setpgid(0, number)
    AGENT_STEP_FOREGROUND,  // foreground group of the session's terminal
    AGENT_STEP_NO_TERMINAL, // gives up the terminal that its session has
    AGENT_STEP_END,         // a temporary process ends, and `by` waits for it
};

struct agent_step {
    enum agent_step_kind kind;
    AgentTask *task, *by;
    uint64_t flags;  // CLONE_*
    uint64_t number; // of a group
};

// A process with one thread and nothing in the image. Freed with r->temps.
AgentProc *agent_proc_new_temp(AgentRestore *r, uint64_t pid, uint64_t exit_signal);

// Fills r->steps and r->temps; refuses what cannot be had.
void agent_lineage_plan(AgentRestore *r);
