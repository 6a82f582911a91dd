// SPDX-License-Identifier: GPL-2.0-or-later
// The processes of a guest: what `vmgraft ps` shows, and how a pid is found.
#pragma once

#include "introspect/kernel.h"

// One process (thread group), for people. Owned by the array that intro_list_processes returns.
struct intro_process {
    uint32_t pid, ppid; // as the initial pid namespace numbers them
    uint32_t uid;       // effective, in the initial user namespace
    char state;         // as in /proc/PID/stat: R S D T t Z X I
    uint32_t n_threads;
    uint64_t rss_bytes;
    bool kernel_thread;
    bool is_dying; // all of it has been killed, or ends by itself
    char *comm;
    char
        *cmdline; // arguments separated by spaces; NULL where there is none or it was not asked for
    struct gva task; // the leader's task_struct
};

// All processes in the order of the kernel's task list. The machine should be paused, else what is
// read may contradict itself (INTRO_ERROR_CORRUPT). Elements are struct intro_process.
GPtrArray *intro_list_processes(IntroKernel *k, bool with_cmdline, GError **error);

// The leader of the process with this pid. NOT_FOUND also where pid is a thread that leads nothing:
// the message then names its process.
bool intro_find_process(IntroKernel *k, uint32_t pid, struct gva *ret_task, GError **error);

// The arguments of the process with this mm_struct as one line; NULL where there are none or they
// are not in memory.
char *intro_cmdline(IntroKernel *k, struct gva mm);

// Whether the process with this leader has a TCP socket that listens on that port, or a UDP socket
// bound to it (listen.c).
bool intro_process_serves_port(IntroKernel *k, struct gva task, uint16_t port, bool *ret,
                               GError **error);

// Where it is in the hierarchy of cgroups version 2, from its root on; owned by the caller.
// UNSUPPORTED where the kernel has no cgroups (cgroup.c).
char *intro_process_cgroup(IntroKernel *k, struct gva task, GError **error);
