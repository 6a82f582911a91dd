// SPDX-License-Identifier: GPL-2.0-or-later
// Calls with a relative timeout that were cut off go on with what is left of it.
//
// The kernel keeps such a call in the thread's restart block, which no interface sets. So the
// thread enters the call anew with the remaining time and finds a signal pending: the kernel backs
// out with -ERESTART_RESTARTBLOCK and keeps the block. Then the thread gets its own registers, with
// that result, and when it is let go the kernel turns it into restart_syscall() or, if a handler
// runs first, into EINTR, as it would have at home.

#include <errno.h>
#include <linux/futex.h>
#include <linux/time_types.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "guestagent/engine.h"
#include "guestagent/ia32.h"

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

// Memory of the program that the call writes to when it is interrupted, which it was not at home.
struct kept {
    uint64_t addr;
    size_t bytes;
};

struct timespec32 {
    int32_t tv_sec, tv_nsec;
};

// A sleep that writes what is left of it as 32-bit code has it.
static bool is_narrow_sleep(const struct fmt_task *t)
{
    return t->restart == FMT_RESTART_NANOSLEEP && t->compat_call && t->restart_arg1;
}

// One way to wait. `prepare` fills the arguments; the timespec at `*ts` goes to scratch address
// `scratch`.
struct wait_call {
    enum fmt_restart kind;
    long nr, ia32_nr;
    void (*prepare)(AgentTask *t, uint64_t scratch, struct __kernel_timespec *ts, uint64_t args[6],
                    struct kept *kept);
};

static void prepare_sleep(AgentTask *t, uint64_t scratch, struct __kernel_timespec *ts,
                          uint64_t args[6], struct kept *kept)
{
    const uint64_t left = agent_time_left(t->proc->r, t->rec->restart_ns);

    *ts = (struct __kernel_timespec){left / NS_PER_S, left % NS_PER_S};
    args[0] = t->rec->restart_clock;
    args[1] = 0; // relative
    args[2] = scratch;
    args[3] = t->rec->restart_addr;
    *kept =
        (struct kept){t->rec->restart_addr, !t->rec->restart_addr     ? 0
                                            : is_narrow_sleep(t->rec) ? sizeof(struct timespec32)
                                                                      : sizeof *ts};
}

static void prepare_poll(AgentTask *t, uint64_t scratch, struct __kernel_timespec *ts,
                         uint64_t args[6], struct kept *kept)
{
    const uint64_t left = agent_time_left(t->proc->r, t->rec->restart_ns);

    args[0] = t->rec->restart_addr;
    args[1] = t->rec->restart_arg1;
    args[2] = MIN((left + NS_PER_MS - 1) / NS_PER_MS, (uint64_t)G_MAXINT); // never early
    *kept = (struct kept){t->rec->restart_addr, t->rec->restart_arg1 * sizeof(struct pollfd)};
}

static void prepare_futex(AgentTask *t, uint64_t scratch, struct __kernel_timespec *ts,
                          uint64_t args[6], struct kept *kept)
{
    const uint64_t flags = t->rec->restart_arg2 & (FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    const uint64_t bitset = t->rec->restart_arg3;

    *ts = agent_time_deadline(t->proc->r,
                              flags & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC,
                              t->rec->restart_ns);
    args[0] = t->rec->restart_addr;
    args[1] = FUTEX_WAIT_BITSET | flags; // takes a deadline
    args[2] = t->rec->restart_arg1;
    args[3] = scratch;
    args[5] = bitset ? bitset : FUTEX_BITSET_MATCH_ANY;
    *kept = (struct kept){0, 0};
}

static const struct wait_call wait_calls[] = {
    {FMT_RESTART_NANOSLEEP, SYS_clock_nanosleep, IA32_CLOCK_NANOSLEEP_TIME64, prepare_sleep},
    {FMT_RESTART_POLL, SYS_poll, IA32_POLL, prepare_poll},
    {FMT_RESTART_FUTEX, SYS_futex, IA32_FUTEX_TIME64, prepare_futex},
};

static const struct wait_call *find(uint64_t kind)
{
    for (size_t i = 0; i < G_N_ELEMENTS(wait_calls); i++) {
        if (wait_calls[i].kind == kind)
            return &wait_calls[i];
    }
    return NULL;
}

void agent_restart_plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const struct fmt_task *t = ((AgentTask *)g_ptr_array_index(p->tasks, j))->rec;

            if (t->restart == FMT_RESTART_ENTER)
                agent_entry_plan(r, g_ptr_array_index(p->tasks, j));
            else if (t->restart != FMT_RESTART_NONE && t->restart != FMT_RESTART_MOVED &&
                     !find(t->restart))
                agent_refuse(r, "restart", p->rec->pid, -1,
                             "thread %" G_GUINT64_FORMAT " waits in a way (%" G_GUINT64_FORMAT
                             ") that is not supported",
                             t->tid, t->restart);
            if (t->restart == FMT_RESTART_POLL && t->restart_arg1 > 1 << 20)
                agent_refuse(r, "restart", p->rec->pid, -1,
                             "thread %" G_GUINT64_FORMAT " polls too many descriptors", t->tid);
        }
    }
}

bool agent_restart_arm(AgentTask *t, int64_t *ret_rax, GError **error)
{
    const struct wait_call *call = find(t->rec->restart);
    const uint64_t scratch = t->tracee.site->scratch;
    struct __kernel_timespec ts = {0};
    uint64_t args[6] = {0};
    struct kept kept;

    call->prepare(t, scratch, &ts, args, &kept);
    const struct timespec32 ts32 = {(int32_t)ts.tv_sec, (int32_t)ts.tv_nsec};
    const bool ia32 = t->rec->compat_call, narrow = is_narrow_sleep(t->rec);
    const long nr = narrow ? IA32_CLOCK_NANOSLEEP : ia32 ? call->ia32_nr : call->nr;
    g_autofree void *before = g_malloc(kept.bytes);

    if (kept.bytes && !agent_remote_read(&t->tracee, kept.addr, before, kept.bytes, error))
        return false;
    return agent_remote_put(&t->tracee, 0, narrow ? (const void *)&ts32 : &ts,
                            narrow ? sizeof ts32 : sizeof ts, NULL, error) &&
           agent_remote_interrupted(&t->tracee, ia32, nr, args, ret_rax, error) &&
           // What has become ready meanwhile is told; a sleep that is over has written nothing.
           (!kept.bytes || *ret_rax >= 0 ||
            agent_remote_write(&t->tracee, kept.addr, before, kept.bytes, error));
}
