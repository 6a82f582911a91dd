// SPDX-License-Identifier: GPL-2.0-or-later
// Forking helpers of the agent whose pids are in nobody's way.
#include "guestagent/fork.h"

#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

// Top of the default pid range. With a larger pid_max these are as good as any.
#define HIGHEST_PID 32767
#define TRIES       64

pid_t agent_fork_high(uint64_t flags)
{
    for (pid_t want = HIGHEST_PID; want > HIGHEST_PID - TRIES; want--) {
        struct clone_args args = {
            .flags = flags,
            .exit_signal = SIGCHLD,
            .set_tid = (uint64_t)(uintptr_t)&want,
            .set_tid_size = 1,
        };
        long pid = syscall(SYS_clone3, &args, sizeof(args));

        if (pid >= 0)
            return (pid_t)pid;
    }
    struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD};

    return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}
