// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: threads that are in a system call, on no CPU and not asleep.
#pragma once

#include "introspect/orc.h"
#include "introspect/syscall.h"

// Whether a thread that has been woken in a call is about to look, as before it went to sleep,
// whether what it waits for has come: entering the call again is the same. Nobody has done a part
// of the call in its stead.
bool intro_looks_again(const struct intro_chain *chain);

// Whether it has given up the CPU, and that is all.
bool intro_is_yielding(const struct intro_chain *chain, const struct intro_call *call);

// Whether its sleep of a given time is what it was woken from.
bool intro_was_napping(const struct intro_chain *chain);

// Whether it is in the middle of a call that may as well be done twice.
bool intro_may_repeat(const struct intro_chain *chain, const struct intro_call *call);

// Whether it makes a process or thread that nobody can see yet: it may as well begin anew. Where
// the new one can be seen (TASK_NEW), it is that one that is not at rest.
bool intro_is_forking(const struct intro_chain *chain, const struct intro_call *call);
