// SPDX-License-Identifier: GPL-2.0-or-later
// Threads that are in a system call, on no CPU and not asleep: where are they?
#include "introspect/wakeup.h"

#include "introspect/reentry.h"

// Between the one who waits and schedule().
static const char *const passed[] = {"schedule_timeout",
                                     "schedule_hrtimeout_range_clock",
                                     "schedule_hrtimeout_range",
                                     "poll_schedule_timeout",
                                     "wait_woken",
                                     "do_wait_intr_irq"};

// Who waits in a loop of which each turn looks at all there is, and leaves nothing with the waker.
// Compilers inline some of them into their callers.
static const char *const waiters[] = {
    "do_nanosleep", // woken by a signal
    "do_poll",
    "do_sys_poll",
    "do_select",
    "ep_poll",
    "do_epoll_wait",
    "do_wait",
    "do_sigtimedwait",
    "__x64_sys_rt_sigtimedwait",
    "__do_sys_rt_sigtimedwait",
    "sigsuspend",
    "__x64_sys_pause",
    "__do_sys_pause",
    "pipe_read",
    "pipe_write",
    "anon_pipe_read", // since 6.14, as is the next
    "anon_pipe_write",
    "eventfd_read",
    "signalfd_read",
    "signalfd_read_iter", // since 6.10
    "signalfd_dequeue",
    "inotify_read",
    "unix_stream_data_wait",
    "unix_stream_read_generic",
    "__skb_wait_for_more_packets",
};

static bool is_any(const struct intro_chain *chain, unsigned i, const char *const *names, size_t n)
{
    for (size_t j = 0; j < n; j++)
        if (intro_chain_is(chain, i, names[j]))
            return true;
    return false;
}

// The index of the one who waits: who has called schedule() for that. 0 where the CPU was taken
// from the thread, or given up in some other way (a mutex, I/O).
static unsigned waiter_of(const struct intro_chain *chain)
{
    unsigned i = 2;

    if (!chain->complete || chain->n <= i || !intro_chain_is(chain, 0, "__schedule") ||
        !intro_chain_is(chain, 1, "schedule"))
        return 0;
    while (i + 1 < chain->n && is_any(chain, i, passed, G_N_ELEMENTS(passed)))
        i++;
    return i;
}

bool intro_looks_again(const struct intro_chain *chain)
{
    const unsigned i = waiter_of(chain);

    return i && is_any(chain, i, waiters, G_N_ELEMENTS(waiters));
}

bool intro_is_yielding(const struct intro_chain *chain, const struct intro_call *call)
{
    return chain->complete && call->nr == NR_sched_yield;
}

bool intro_was_napping(const struct intro_chain *chain)
{
    const unsigned i = waiter_of(chain);

    return i && intro_chain_is(chain, i, "do_nanosleep");
}

bool intro_may_repeat(const struct intro_chain *chain, const struct intro_call *call)
{
    return chain->complete && call->row && call->row->class == QUERY;
}

bool intro_is_forking(const struct intro_chain *chain, const struct intro_call *call)
{
    switch (call->nr) {
    case NR_clone:
    case NR_clone3:
    case NR_fork:
    case NR_vfork:
        return chain->complete && intro_chain_has(chain, "copy_process");
    default:
        return false;
    }
}
