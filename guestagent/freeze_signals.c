// SPDX-License-Identifier: GPL-2.0-or-later
// Signals that somebody has sent to a stopped thread: they wait, and would die with it.
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>

#include "guestagent/freeze.h"
#include "guestagent/wind.h"

#define AT_ONCE 16

// Those of timers come to the restored process from its own. What nobody cares for is no loss, but
// that it may have continued the process.
static bool is_sent(pid_t tid, const siginfo_t *info)
{
    const int signo = info->si_signo;

    if (info->si_code == SI_KERNEL ? signo == SIGALRM || signo == SIGVTALRM || signo == SIGPROF
                                   : info->si_code > 0 || info->si_code == SI_TIMER)
        return false;
    return signo == SIGCONT || !agent_wind_is_ignored(tid, signo);
}

static uint64_t count_queue(pid_t tid, uint32_t flags)
{
    struct __ptrace_peeksiginfo_args args = {.flags = flags, .nr = AT_ONCE};
    siginfo_t infos[AT_ONCE];
    uint64_t n_sent = 0;
    long n;

    while ((n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, infos)) > 0) {
        for (long i = 0; i < n; i++)
            n_sent += is_sent(tid, &infos[i]);
        args.off += (uint64_t)n;
    }
    return n_sent;
}

uint64_t agent_freeze_count_signals(pid_t tid)
{
    return count_queue(tid, 0) + count_queue(tid, PTRACE_PEEKSIGINFO_SHARED);
}
