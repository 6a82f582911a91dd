// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: tasks (struct task_struct) and process trees.
#pragma once

#include "introspect/context.h"
#include "introspect/reader.h"

typedef bool (*intro_task_fn)(struct gva task, void *user, GError **error);

// Calls fn for each thread of a process, the leader first. Also of a zombie leader whose threads
// are gone.
bool intro_walk_threads(IntroKernel *k, struct gva leader, intro_task_fn fn, void *user,
                        GError **error);

// Calls fn for the leader of each child of any thread of the process.
bool intro_walk_children(IntroKernel *k, struct gva leader, intro_task_fn fn, void *user,
                         GError **error);

// The letter of /proc/PID/stat.
char intro_state_char(uint64_t state, uint64_t exit_state);

// All processes of the tree below root (parents before children), as an array of struct gva;
// bounded.
GArray *intro_tree(IntroKernel *k, struct gva root, GError **error);

// Numbers in the pid namespace that lies `level` below the initial one; 0 where there is none.
uint64_t intro_pid_level(IntroReader *r, struct gva task);             // of the task itself
uint64_t intro_pid_nr(IntroReader *r, struct gva pid, uint64_t level); // of a struct pid
uint64_t intro_task_nr(IntroReader *r, struct gva task, uint64_t level);

// proc.c: reads a process with its threads into PROC, TASK and what these refer to.
bool intro_proc(struct intro_ctx *c, struct gva leader, GError **error);
// prctl.c: what prctl has set for the thread.
// yama.c: PR_SET_PTRACER of all processes, which have been read.
bool intro_yama(struct intro_ctx *c, GError **error);
bool intro_prctl(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error);
// outside.c, to be called when the whole tree has been read: refuses descriptor tables and
// directories that somebody outside of the tree shares.
bool intro_tables_check_peers(struct intro_ctx *c, GError **error);
// namespace.c: refuses namespaces other than those of the guest's init.
bool intro_namespaces(struct intro_ctx *c, struct gva task, GError **error);
// thread.c: reads one thread into a TASK record of proc.
bool intro_thread(struct intro_ctx *c, struct gva task, struct fmt_proc *proc, GError **error);
