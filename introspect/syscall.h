// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: system calls that a thread was found in, and how they go on in another kernel.
#pragma once

#include "introspect/regs.h"
#include "introspect/timer.h"

// Name of a call, "syscall 999" style for unknown numbers is the caller's; NULL where the table has
// none.
const char *intro_syscall_name(uint64_t nr);

// Whether the call is one that writes: it is whole only where its file takes it in one step.
bool intro_syscall_writes(uint64_t nr);

// The thread sleeps interruptibly in the call regs->orig_ax. Fills in rec (registers already read)
// how it goes on. BUSY where the call may have done part of its work.
bool intro_syscall_reenter(struct intro_ctx *c, struct gva task, struct gva mm,
                           const struct intro_regs *regs, struct fmt_task *rec, GError **error);

// The thread stopped on its way back to user mode with the result regs->ax: what the kernel would
// do about -ERESTART*. frozen: the stop is our own agent's doing, so an -EINTR is too.
bool intro_syscall_finish(struct intro_ctx *c, struct gva task, struct gva mm,
                          const struct intro_regs *regs, bool frozen, struct fmt_task *rec,
                          GError **error);
