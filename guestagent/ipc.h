// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: objects of System V IPC come back with their ids.
#pragma once

#include "guestagent/engine.h"

/*
 * The kernel notes which process did what with an object last. So what a process did is done again
 * by that process, by a remote call, before it gets its own credentials.
 *
 *   make   all objects, empty, with the processes there and without mappings
 *   attach segments, as their mappings are made
 *   fill   what is in them, who waits to undo what, and their permissions
 */
struct agent_ipc_kind {
    const char *name;
    const char *list;    // /proc/sysvipc/..., of what there is
    const char *next_id; // /proc/sys/kernel/..., the id of the next one
    void (*plan)(AgentRestore *r, const struct fmt_ipc *rec); // may be NULL
    // As a remote call of `as`; *ret is the id or -errno.
    bool (*make)(AgentRestore *r, const struct agent_tracee *as, const struct fmt_ipc *rec,
                 uint64_t key, int64_t *ret, GError **error);
    bool (*fill)(AgentRestore *r, const struct fmt_ipc *rec, GError **error);
    int (*remove)(int id); // -1 with errno
};
extern const struct agent_ipc_kind agent_ipc_sem, agent_ipc_msg, agent_ipc_shm;

// A thread that has this number, to do things in its name; NULL with error. 0 is the tree's root.
// For a process that has ended a stand-in is made; where none can be had it is the root as well,
// and a note says so.
const struct agent_tracee *agent_ipc_as(AgentRestore *r, uint64_t pid, GError **error);

// Whether the object stays behind, as its place is taken here and nobody alive is known to use it.
bool agent_ipc_is_left(AgentRestore *r, const struct fmt_ipc *rec);

// The next message of fmt_ipc.messages at *at; false at their end, or where they are damaged.
struct agent_ipc_message {
    int64_t type;
    uint64_t bytes;
    const uint8_t *text;
};
bool agent_ipc_next_message(GBytes *messages, size_t *at, struct agent_ipc_message *ret);
// Whether all of it can be read.
bool agent_ipc_messages_are_whole(GBytes *messages, uint64_t *ret_longest, uint64_t *ret_count);

// The permissions that an object ends with, for *ctl(IPC_SET).
struct ipc_perm;
void agent_ipc_perm(const struct fmt_ipc *rec, struct ipc_perm *ret);

// sysvshm.c: what ipc.c needs of it beyond its row
void agent_ipc_shm_forget(AgentRestore *r, const struct fmt_ipc *rec);
bool agent_ipc_shm_hold(AgentRestore *r, const struct fmt_ipc *rec, GError **error);
