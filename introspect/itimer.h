// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: the timers of a process.
#pragma once

#include "introspect/context.h"

// The interval timers that are armed (setitimer, alarm) into ITIMER records of `proc`.
bool intro_itimers(struct intro_ctx *c, struct gva leader, uint64_t proc, GError **error);

// The timers of timer_create into POSIX_TIMER records of `proc`; before its pending signals are
// read, which may be theirs.
bool intro_posix_timers(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc,
                        GError **error);

// The timer that a pending signal (struct sigqueue) is of: its objref, 0 where none waits for it.
// *ret_dropped: the timer has been set anew or deleted since, and the kernel will not deliver it.
bool intro_timer_of_signal(struct intro_ctx *c, struct gva sigqueue, uint64_t *ret_timer,
                           bool *ret_dropped, GError **error);
