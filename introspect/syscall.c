// SPDX-License-Identifier: GPL-2.0-or-later
// System calls that a thread was found in, and how they go on in another kernel.
#include "introspect/syscall.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "introspect/reader.h"

/*
 * A call that sleeps without having done anything is entered again: rip goes back to the syscall
 * instruction and rax gets the number. What must not start over is a relative timeout: the task's
 * hrtimer says how much is left, and the timeout's kind says how to tell the call:
 *
 *   with a restart block   the agent arms the block of the new kernel (FMT_RESTART_*)
 *   written back           select and ppoll update their argument in memory when interrupted: so do
 * we, in the copy in a register          the register gets what is left read only              the
 * argument is the program's own and stays; the call starts over with all of it, which a note says
 */
#define SYSCALL_BYTES  2
#define PIPE_BUF_BYTES 4096
#define WAITALL        0x100 // MSG_WAITALL
#define FUTEX_CMD(op)  ((op)&0x7f)
#define FUTEX_WAIT_CMD 0
#define FUTEX_REALTIME 256
#define NS_PER_S       1000000000
#define TT_COMPAT      2 // enum timespec_type, include/linux/restart_block.h

// Numbers of i386.
#define IA32_POLL                   168
#define IA32_CLOCK_NANOSLEEP_TIME64 407

// include/linux/errno.h: what system calls return inside of the kernel when they were interrupted.
enum { ERESTARTSYS = 512, ERESTARTNOINTR = 513, ERESTARTNOHAND = 514, ERESTART_RESTARTBLOCK = 516 };

