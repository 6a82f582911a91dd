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
#define NR_POLL        7
#define NR_FUTEX       202
#define NR_NANOSLEEP   35

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
    T_BLOCK
};

struct call {
    const char *name;
    uint8_t class;
    uint8_t timeout;
    int8_t argument;
};

static const struct call calls[] = {
#define CALL(nr, name, class, timeout, argument) [nr] = {#name, class, T_##timeout, argument},
#include "introspect/syscalls.def"
};

static const struct call *find_call(uint64_t nr)
{
    return nr < G_N_ELEMENTS(calls) && calls[nr].name ? &calls[nr] : NULL;
}

const char *intro_syscall_name(uint64_t nr)
{
    const struct call *call = find_call(nr);

    return call ? call->name : NULL;
}

bool intro_syscall_writes(uint64_t nr)
{
    const struct call *call = find_call(nr);

    return call && call->class == WRITE;
}

static uint64_t argument(const struct intro_regs *regs, int i)
{
    const uint64_t args[] = {regs->di, regs->si, regs->dx, regs->r10, regs->r8, regs->r9};

    return i >= 0 ? args[i] : 0;
}

static bool may_be_half_done(const struct call *call, const struct intro_regs *regs)
{
    switch (call->class) {
    case WAIT:
        return false;
    case RECV:
        return argument(regs, call->argument) & WAITALL;
    case WRITE:
        return call->argument < 0 || argument(regs, call->argument) > PIPE_BUF_BYTES;
    default:
        return true;
    }
}

// Replaces 16 bytes of user memory in the copy with a timespec or timeval.
static void patch_timeout(struct intro_ctx *c, uint64_t mm_ref, uint64_t addr, int64_t seconds,
                          int64_t fraction)
{
    int64_t value[2] = {GINT64_TO_LE(seconds), GINT64_TO_LE(fraction)};

    intro_pages_patch(c->pages, mm_ref, addr, value, sizeof(value));
}

static void enter_again(const struct intro_regs *regs, struct fmt_task *rec)
{
    rec->rip = regs->ip - SYSCALL_BYTES;
    rec->rax = regs->orig_ax;
    rec->orig_rax = UINT64_MAX;
}

struct reentry {
    struct intro_ctx *c;
    const struct call *call;
    const struct intro_regs *regs;
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
    e->rec->rip = e->regs->ip;
    e->rec->rax = (uint64_t)-ERESTART_RESTARTBLOCK;
    e->rec->orig_rax = e->regs->orig_ax;
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
    bool plain = e->regs->orig_ax == NR_NANOSLEEP;

    if (!plain && argument(e->regs, 1) & TIMER_ABSTIME)
        return;
    if (!plain && is_other_clock(argument(e->regs, 0))) {
        intro_refuse(e->c, "cpu-sleep",
                     "thread %" G_GUINT64_FORMAT
                     " sleeps on a clock of consumed CPU time or an alarm clock",
                     e->rec->tid);
        return;
    }
    restart_with(e, FMT_RESTART_NANOSLEEP, plain ? CLOCK_MONOTONIC : argument(e->regs, 0),
                 argument(e->regs, plain ? 1 : 3), left_ns(e));
}

static void keep_poll(struct reentry *e)
{
    if ((int32_t)argument(e->regs, e->call->argument) < 0)
        return;
    restart_with(e, FMT_RESTART_POLL, CLOCK_MONOTONIC, argument(e->regs, 0), left_ns(e));
    e->rec->restart_arg1 = argument(e->regs, 1);
}

static void keep_futex(struct reentry *e)
{
    uint64_t op = argument(e->regs, 1);

    if (FUTEX_CMD(op) != FUTEX_WAIT_CMD || !argument(e->regs, e->call->argument))
        return;
    restart_with(e, FMT_RESTART_FUTEX, CLOCK_MONOTONIC, argument(e->regs, 0), left_ns(e));
    e->rec->restart_arg1 = argument(e->regs, 2);
    e->rec->restart_arg2 = op;
    e->rec->restart_arg3 = UINT32_MAX;
}

