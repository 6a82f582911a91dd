// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: what the files about calls that are entered again share. Not for others.
#pragma once

#include <errno.h>

#include "introspect/syscall.h"

enum intro_class { QUICK, QUERY, WAIT, BREAKS, RECV, WRITE, MESSAGES, SPLICE };
enum intro_timeout {
    T_NONE,
    T_SLEEP,
    T_POLL,
    T_FUTEX,
    T_TIMEVAL,
    T_TIMESPEC,
    T_MILLIS,
    T_CONST,
    T_BLOCK,
    T_TIMEVAL32,
    T_TIMESPEC32,
};

struct intro_syscall {
    const char *name;
    uint8_t class;
    uint8_t timeout;
    int8_t argument;
};

enum {
#define CALL(nr, name, class, timeout, argument) NR_##name = nr,
#include "introspect/syscalls.def"
};

#define SYSCALL_BYTES  2
#define FUTEX_CMD(op)  ((op)&0x7f)
#define FUTEX_WAIT_CMD 0
#define FUTEX_REALTIME 256

// Numbers of i386. From 403 on a struct timespec has members of 64 bits.
#define IA32_POLL                   168
#define IA32_FIRST_TIME64           403
#define IA32_CLOCK_NANOSLEEP_TIME64 407

// include/linux/errno.h: what system calls return inside of the kernel when they were interrupted.
#ifndef ERESTARTSYS
enum { ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514, ERESTART_RESTARTBLOCK = 516 };
#endif

struct intro_reentry {
    struct intro_ctx *c;
    const struct intro_where *where;
    struct intro_call *call; // what is entered again; a waiter may have been moved
    uint64_t mm_ref;
    struct fmt_task *rec;
    bool moved; // it waits for another futex than it asked for: call says which
    bool lost;  // there is a timeout, and no timer tells what is left of it
};

static inline uint64_t intro_argument(const struct intro_call *call, int i)
{
    return i >= 0 ? call->args[i] : 0;
}

// sizeof(struct mmsghdr)
#define INTRO_MMSGHDR_BYTES      64
#define INTRO_IA32_MMSGHDR_BYTES 32

// transfer.c: what a call that sleeps has read or written.
enum intro_transfer {
    INTRO_NOTHING_DONE,
    INTRO_OVER, // a part; rec returns how much
    INTRO_UNSURE,
};
bool intro_transfer(struct intro_reentry *e, enum intro_transfer *ret, GError **error);

// futex.c: what a signal without a handler has of a wait for a futex, -ERESTART*.
int intro_futex_interrupted(const struct intro_call *call);
// The same as intro_transfer() for a wait for a futex. e->call and rec wait for the one to which it
// was moved.
bool intro_futex(struct intro_reentry *e, enum intro_transfer *ret, GError **error);
// The same for one that our own agent has interrupted, by the key that it had before.
bool intro_futex_frozen(struct intro_reentry *e, const struct intro_futex_key *key, GError **error);

// Has rec wait for a futex to which it was moved, however it goes on.
void intro_futex_moved(struct intro_reentry *e);

// The open file that is descriptor nr of the thread, NULL where there is none.
const struct fmt_file *intro_file_of(const struct intro_reentry *e, uint64_t nr);

// rec is as if a signal without a handler had just ended the call with `result`, one of -ERESTART*:
// the call begins anew, unless a signal with a handler comes first.
void intro_enter_again(const struct intro_call *call, int result, struct fmt_task *rec);
// With which result that is.
int intro_interrupted(const struct intro_call *call);

// timeout.c: has rec go on with what is left of the timeout of the call.
void intro_timeout_keep(struct intro_reentry *e);
// Of those that the kernel writes back alone.
void intro_timeout_keep_written(struct intro_reentry *e);
// rec goes on by a restart block of this kind.
void intro_restart_with(struct intro_reentry *e, enum fmt_restart kind, uint64_t clock,
                        uint64_t addr, uint64_t ns);