enum class { QUICK, WAIT, RECV, WRITE };
enum timeout {
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

static const struct intro_syscall calls[] = {
#define CALL(nr, name, class, timeout, argument) [nr] = {#name, class, T_##timeout, argument},
#include "introspect/syscalls.def"
};

enum {
#define CALL(nr, name, class, timeout, argument) NR_##name = nr,
#include "introspect/syscalls.def"
};

static const struct intro_syscall *const ia32_calls[] = {
#define SAME(nr, name, as) [nr] = &calls[NR_##as],
#define OWN(nr, name, class, timeout, argument)                                                    \
    [nr] = &(const struct intro_syscall){#name, class, T_##timeout, argument},
#include "introspect/syscalls_ia32.def"
};

static const struct intro_syscall *find_row(uint64_t nr, bool compat)
{
    if (compat)
        return nr < G_N_ELEMENTS(ia32_calls) ? ia32_calls[nr] : NULL;
    return nr < G_N_ELEMENTS(calls) && calls[nr].name ? &calls[nr] : NULL;
}

const char *intro_syscall_name(uint64_t nr, bool compat)
{
    const struct intro_syscall *row = find_row(nr, compat);

    return row ? row->name : NULL;
}

static void unpack(const struct intro_regs *regs, struct intro_call *ret)
{
    const uint64_t args[] = {regs->di, regs->si, regs->dx, regs->r10, regs->r8, regs->r9};
    const uint64_t ia32[] = {regs->bx, regs->cx, regs->dx, regs->si, regs->di, regs->bp};

    for (size_t i = 0; i < G_N_ELEMENTS(args); i++)
        ret->args[i] = ret->compat ? (uint32_t)ia32[i] : args[i];
}

void intro_syscall_find(struct intro_ctx *c, struct gva mm, const struct intro_regs *regs,
                        bool compat, struct intro_call *ret)
{
    uint64_t nr = compat ? (uint32_t)regs->orig_ax : regs->orig_ax;

    *ret = (struct intro_call){
        .compat = compat, .entered = nr, .nr = UINT64_MAX, .ip = regs->ip, .result = regs->ax};
    if ((int64_t)regs->orig_ax < 0) {
        ret->entered = UINT64_MAX;
        return;
    }
    unpack(regs, ret);
    if (compat)
        nr = intro_ia32_unfold(c, mm, nr, ret->args);
    ret->row = find_row(nr, compat);
    if (ret->row >= calls && ret->row < calls + G_N_ELEMENTS(calls))
        ret->nr = (uint64_t)(ret->row - calls);
}

bool intro_syscall_writes(const struct intro_call *call)
{
    return call->row && call->row->class == WRITE;
}

static uint64_t argument(const struct intro_call *call, int i)
{
    return i >= 0 ? call->args[i] : 0;
}

static bool may_be_half_done(const struct intro_call *call)
{
    switch (call->row->class) {
    case WAIT:
        return false;
    case RECV:
        return argument(call, call->row->argument) & WAITALL;
    case WRITE:
        return call->row->argument < 0 || argument(call, call->row->argument) > PIPE_BUF_BYTES;
    default:
        return true;
    }
}

static void enter_again(const struct intro_call *call, struct fmt_task *rec)
{
    rec->rip = call->ip - SYSCALL_BYTES;
    rec->rax = call->entered;
    rec->orig_rax = UINT64_MAX;
}

struct reentry {
    struct intro_ctx *c;
    const struct intro_call *call;
    const struct intro_sleep *sleep; // NULL: no timer queued
    uint64_t mm_ref;
    struct fmt_task *rec;
    bool lost; // there is a timeout, and no timer tells what is left of it
};

// What is left of the timeout that the call sleeps with.
static uint64_t left_ns(struct reentry *e)
{
    if (!e->sleep)
        e->lost = true;
    return e->sleep ? e->sleep->remaining_ns : 0;
}

static void restart_with(struct reentry *e, enum fmt_restart kind, uint64_t clock, uint64_t addr,
                         uint64_t ns)
{
    e->rec->restart = kind;
    e->rec->restart_clock = clock;
    e->rec->restart_ns = ns;
    e->rec->restart_addr = addr;
    // As the kernel leaves an interrupted call: it makes a restart_syscall of this when the thread
    // goes on.
    e->rec->rip = e->call->ip;
    e->rec->rax = (uint64_t)-ERESTART_RESTARTBLOCK;
    e->rec->orig_rax = e->call->entered;
}

// Clocks of which no hrtimer tells what is left: of CPU time (negative ids are those of other
// tasks), and those that wake a suspended machine.
static bool is_other_clock(uint64_t clock)
{
    return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID ||
           clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM || (int32_t)clock < 0;
}

static void keep_sleep(struct reentry *e)
{
    bool plain = e->call->nr == NR_nanosleep;

    if (!plain && argument(e->call, 1) & TIMER_ABSTIME)
        return;
    if (!plain && is_other_clock(argument(e->call, 0))) {
        intro_refuse(e->c, "cpu-sleep",
                     "thread %" G_GUINT64_FORMAT
                     " sleeps on a clock of consumed CPU time or an alarm clock",
                     e->rec->tid);
        return;
    }
    restart_with(e, FMT_RESTART_NANOSLEEP, plain ? CLOCK_MONOTONIC : argument(e->call, 0),
                 argument(e->call, plain ? 1 : 3), left_ns(e));
    e->rec->restart_arg1 = e->call->compat && e->call->entered != IA32_CLOCK_NANOSLEEP_TIME64;
}

static void keep_poll(struct reentry *e)
{
    if ((int32_t)argument(e->call, e->call->row->argument) < 0)
        return;
    restart_with(e, FMT_RESTART_POLL, CLOCK_MONOTONIC, argument(e->call, 0), left_ns(e));
    e->rec->restart_arg1 = argument(e->call, 1);
}

static void keep_futex(struct reentry *e)
{
    uint64_t op = argument(e->call, 1);

    if (FUTEX_CMD(op) != FUTEX_WAIT_CMD || !argument(e->call, e->call->row->argument))
        return;
    restart_with(e, FMT_RESTART_FUTEX, CLOCK_MONOTONIC, argument(e->call, 0), left_ns(e));
    e->rec->restart_arg1 = argument(e->call, 2);
    e->rec->restart_arg2 = op;
    e->rec->restart_arg3 = UINT32_MAX;
}

// Replaces a timespec or timeval in the copy of user memory.
static void patch_timeout(struct reentry *e, uint64_t addr, bool narrow, int64_t seconds,
                          int64_t fraction)
{
    int64_t value[2] = {GINT64_TO_LE(seconds), GINT64_TO_LE(fraction)};
    int32_t value32[2] = {GINT32_TO_LE((int32_t)seconds), GINT32_TO_LE((int32_t)fraction)};

    if (narrow)
        intro_pages_patch(e->c->pages, e->mm_ref, addr, value32, sizeof(value32));
    else
        intro_pages_patch(e->c->pages, e->mm_ref, addr, value, sizeof(value));
}

static void keep_written_back(struct reentry *e)
{
    uint64_t addr = argument(e->call, e->call->row->argument);
    const enum timeout kind = e->call->row->timeout;
    int64_t unit = kind == T_TIMEVAL || kind == T_TIMEVAL32 ? 1000 : 1;

    if (!addr)
        return;
    int64_t left = (int64_t)left_ns(e);
    patch_timeout(e, addr, kind == T_TIMEVAL32 || kind == T_TIMESPEC32, left / NS_PER_S,
                  left % NS_PER_S / unit);
}

static void keep_millis(struct reentry *e)
{
    if ((int32_t)argument(e->call, e->call->row->argument) >= 0)
        *(e->call->compat ? &e->rec->rsi : &e->rec->r10) = (left_ns(e) + 999999) / 1000000;
}

static void keep_timeout(struct reentry *e)
{
    switch ((enum timeout)e->call->row->timeout) {
    case T_NONE:
    case T_BLOCK:
        return;
    case T_SLEEP:
        keep_sleep(e);
        return;
    case T_POLL:
        keep_poll(e);
        return;
    case T_FUTEX:
        keep_futex(e);
        return;
    case T_TIMEVAL:
    case T_TIMESPEC:
    case T_TIMEVAL32:
    case T_TIMESPEC32:
        keep_written_back(e);
        return;
    case T_MILLIS:
        keep_millis(e);
        return;
    case T_CONST:
        if (argument(e->call, e->call->row->argument))
            intro_note(e->c, FMT_NOTE_LOSS, "timeout",
                       "thread %" G_GUINT64_FORMAT " starts the timeout of its %s over",
                       e->rec->tid, e->call->row->name);
        return;
    }
}

/* ---- restart blocks ---- */

typedef bool (*block_fn)(IntroReader *r, struct gva block, struct reentry *e);

static bool block_nanosleep(IntroReader *r, struct gva block, struct reentry *e)
{
    uint32_t clock = rd(r, block, M_restart_nanosleep_clockid);
    int64_t expires = (int64_t)rd(r, block, M_restart_nanosleep_expires);
    const struct intro_clock *now = e->c->clock;
    int64_t at = clock == CLOCK_REALTIME || clock == CLOCK_TAI ? now->realtime_ns
                 : clock == CLOCK_BOOTTIME                     ? now->boottime_ns
                                                               : now->monotonic_ns;

    restart_with(e, FMT_RESTART_NANOSLEEP, clock, rd(r, block, M_restart_nanosleep_rmtp),
                 (uint64_t)MAX(0, expires - at));
    e->rec->restart_arg1 = rd(r, block, M_restart_nanosleep_type) == TT_COMPAT;
    return true;
}

static bool block_poll(IntroReader *r, struct gva block, struct reentry *e)
{
    restart_with(e, FMT_RESTART_POLL, CLOCK_MONOTONIC, rd(r, block, M_restart_poll_ufds), 0);
    e->rec->restart_arg1 = rd(r, block, M_restart_poll_nfds);
    if (!rd(r, block,
            M_restart_poll_has_timeout)) { // a plain poll again: its arguments are unchanged
        e->rec->restart = FMT_RESTART_NONE;
        enter_again(e->call, e->rec);
        e->rec->rax = e->call->compat ? IA32_POLL : NR_poll;
        return true;
    }
    int64_t end = (int64_t)(rd(r, block, M_restart_poll_tv_sec) * 1000000000 +
                            rd(r, block, M_restart_poll_tv_nsec));
    e->rec->restart_ns = (uint64_t)MAX(0, end - e->c->clock->monotonic_ns);
    return true;
}

static bool block_futex(IntroReader *r, struct gva block, struct reentry *e)
{
    int64_t end = (int64_t)rd(r, block, M_restart_futex_time);
    uint64_t op = argument(e->call, 1);
    const struct intro_clock *now = e->c->clock;

    // The kernel keeps a block for absolute times as well; there the arguments say it all, but for
    // which of the two calls of i386 it was once restart_syscall has taken the place of its number.
    if (FUTEX_CMD(op) != FUTEX_WAIT_CMD && !(e->call->compat && e->call->nr != NR_futex)) {
        enter_again(e->call, e->rec);
        e->rec->rax = e->call->compat ? e->call->entered : NR_futex;
        return true;
    }
    restart_with(
        e, FMT_RESTART_FUTEX, CLOCK_MONOTONIC, rd(r, block, M_restart_futex_uaddr),
        (uint64_t)MAX(0, end - (op & FUTEX_REALTIME ? now->realtime_ns : now->monotonic_ns)));
    e->rec->restart_arg1 = rd(r, block, M_restart_futex_val);
    e->rec->restart_arg2 = op;
    e->rec->restart_arg3 = rd(r, block, M_restart_futex_bitset);
    return true;
}

static const struct {
    const char *function;
    block_fn read;
} blocks[] = {
    {"hrtimer_nanosleep_restart", block_nanosleep},
    {"do_restart_poll", block_poll},
    {"futex_wait_restart", block_futex},
};

static bool use_block(struct reentry *e, struct gva task, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(e->c->k);
    struct gva block = intro_member_addr(e->c->k, task, M_task_restart_block);
    struct gva fn = rd_ptr(&r, block, M_restart_fn);
    uint64_t offset;

    if (!rd_done(&r, error))
        return false;
    const char *name = intro_symbol_at(e->c->k, fn, &offset);
    for (size_t i = 0; name && i < G_N_ELEMENTS(blocks); i++)
        if (strcmp(name, blocks[i].function) == 0)
            return blocks[i].read(&r, block, e) && rd_done(&r, error);
    intro_refuse(e->c, "restart", "thread %" G_GUINT64_FORMAT " waits in %s, which cannot go along",
                 e->rec->tid, name ? name : "an unknown restart function");
    return true;
}

bool intro_syscall_reenter(struct intro_ctx *c, struct gva task, struct gva mm,
                           const struct intro_call *call, struct fmt_task *rec, GError **error)
{
    struct reentry e = {.c = c, .call = call, .rec = rec};

    if (!call->row || may_be_half_done(call)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "thread %" G_GUINT64_FORMAT " is in %s, which may be half done", rec->tid,
                    call->row ? call->row->name : "an unknown system call");
        return false;
    }
    e.sleep = intro_timers_find(c->timers, task);
    e.mm_ref = intro_object_ref(c, mm);
    enter_again(call, rec);
    if (call->row->timeout == T_BLOCK)
        return use_block(&e, task, error);
    keep_timeout(&e);
    if (e.lost)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "thread %" G_GUINT64_FORMAT " sleeps in %s with a timeout that no timer has",
                    rec->tid, call->row->name);
    return !e.lost;
}

bool intro_syscall_finish(struct intro_ctx *c, struct gva task, struct gva mm,
                          const struct intro_call *call, bool frozen, struct fmt_task *rec,
                          GError **error)
{
    struct reentry e = {.c = c, .call = call, .rec = rec};
    int64_t result = (int64_t)call->result;

    if (result == -ERESTART_RESTARTBLOCK)
        return use_block(&e, task, error);
    // Whether the call is restarted or fails with EINTR depends on the signal that will be
    // delivered first: the registers stay as they are, and the kernel that the thread goes on in
    // decides.
    if (result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND)
        return true;
    if (frozen && result == -EINTR && call->row && call->row->class == WAIT)
        rec->rax = (uint64_t)-ERESTARTNOHAND;
    else
        rec->orig_rax = UINT64_MAX; // finished: there is nothing to restart any more
    return true;
}
