// SPDX-License-Identifier: GPL-2.0-or-later
// Pseudo terminals, as the parts of the engine that make sessions see them.
#pragma once

#include "guestagent/engine.h"

// A pair of this machine.
struct agent_tty {
    const struct fmt_tty *rec;
    int master, slave; // kept by the agent, -1 where closed
};

// tty_state.c: whether that can be done at all; else *ret_why says why not.
bool agent_tty_state_plan(const struct fmt_tty *rec, const char **ret_why);
// Brings a new pair into the state of the image: settings, what is under way, packet mode. Both
// descriptors do not block.
bool agent_tty_state(const struct agent_tty *t, GError **error);

// tty.c: the foreground group of the terminal of the session that the process leads, 0 for none.
uint64_t agent_tty_pgid(const AgentProc *p);
// Whether it had a terminal that it will not have here.
bool agent_tty_is_lost(const AgentProc *p);
// A descriptor, which the processes inherit, of the controlling terminal of a process; -1 for none.
int agent_tty_fd(const AgentProc *p);
