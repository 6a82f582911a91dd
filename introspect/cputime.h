// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: the CPU time that processes and threads have consumed.
#pragma once

#include "introspect/context.h"
#include "introspect/task.h"

// By the three ways of counting it (CPUCLOCK_*, include/linux/posix-timers.h).
enum { INTRO_CPU_PROF, INTRO_CPU_VIRT, INTRO_CPU_SCHED, INTRO_N_CPU };

struct intro_cputime {
    uint64_t ns[INTRO_N_CPU]; // user and system; user; as the scheduler has it
};

// Up to the last tick of a thread that runs.
bool intro_cputime_thread(IntroKernel *k, struct gva task, struct intro_cputime *ret,
                          GError **error);
// Of all threads, those that have ended included.
bool intro_cputime_process(IntroKernel *k, struct gva leader, struct intro_cputime *ret,
                           GError **error);
// Adds that of a process to what the tree has had, and notes what is lost of the whole.
bool intro_cputime_add(struct intro_ctx *c, struct gva leader, GError **error);
void intro_cputime_note(struct intro_ctx *c);
