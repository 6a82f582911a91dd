// SPDX-License-Identifier: GPL-2.0-or-later
// Signals that somebody has sent to a stopped thread: they wait, and would die with it.
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>

#include "guestagent/freeze.h"

#define AT_ONCE 16

// Those of timers come to the restored process from its own.
static bool is_sent(const siginfo_t *info)
{
    if (info->si_code == SI_KERNEL)
        return info->si_signo != SIGALRM && info->si_signo != SIGVTALRM &&
               info->si_signo != SIGPROF;
    return info->si_code <= 0 && info->si_code != SI_TIMER;
}

static uint64_t count_queue(pid_t tid, uint32_t flags)
{
    struct __ptrace_peeksiginfo_args args = {.flags = flags, .nr = AT_ONCE};
    siginfo_t infos[AT_ONCE];
    uint64_t n_sent = 0;
    long n;

    while ((n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, infos)) > 0) {
        for (long i = 0; i < n; i++)
            n_sent += is_sent(&infos[i]);
        args.off += (uint64_t)n;
    }
    return n_sent;
}

uint64_t agent_freeze_count_signals(pid_t tid)
{
    return count_queue(tid, 0) + count_queue(tid, PTRACE_PEEKSIGINFO_SHARED);
}
