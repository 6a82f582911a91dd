// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: when sleeping tasks would wake up.
#pragma once

#include "introspect/clock.h"
#include "introspect/kernel.h"
#include "introspect/orc.h"

// The timers that would wake tasks (hrtimer_sleeper), by task.
struct intro_timers;

struct intro_sleep {
    uint32_t clock;       // CLOCK_* of the hrtimer's base: MONOTONIC, REALTIME, BOOTTIME or TAI
    int64_t expires_ns;   // on that clock
    int64_t remaining_ns; // from the pause on, at least 0
    bool by_wheel;        // schedule_timeout(), which counts jiffies, rather than an hrtimer
};

struct intro_timers *intro_timers_read(IntroKernel *k, const struct intro_clock *clock,
                                       GError **error);
void intro_timers_free(struct intro_timers *timers); // NULL-safe

// The hrtimer that wakes the task; NULL where it sleeps without one. Borrowed.
const struct intro_sleep *intro_timers_find(const struct intro_timers *timers, struct gva task);

// wheel.c: the same for a sleep that is counted in jiffies.
bool intro_wheel_find(IntroKernel *k, const struct intro_clock *clock, struct gva task,
                      const struct intro_chain *chain, struct intro_sleep *ret, bool *ret_found,
                      GError **error);

// Whether it seems to have slept in such a way, and the time is over: an earlier sleep on the same
// stack leaves the same.
bool intro_wheel_is_over(IntroKernel *k, struct gva task, const struct intro_chain *chain,
                         bool *ret, GError **error);

// When an hrtimer is due.
struct intro_due {
    bool queued;     // it is armed; where it is not, the rest tells when it was due last
    uint32_t clock;  // CLOCK_* of its base
    int64_t left_ns; // from the pause on; negative: it has been due for so long
};
bool intro_hrtimer_due(IntroKernel *k, struct gva hrtimer, const struct intro_clock *clock,
                       struct intro_due *ret, GError **error);

// What such a clock shows at the pause, as the initial time namespace has it.
int64_t intro_clock_now(const struct intro_clock *clock, uint32_t id);
