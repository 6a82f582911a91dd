// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: where in the kernel a task sleeps: its call chain by the kernel's own unwind tables.
#pragma once

#include "introspect/kernel.h"

#define INTRO_CHAIN_MAX 48

// Functions from the innermost outwards. Names are borrowed from the kernel.
struct intro_chain {
    const char *function[INTRO_CHAIN_MAX];
    // The frame of function[i], where its variables are, is [frame[i], frame[i + 1]).
    uint64_t frame[INTRO_CHAIN_MAX + 1];
    unsigned n;
    bool complete; // ends at the entry from user mode; else the tables did not lead there
};

// Unwinds the stack of a task that is on no CPU. user_regs is where its registers of user mode are.
// A chain that cannot be followed is not an error but incomplete.
bool intro_unwind(IntroKernel *k, struct gva task, struct gva user_regs, struct intro_chain *ret,
                  GError **error);

// Whether the task, which is on no CPU, was born and has not run yet: its stack is what fork has
// made of it, which is no call chain.
bool intro_never_ran(IntroKernel *k, struct gva task, bool *ret, GError **error);

// Whether a function of this name is in the chain; the names that the compiler makes of it
// (.isra.0, .cold ...) count as well.
bool intro_chain_has(const struct intro_chain *chain, const char *function);

// Whether the i-th function has this name.
bool intro_chain_is(const struct intro_chain *chain, unsigned i, const char *function);

// The index of the innermost function of this name, -1 where there is none.
int intro_chain_find(const struct intro_chain *chain, const char *function);

// Whether caller called callee directly.
bool intro_chain_calls(const struct intro_chain *chain, const char *caller, const char *callee);
