// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: when threads that are frozen now would have been woken by a timer.
#pragma once

#include "introspect/context.h"
#include "introspect/syscall.h"

// false where the thread slept without a timer, or has done more since than stop. ip: where it goes
// on, at the instruction that enters its call.
bool intro_sleepers_find(const struct intro_ctx *c, struct gva task, uint64_t ip,
                         struct intro_sleep *ret);

// The futex that it waited for; ip: behind the instruction. NULL where it is not known. Borrowed.
const struct intro_futex_key *intro_sleepers_key(const struct intro_ctx *c, struct gva task,
                                                 uint64_t ip);
