// SPDX-License-Identifier: GPL-2.0-or-later
// What the calls of calls.h have in common.
#include "calls.h"
#include "subject.h"

#define SHORT_NS (300 * NS_PER_MS)

bool calls_with_signals, calls_interrupted;

void calls_set(struct worker *w, long nr, const unsigned long args[6], int n)
{
    static const int places[] = {CALLS_ARGUMENTS};

    for (int i = 0; i < N_REGS; i++)
        w->regs.in[i] = (unsigned long)subject_random(&w->seed);
    w->regs.in[RAX] = (unsigned long)nr;
    for (int i = 0; i < n; i++)
        w->regs.in[places[i]] = args[i];
}

uint64_t calls_timeout_ns(void)
{
    return calls_with_signals ? CALLS_LONG_NS : SHORT_NS;
}

struct timespec *calls_timeout(struct worker *w)
{
    w->ts = (struct timespec){(time_t)(calls_timeout_ns() / NS_PER_S),
                              (long)(calls_timeout_ns() % NS_PER_S)};
    return &w->ts;
}

struct timespec *calls_deadline(struct worker *w, clockid_t clock, uint64_t ns)
{
    const uint64_t at = subject_now(clock) + ns;

    w->ts = (struct timespec){(time_t)(at / NS_PER_S), (long)(at % NS_PER_S)};
    return &w->ts;
}

unsigned long calls_timeout_ms(void)
{
    return (unsigned long)(calls_timeout_ns() / NS_PER_MS);
}

void calls_signal_soon(struct worker *w, int signo)
{
    struct itimerspec soon = {.it_value.tv_nsec =
                                  (long)((20 + subject_random(&w->seed) % 230) * NS_PER_MS)};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signo};

    event._sigev_un._tid = w->tid;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &w->timer) == 0);
    MUST(timer_settime(w->timer, 0, &soon, NULL) == 0);
}
