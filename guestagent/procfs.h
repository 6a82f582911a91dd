// SPDX-License-Identifier: GPL-2.0-or-later
// The few facts about processes that freezing takes from /proc.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct procfs_status {
    char state; // as in /proc/PID/status
    pid_t tgid, ppid, tracer;
    bool kernel_thread;
    uint64_t sig_pending; // of the thread and of its process; bit n-1 is signal n
    uint64_t sig_blocked, sig_ignored, sig_caught;
};

// false where there is no such thread (or /proc cannot be read).
bool procfs_read_status(pid_t tid, struct procfs_status *ret);
GArray *procfs_list_threads(pid_t pid); // of pid_t, owned by the caller
void procfs_append_children(pid_t pid, pid_t tid, GArray *ret);
// The kernel function in which a thread sleeps, or NULL. Owned by the caller.
char *procfs_describe_wait(pid_t tid);
// The number of the system call that the thread waits in; -1 where it runs or is in none.
int procfs_read_syscall(pid_t tid);

// Reads memory of a process, whatever its protection.
bool procfs_read_memory(pid_t pid, uint64_t addr, void *ret, size_t len);

// Where the process has its vdso; false where it has none.
bool procfs_find_vdso(pid_t pid, uint64_t *ret_start, uint64_t *ret_end);