static void keep_written_back(struct reentry *e)
{
    uint64_t addr = argument(e->regs, e->call->argument);
    int64_t unit = e->call->timeout == T_TIMEVAL ? 1000 : 1;

    if (!addr)
        return;
    int64_t left = (int64_t)left_ns(e);
    patch_timeout(e->c, e->mm_ref, addr, left / 1000000000, left % 1000000000 / unit);
}

static void keep_millis(struct reentry *e)
{
    if ((int32_t)argument(e->regs, e->call->argument) >= 0)
        e->rec->r10 = (left_ns(e) + 999999) / 1000000;
}

static void keep_timeout(struct reentry *e)
{
    switch ((enum timeout)e->call->timeout) {
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
        keep_written_back(e);
        return;
    case T_MILLIS:
        keep_millis(e);
        return;
    case T_CONST:
        if (argument(e->regs, e->call->argument))
            intro_note(e->c, FMT_NOTE_LOSS, "timeout",
                       "thread %" G_GUINT64_FORMAT " starts the timeout of its %s over",
                       e->rec->tid, e->call->name);
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
    return true;
}

static bool block_poll(IntroReader *r, struct gva block, struct reentry *e)
{
    restart_with(e, FMT_RESTART_POLL, CLOCK_MONOTONIC, rd(r, block, M_restart_poll_ufds), 0);
    e->rec->restart_arg1 = rd(r, block, M_restart_poll_nfds);
    if (!rd(r, block,
            M_restart_poll_has_timeout)) { // a plain poll again: its arguments are unchanged
        e->rec->restart = FMT_RESTART_NONE;
        enter_again(e->regs, e->rec);
        e->rec->rax = NR_POLL;
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
    uint64_t op = argument(e->regs, 1);
    const struct intro_clock *now = e->c->clock;

    // The kernel keeps a block for absolute times as well; there the arguments say it all.
    if (FUTEX_CMD(op) != FUTEX_WAIT_CMD) {
        enter_again(e->regs, e->rec);
        e->rec->rax = NR_FUTEX;
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
                           const struct intro_regs *regs, struct fmt_task *rec, GError **error)
{
    struct reentry e = {.c = c, .call = find_call(regs->orig_ax), .regs = regs, .rec = rec};

    if (!e.call || may_be_half_done(e.call, regs)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "thread %" G_GUINT64_FORMAT " is in %s, which may be half done", rec->tid,
                    e.call ? e.call->name : "an unknown system call");
        return false;
    }
    e.sleep = intro_timers_find(c->timers, task);
    e.mm_ref = intro_object_ref(c, mm);
    enter_again(regs, rec);
    if (e.call->timeout == T_BLOCK)
        return use_block(&e, task, error);
    keep_timeout(&e);
    if (e.lost)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "thread %" G_GUINT64_FORMAT " sleeps in %s with a timeout that no timer has",
                    rec->tid, e.call->name);
    return !e.lost;
}

bool intro_syscall_finish(struct intro_ctx *c, struct gva task, struct gva mm,
                          const struct intro_regs *regs, bool frozen, struct fmt_task *rec,
                          GError **error)
{
    struct reentry e = {.c = c, .call = find_call(regs->orig_ax), .regs = regs, .rec = rec};
    int64_t result = (int64_t)regs->ax;

    if (result == -ERESTART_RESTARTBLOCK)
        return use_block(&e, task, error);
    // Whether the call is restarted or fails with EINTR depends on the signal that will be
    // delivered first: the registers stay as they are, and the kernel that the thread goes on in
    // decides.
    if (result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND)
        return true;
    if (frozen && result == -EINTR && e.call && e.call->class == WAIT)
        rec->rax = (uint64_t)-ERESTARTNOHAND;
    else
        rec->orig_rax = UINT64_MAX; // finished: there is nothing to restart any more
    return true;
}
