// SPDX-License-Identifier: GPL-2.0-or-later
// Processes that live for a moment to be who made something: the kernel remembers their pid.
#pragma once

#include "guestagent/engine.h"

struct agent_maker; // owned by the restore, ended by agent_makers_end

/*
 * A process with this pid, as the processes of the image will see it, and with the effective ids
 * and groups of `cred` (NULL: the agent's). It has the agent's descriptors, those opened later
 * too, and a copy of its memory as it was when the helper was started. pid 0: one that they do not
 * see, or one with any pid.
 */
struct agent_maker *agent_maker_get(AgentRestore *r, uint64_t pid, const struct fmt_cred *cred,
                                    GError **error);

// What it is called in the agent's pid namespace.
pid_t agent_maker_pid(const struct agent_maker *maker);

// Calls in such a process. Errors name the call.
bool agent_maker_socketpair(struct agent_maker *maker, int type, int ret[2], GError **error);
bool agent_maker_listen(struct agent_maker *maker, int fd, uint64_t backlog, GError **error);
bool agent_maker_connect(struct agent_maker *maker, int fd, const void *addr, size_t len,
                         GError **error);

// Ends all of them; their pids are free afterwards. NULL-safe.
bool agent_makers_end(AgentRestore *r, GError **error);

// Refuses a pid that cannot be had here for a moment; `what` is to show it.
void agent_maker_plan(AgentRestore *r, uint64_t pid, uint64_t file, const char *what);
