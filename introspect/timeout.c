// SPDX-License-Identifier: GPL-2.0-or-later
// What is left of the timeout of a call that is entered again, and how it is told.
#include <time.h>

#include "introspect/reentry.h"

/*
 * A relative timeout must not start over. The timer that the thread sleeps by says how much is
 * left, and the timeout's kind says how to tell the call:
 *
 *   with a restart block   the agent arms the block of the new kernel (FMT_RESTART_NANOSLEEP ...)
 *   anything else          the agent lets the thread enter the call with what is left in the place
 *                          of the timeout, and puts the place back (FMT_RESTART_ENTER)
 *
 * Those that the kernel itself writes back (select, ppoll) are not put back.
 */

// What is left of the timeout that the call sleeps with.
static uint64_t left_ns(struct intro_reentry *e)
{
    if (!e->where->sleep)
        e->lost = !e->where->woken;
    return e->where->sleep ? (uint64_t)e->where->sleep->remaining_ns : 0;
}

void intro_restart_with(struct intro_reentry *e, enum fmt_restart kind, uint64_t clock,
                        uint64_t addr, uint64_t ns)
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

// The call begins anew, with what is left in the place of its timeout.
static void enter_with(struct intro_reentry *e, enum fmt_timeout form, uint64_t addr, bool back)
{
    const uint64_t left = left_ns(e);

    e->rec->restart = FMT_RESTART_ENTER;
    e->rec->restart_clock = CLOCK_MONOTONIC;
    e->rec->restart_ns = left;
    e->rec->restart_addr = addr;
    e->rec->restart_arg1 = form;
    e->rec->restart_arg2 = back;
}

// Clocks of which no hrtimer tells what is left: of CPU time (negative ids are those of other
// tasks), and those that wake a suspended machine.
static bool is_other_clock(uint64_t clock)
{
    return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID ||
           clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM || (int32_t)clock < 0;
}

static void keep_sleep(struct intro_reentry *e)
{
    bool plain = e->call->nr == NR_nanosleep;

    if (!plain && intro_argument(e->call, 1) & TIMER_ABSTIME)
        return;
    if (!plain && is_other_clock(intro_argument(e->call, 0))) {
        intro_refuse(e->c, "cpu-sleep",
                     "thread %" G_GUINT64_FORMAT
                     " sleeps on a clock of consumed CPU time or an alarm clock",
                     e->rec->tid);
        return;
    }
    intro_restart_with(e, FMT_RESTART_NANOSLEEP,
                       plain ? CLOCK_MONOTONIC : intro_argument(e->call, 0),
                       intro_argument(e->call, plain ? 1 : 3), left_ns(e));
    e->rec->restart_arg1 = e->call->compat && e->call->entered != IA32_CLOCK_NANOSLEEP_TIME64;
}

static void keep_poll(struct intro_reentry *e)
{
    if ((int32_t)intro_argument(e->call, e->call->row->argument) < 0)
        return;
    intro_restart_with(e, FMT_RESTART_POLL, CLOCK_MONOTONIC, intro_argument(e->call, 0),
                       left_ns(e));
    e->rec->restart_arg1 = intro_argument(e->call, 1);
}

static void keep_futex(struct intro_reentry *e)
{
    uint64_t op = intro_argument(e->call, 1);

    if (FUTEX_CMD(op) != FUTEX_WAIT_CMD || !intro_argument(e->call, e->call->row->argument))
        return;
    intro_restart_with(e, FMT_RESTART_FUTEX, CLOCK_MONOTONIC, intro_argument(e->call, 0),
                       left_ns(e));
    e->rec->restart_arg1 = intro_argument(e->call, 2);
    e->rec->restart_arg2 = op;
    e->rec->restart_arg3 = UINT32_MAX;
}

static void keep_written_back(struct intro_reentry *e, enum fmt_timeout form)
{
    uint64_t addr = intro_argument(e->call, e->call->row->argument);

    if (addr)
        enter_with(e, form, addr, false);
}

