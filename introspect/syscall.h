// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: system calls that a thread was found in, and how they go on in another kernel.
#pragma once

#include "introspect/regs.h"
#include "introspect/timer.h"

struct intro_syscall; // a row of syscalls.def

// A call as a thread made it: by `syscall`, or by `int $0x80` and its like with the numbers,
// argument registers and structures of i386 (compat), which 64-bit programs may do as well.
struct intro_call {
    const struct intro_syscall *row; // NULL: none or an unknown one
    bool compat;
    uint64_t entered; // the number that the program gave, UINT64_MAX where it is in no call
    uint64_t nr;      // of x86-64 for a call that means the same, UINT64_MAX for none
    uint64_t args[6]; // those of socketcall and ipc are taken out of their wrapping
    uint64_t ip;      // behind the instruction that entered the kernel
    uint64_t result;
};

// What call the registers of a thread in the kernel speak of. mm is its address space.
void intro_syscall_find(struct intro_ctx *c, struct gva mm, const struct intro_regs *regs,
                        bool compat, struct intro_call *ret);

// Name of a call, "syscall 999" style for unknown numbers is the caller's; NULL where the table has
// none.
const char *intro_syscall_name(uint64_t nr, bool compat);

// syscall_ia32.c: socketcall, ipc and the old select as the calls of i386 that they stand for:
// returns the number, and changes the arguments. Others stay as they are.
uint64_t intro_ia32_unfold(struct intro_ctx *c, struct gva mm, uint64_t nr, uint64_t args[6]);

// The futex that a thread waits for, as the kernel tells them apart (union futex_key).
struct intro_futex_key {
    uint64_t ptr, word, offset;
};
// futex.c; false where it waits for none, or that cannot be found.
bool intro_futex_key(IntroKernel *k, struct gva task, const struct intro_chain *chain,
                     struct intro_futex_key *ret);

// Where a thread sleeps.
struct intro_where {
    struct gva task, mm;
    const struct intro_chain *chain;
    const struct intro_sleep *sleep;   // what would wake it; NULL: nothing, or it is not known
    bool woken;                        // it sleeps no more; a timer that is not found has done so
    const struct intro_futex_key *key; // of one that is frozen: what it waited for; NULL: not known
};

// The thread sleeps interruptibly in the call. Fills in rec (registers already read)
// how it goes on. BUSY where the call may have done part of its work.
bool intro_syscall_reenter(struct intro_ctx *c, const struct intro_where *where,
                           const struct intro_call *call, struct fmt_task *rec, GError **error);

// The thread stopped on its way back to user mode with the result call->result: what the kernel
// would do about -ERESTART*. frozen: the stop is our own agent's doing, so an -EINTR is too.
bool intro_syscall_finish(struct intro_ctx *c, const struct intro_where *where,
                          const struct intro_call *call, bool frozen, struct fmt_task *rec,
                          GError **error);

// The thread is about to enter the call again, in which our own agent has interrupted it. where
// says what would have woken it before that.
void intro_timeout_keep_frozen(struct intro_ctx *c, const struct intro_where *where,
                               const struct intro_call *call, struct fmt_task *rec);
