// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: when sleeping tasks would wake up.
#pragma once

#include "introspect/clock.h"
#include "introspect/kernel.h"

// The timers that would wake tasks (hrtimer_sleeper), by task.
struct intro_timers;

struct intro_sleep {
    uint32_t clock;       // CLOCK_* of the hrtimer's base: MONOTONIC, REALTIME, BOOTTIME or TAI
    int64_t expires_ns;   // on that clock
    int64_t remaining_ns; // from the pause on, at least 0
};

struct intro_timers *intro_timers_read(IntroKernel *k, const struct intro_clock *clock,
                                       GError **error);
void intro_timers_free(struct intro_timers *timers); // NULL-safe

// The timer that wakes the task; NULL where it sleeps without a timeout. Borrowed.
const struct intro_sleep *intro_timers_find(const struct intro_timers *timers, struct gva task);

// Nanoseconds from the pause until an hrtimer expires, at least 0; *ret_armed false where it is not
// armed.
bool intro_hrtimer_remaining(IntroKernel *k, struct gva hrtimer, const struct intro_clock *clock,
                             bool *ret_armed, uint64_t *ret_ns, GError **error);
