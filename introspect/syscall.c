// SPDX-License-Identifier: GPL-2.0-or-later
// System calls that a thread was found in, and how they go on in another kernel.
#include "introspect/syscall.h"

#include <string.h>
#include <time.h>

#include "introspect/reader.h"
#include "introspect/reentry.h"
#include "introspect/tty.h"

/*
 * A call that sleeps without having done anything is entered again, by the kernel that the thread
 * goes on in: its result is what the kernel has of a call that a signal interrupts. So a signal
 * that comes before the thread runs is one that came while it slept, and the call fails with EINTR
 * or begins anew after its handler as it should. What is left of its timeout: timeout.c. A call
 * that has been interrupted by the kernel may have left a restart block, which says what remains to
 * be done.
 */
#define TT_COMPAT 2 // enum timespec_type, include/linux/restart_block.h

static const struct intro_syscall calls[] = {
#define CALL(nr, name, class, timeout, argument) [nr] = {#name, class, T_##timeout, argument},
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

void intro_enter_again(const struct intro_call *call, int result, struct fmt_task *rec)
{
    rec->rip = call->ip;
    rec->rax = (uint64_t)(int64_t)result;
    rec->orig_rax = call->entered;
}

int intro_interrupted(const struct intro_call *call)
{
    if (call->nr == NR_futex)
        return intro_futex_interrupted(call);
    return call->row && call->row->class == BREAKS ? -ERESTARTNOHAND : -ERESTARTSYS;
}

/* ---- restart blocks ---- */

typedef bool (*block_fn)(IntroReader *r, struct gva block, struct intro_reentry *e);

static bool block_nanosleep(IntroReader *r, struct gva block, struct intro_reentry *e)
{
    uint32_t clock = rd(r, block, M_restart_nanosleep_clockid);
    int64_t expires = (int64_t)rd(r, block, M_restart_nanosleep_expires);
    const struct intro_clock *now = e->c->clock;
    int64_t at = clock == CLOCK_REALTIME || clock == CLOCK_TAI ? now->realtime_ns
                 : clock == CLOCK_BOOTTIME                     ? now->boottime_ns
                                                               : now->monotonic_ns;

    intro_restart_with(e, FMT_RESTART_NANOSLEEP, clock, rd(r, block, M_restart_nanosleep_rmtp),
                       (uint64_t)MAX(0, expires - at));
    e->rec->restart_arg1 = rd(r, block, M_restart_nanosleep_type) == TT_COMPAT;
    return true;
}

static bool block_poll(IntroReader *r, struct gva block, struct intro_reentry *e)
{
    intro_restart_with(e, FMT_RESTART_POLL, CLOCK_MONOTONIC, rd(r, block, M_restart_poll_ufds), 0);
    e->rec->restart_arg1 = rd(r, block, M_restart_poll_nfds);
    if (!rd(r, block,
            M_restart_poll_has_timeout)) { // a plain poll again: its arguments are unchanged
        e->rec->restart = FMT_RESTART_NONE;
        intro_enter_again(e->call, -ERESTARTNOHAND, e->rec);
        e->rec->orig_rax = e->call->compat ? IA32_POLL : NR_poll;
        return true;
    }
    int64_t end = (int64_t)(rd(r, block, M_restart_poll_tv_sec) * 1000000000 +
                            rd(r, block, M_restart_poll_tv_nsec));
    e->rec->restart_ns = (uint64_t)MAX(0, end - e->c->clock->monotonic_ns);
    return true;
}

static bool block_futex(IntroReader *r, struct gva block, struct intro_reentry *e)
{
    int64_t end = (int64_t)rd(r, block, M_restart_futex_time);
    uint64_t op = intro_argument(e->call, 1);
    const struct intro_clock *now = e->c->clock;

    // The kernel keeps a block for absolute times as well; there the arguments say it all, but for
    // which of the two calls of i386 it was once restart_syscall has taken the place of its number.
    if (FUTEX_CMD(op) != FUTEX_WAIT_CMD && !(e->call->compat && e->call->nr != NR_futex)) {
        intro_enter_again(e->call, -ERESTARTNOHAND, e->rec);
        e->rec->orig_rax = e->call->compat ? e->call->entered : NR_futex;
        return true;
    }
    intro_restart_with(
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

// The function that the block is for. That of a futex is taken out of it while it runs.
static const char *block_function(const struct intro_reentry *e, const char *named)
{
    for (size_t i = 0; g_strcmp0(named, "do_no_restart_syscall") == 0 && i < G_N_ELEMENTS(blocks);
         i++)
        if (intro_chain_has(e->where->chain, blocks[i].function))
            return blocks[i].function;
    return named;
}

static bool use_block(struct intro_reentry *e, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(e->c->k);
    struct gva block = intro_member_addr(e->c->k, e->where->task, M_task_restart_block);
    struct gva fn = rd_ptr(&r, block, M_restart_fn);
    uint64_t offset;

    if (!rd_done(&r, error))
        return false;
    const char *name = block_function(e, intro_symbol_at(e->c->k, fn, &offset));
    for (size_t i = 0; name && i < G_N_ELEMENTS(blocks); i++)
        if (strcmp(name, blocks[i].function) == 0)
            return blocks[i].read(&r, block, e) && rd_done(&r, error);
    intro_refuse(e->c, "restart", "thread %" G_GUINT64_FORMAT " waits in %s, which cannot go along",
                 e->rec->tid, name ? name : "an unknown restart function");
    return true;
}

bool intro_syscall_reenter(struct intro_ctx *c, const struct intro_where *where,
                           const struct intro_call *call, struct fmt_task *rec, GError **error)
{
    struct intro_call again = *call;
    struct intro_reentry e = {.c = c, .where = where, .call = &again, .rec = rec};

    const bool is_futex = call->nr == NR_futex;
    enum intro_transfer done = INTRO_UNSURE;

    e.mm_ref = intro_object_ref(c, where->mm);
    if (call->row && !(is_futex ? intro_futex : intro_transfer)(&e, &done, error))
        return false;
    // Woken with a part done, it may have more to say than how much (SIGPIPE), and says it soon.
    if (done == INTRO_OVER && where->woken)
        done = INTRO_UNSURE;
    if (done == INTRO_UNSURE) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "thread %" G_GUINT64_FORMAT " is in %s, which may be half done", rec->tid,
                    call->row ? call->row->name : "an unknown system call");
        return false;
    }
    if (done == INTRO_OVER)
        return true;
    intro_enter_again(call, intro_interrupted(call), rec);
    if (call->row->timeout == T_BLOCK)
        return use_block(&e, error);
    intro_timeout_keep(&e);
    intro_futex_moved(&e);
    if (e.lost) // it has expired just now
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "thread %" G_GUINT64_FORMAT " sleeps in %s with a timeout that no timer has",
                    rec->tid, call->row->name);
    return !e.lost;
}