static void keep_const(struct intro_reentry *e)
{
    const bool narrow = e->call->compat && e->call->entered < IA32_FIRST_TIME64;
    uint64_t addr = intro_argument(e->call, e->call->row->argument);

    if (addr)
        enter_with(e, narrow ? FMT_TIMEOUT_TIMESPEC32 : FMT_TIMEOUT_TIMESPEC, addr, true);
}

static void keep_millis(struct intro_reentry *e)
{
    if ((int32_t)intro_argument(e->call, e->call->row->argument) >= 0)
        enter_with(e, FMT_TIMEOUT_MILLIS, 0, false);
}

/* ---- timeouts of the socket rather than of the call ---- */

const struct fmt_file *intro_file_of(const struct intro_reentry *e, uint64_t nr)
{
    const struct fmt_fd *fd;

    for (size_t i = 0; FMT_NEXT(e->c->img, FD, i, fd); i++)
        if (fd->files == e->rec->files && fd->fd == (uint32_t)nr)
            return fmt_image_by_ref(e->c->img, fd->file, FMT_FILE);
    return NULL;
}

static bool is_socket(const struct intro_reentry *e, uint64_t nr)
{
    const struct fmt_file *file = intro_file_of(e, nr);

    return file && file->kind == FMT_FILE_SOCKET;
}

static void note_over(const struct intro_reentry *e)
{
    intro_note(e->c, FMT_NOTE_LOSS, "timeout",
               "thread %" G_GUINT64_FORMAT " starts the timeout of its %s over", e->rec->tid,
               e->call->row->name);
}

// SO_RCVTIMEO, SO_SNDTIMEO.
static void keep_of_file(struct intro_reentry *e)
{
    const uint64_t fd = (uint32_t)intro_argument(e->call, 0);
    const bool sends =
        e->call->row->class == WRITE || e->call->nr == NR_connect || e->call->nr == NR_sendmmsg;

    if (!e->where->sleep || !e->where->sleep->by_wheel)
        return;
    e->rec->rax = (uint64_t)-ERESTARTNOHAND; // with a timeout no handler has it begin anew
    if (is_socket(e, fd))
        enter_with(e, sends ? FMT_TIMEOUT_SEND : FMT_TIMEOUT_RECEIVE, fd, true);
    else
        note_over(e);
}

void intro_timeout_keep(struct intro_reentry *e)
{
    switch ((enum intro_timeout)e->call->row->timeout) {
    case T_NONE:
        keep_of_file(e);
        return;
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
        keep_written_back(e, FMT_TIMEOUT_TIMEVAL);
        return;
    case T_TIMESPEC:
        keep_written_back(e, FMT_TIMEOUT_TIMESPEC);
        return;
    case T_TIMEVAL32:
        keep_written_back(e, FMT_TIMEOUT_TIMEVAL32);
        return;
    case T_TIMESPEC32:
        keep_written_back(e, FMT_TIMEOUT_TIMESPEC32);
        return;
    case T_MILLIS:
        keep_millis(e);
        return;
    case T_CONST:
        keep_const(e);
        return;
    }
}

void intro_timeout_keep_written(struct intro_reentry *e)
{
    switch ((enum intro_timeout)e->call->row->timeout) {
    case T_TIMEVAL:
    case T_TIMESPEC:
    case T_TIMEVAL32:
    case T_TIMESPEC32:
        intro_timeout_keep(e);
        return;
    default:
        return;
    }
}

void intro_timeout_keep_frozen(struct intro_ctx *c, const struct intro_where *where,
                               const struct intro_call *call, struct fmt_task *rec)
{
    struct intro_call again = *call;
    struct intro_reentry e = {.c = c, .where = where, .call = &again, .rec = rec};
    const enum intro_timeout kind = call->row ? call->row->timeout : T_NONE;

    if (!call->row || call->row->class == QUICK || call->row->class == QUERY || kind == T_SLEEP ||
        kind == T_POLL || kind == T_FUTEX || kind == T_BLOCK)
        return;
    if (where->sleep) {
        intro_timeout_keep(&e);
        return;
    }
    const uint64_t argument = intro_argument(call, call->row->argument);
    if (kind == T_MILLIS ? (int32_t)argument > 0 : kind != T_NONE && argument)
        note_over(&e);
}
