// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: objects of System V IPC, and which processes use them.
#pragma once

#include "introspect/context.h"
#include "introspect/reader.h"
#include "introspect/task.h"

/*
 * An object belongs to a namespace, not to a process, and an id may be known to anybody. What the
 * kernel tells is who has used it: waits for it, has it attached, has something to undo, or was the
 * last to change it. These are its users, as far as they live.
 */
struct intro_ipc {
    struct intro_ctx *c;
    GHashTable *tree; // address of the struct pid of each process of the tree
    GHashTable *uids; // effective user ids of the tree
    uint64_t level;   // of the pid namespace in which the image counts
    // of the object that is being looked at:
    bool inside;      // a process of the tree uses it
    bool others;      // a living user is not of the tree
    uint64_t outside; // its pid; 0: not known
};

// Each notes a user and returns it: its number in the tree's pid namespace, 0 for none.
uint64_t intro_ipc_pid(struct intro_ipc *ipc, IntroReader *r, struct gva pid);
void intro_ipc_task(struct intro_ipc *ipc, IntroReader *r, struct gva task);

/*
 * A kind of object. `users` notes who uses it; `read` fills what the record has beyond kind, id,
 * key and permissions. Both take the address of the object.
 */
struct intro_ipc_kind {
    const char *name;
    enum intro_member perm; // its struct kern_ipc_perm
    bool (*users)(struct intro_ipc *ipc, struct gva object, GError **error);
    bool (*read)(struct intro_ipc *ipc, struct gva object, struct fmt_ipc *rec, GError **error);
};
extern const struct intro_ipc_kind intro_ipc_sem, intro_ipc_msg, intro_ipc_shm; // sem.c msg.c ...

// To be called when all processes have been read: the objects that go along with them.
bool intro_ipc(struct intro_ctx *c, GError **error);

// sem.c: remembers whose list of changes to be undone (SEM_UNDO) a thread has.
bool intro_sem_undo(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error);

// msg.c: appends a struct msg_msg as fmt_ipc.messages has it.
bool intro_msg(IntroKernel *k, struct gva msg, GByteArray *messages, GError **error);

// mqueue.c: the POSIX message queue of an inode; its name, and whether it is unlinked.
uint64_t intro_mqueue(struct intro_ctx *c, struct gva inode, const char *name, bool unlinked,
                      GError **error);
char *intro_mqueue_name(struct intro_ctx *c, struct gva dentry, bool *ret_unlinked, GError **error);
// Refuses queues that somebody outside of the tree has open as well.
bool intro_mqueue_check_peers(struct intro_ctx *c, GError **error);