// A waiter for a futex that was moved to another before our agent stopped it.
static bool is_moved(const struct intro_reentry *e)
{
    return e->where->key && e->call->nr == NR_futex;
}

static bool wait_elsewhere(struct intro_reentry *e, GError **error)
{
    if (!intro_futex_frozen(e, e->where->key, error))
        return false;
    intro_futex_moved(e);
    return true;
}

bool intro_syscall_finish(struct intro_ctx *c, const struct intro_where *where,
                          const struct intro_call *call, bool frozen, struct fmt_task *rec,
                          GError **error)
{
    struct intro_call again = *call;
    struct intro_reentry e = {.c = c, .where = where, .call = &again, .rec = rec};
    int64_t result = (int64_t)call->result;

    e.mm_ref = intro_object_ref(c, where->mm);
    if (result == -ERESTART_RESTARTBLOCK)
        return use_block(&e, error) && (!is_moved(&e) || wait_elsewhere(&e, error));
    if (result == -ERESTARTSYS && is_moved(&e)) {
        intro_enter_again(&again, -ERESTARTSYS, rec);
        return wait_elsewhere(&e, error);
    }
    // Whether the call is restarted or fails with EINTR depends on the signal that will be
    // delivered first: the registers stay as they are, and the kernel that the thread goes on in
    // decides.
    if (result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND) {
        // select, ppoll: the kernel has written what was left when our agent stopped them, but time
        // goes on.
        if (frozen && result == -ERESTARTNOHAND && call->row && where->sleep)
            intro_timeout_keep_written(&e);
        return true;
    }
    bool cut = false;
    if (frozen && result > 0 && !intro_tty_read_cut(&e, &cut, error))
        return false;
    if (cut)
        intro_enter_again(call, -ERESTARTSYS, rec);
    else if (frozen && result == -EINTR && call->row &&
             (call->row->class == WAIT || call->row->class == BREAKS))
        rec->rax = (uint64_t)-ERESTARTNOHAND;
    else
        rec->orig_rax = UINT64_MAX; // finished: there is nothing to restart any more
    return true;
}
