// SPDX-License-Identifier: GPL-2.0-or-later
// Timers of timer_create: made under their ids before signals are queued, armed at the very end.
//
// A kernel since 6.15 gives a timer the id that it is asked for; older ones count, so that what
// lies between two ids is made and deleted. A timer whose signal is pending is armed for the past,
// by which its own signal gets into the queue, and the kernel works out the overrun as it would
// have at home.

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "guestagent/engine.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS     77
#define PR_TIMER_CREATE_RESTORE_IDS_OFF 0
#define PR_TIMER_CREATE_RESTORE_IDS_ON  1
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2
#endif

#define NS_PER_S     1000000000ll
#define N_SIGNALS    64
#define FIRE_WAIT_S  10
#define MAX_COUNT_ID 20000 // each takes two calls

// struct sigevent as the kernel has it.
struct kernel_sigevent {
    uint64_t value;
    int32_t signo, notify, tid;
    uint8_t rest[44];
};

static bool kernel_takes_ids(void)
{
    return prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >= 0;
}

static AgentTask *thread_of(const AgentProc *p, uint64_t tid)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (t->rec->tid == tid)
            return t;
    }
    return NULL;
}

static bool is_cpu_clock(const struct fmt_posix_timer *timer)
{
    return timer->clock < 0;
}

/* ---- plan ---- */

static const char *wrong_with(const AgentProc *p, const struct fmt_posix_timer *timer)
{
    const struct kernel_sigevent none = {.notify = SIGEV_NONE};
    int id;

    if (timer->id > G_MAXINT || timer->state > FMT_TIMER_FIRED || timer->interval_ns > G_MAXINT64 ||
        timer->notify > SIGEV_THREAD_ID ||
        (timer->notify != SIGEV_NONE && (timer->signo < 1 || timer->signo > N_SIGNALS)))
        return "is not well formed";
    if (timer->notify & SIGEV_THREAD_ID && !thread_of(p, timer->tid))
        return "signals a thread that is not in the image";
    if (timer->cpu_tid && !thread_of(p, timer->cpu_tid))
        return "counts the CPU time of a thread that is not in the image";
    if (timer->id > MAX_COUNT_ID && !kernel_takes_ids())
        return "has an id that this kernel would give only after very many others";
    if (is_cpu_clock(timer))
        return NULL;
    if (syscall(SYS_timer_create, (int)timer->clock, &none, &id) < 0)
        return "is of a clock that cannot be had here";
    syscall(SYS_timer_delete, id);
    return NULL;
}

// What the CPU time clock of a new process cannot tell: how long ago something was.
static void plan_overrun(AgentRestore *r, const AgentProc *p, const struct fmt_posix_timer *timer)
{
    if (is_cpu_clock(timer) && timer->state == FMT_TIMER_FIRED && timer->interval_ns &&
        timer->left_ns <= -(int64_t)timer->interval_ns)
        agent_note(r, "timer-overrun", p->rec->pid, -1,
                   "timer %" G_GUINT64_FORMAT
                   " of CPU time loses the overrun of its pending signal",
                   timer->id);
    else if (timer->overrun_last && timer->state != FMT_TIMER_FIRED)
        agent_note(r, "timer-overrun", p->rec->pid, -1,
                   "until timer %" G_GUINT64_FORMAT
                   " expires again timer_getoverrun() gives 0 instead of %" G_GUINT64_FORMAT,
                   timer->id, timer->overrun_last);
}

static void plan(AgentRestore *r)
{
    const struct fmt_posix_timer *timer;

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (size_t j = 0; FMT_NEXT(r->img, POSIX_TIMER, j, timer); j++) {
            if (timer->proc != p->rec->rec.objref)
                continue;
            const char *wrong = wrong_with(p, timer);

            if (wrong)
                agent_refuse(r, "posix-timer", p->rec->pid, -1, "timer %" G_GUINT64_FORMAT " %s",
                             timer->id, wrong);
            plan_overrun(r, p, timer);
        }
    }
}

/* ---- making them ---- */

static bool create(const AgentTask *by, int64_t clock, const struct kernel_sigevent *event,
                   int want, int *ret, GError **error)
{
    const size_t id_at = sizeof *event;
    uint64_t at;

    return agent_remote_put(&by->tracee, 0, event, sizeof *event, &at, error) &&
           agent_remote_put(&by->tracee, id_at, &want, sizeof want, NULL, error) &&
           agent_remote(&by->tracee, "timer_create", SYS_timer_create, NULL, error, clock, at,
                        at + id_at) &&
           agent_remote_read(&by->tracee, at + id_at, ret, sizeof *ret, error);
}

static bool discard(const AgentTask *by, int id, GError **error)
{
    return agent_remote(&by->tracee, "timer_delete", SYS_timer_delete, NULL, error, id);
}

// Makes a timer with this id, which is beyond those that the process has had so far.
static bool create_as(const AgentTask *by, int64_t clock, const struct kernel_sigevent *event,
                      int want, GError **error)
{
    for (;;) {
        int id;

        if (!create(by, clock, event, want, &id, error))
            return false;
        if (id == want)
            return true;
        if (!discard(by, id, error))
            return false;
        if (id > want)
            return agent_fail(error, "timer %d got the id %d", want, id);
    }
}

static int by_id(gconstpointer a, gconstpointer b)
{
    const struct fmt_posix_timer *x = *(void *const *)a, *y = *(void *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

static GPtrArray *timers_of(const AgentProc *p)
{
    GPtrArray *timers = g_ptr_array_new();
    struct fmt_posix_timer *timer;

    for (size_t i = 0; FMT_NEXT(p->r->img, POSIX_TIMER, i, timer); i++) {
        if (timer->proc == p->rec->rec.objref)
            g_ptr_array_add(timers, timer);
    }
    g_ptr_array_sort(timers, by_id);
    return timers;
}

static bool create_timer(const AgentProc *p, const struct fmt_posix_timer *timer, GError **error)
{
    // A clock of a thread's own CPU time is that of whoever makes the timer.
    const AgentTask *by = timer->cpu_tid ? thread_of(p, timer->cpu_tid) : agent_leader(p);
    const struct kernel_sigevent event = {
        .value = timer->value,
        .signo = (int32_t)timer->signo,
        .notify = (int32_t)timer->notify,
        .tid = (int32_t)timer->tid,
    };

    if (create_as(by, timer->clock, &event, (int)timer->id, error))
        return true;
    g_prefix_error(error, "timer %" G_GUINT64_FORMAT ": ", timer->id);
    return false;
}

// The id that the program is given next is the one that it would have been given.
static bool pass_ids(const AgentProc *p, const GPtrArray *timers, bool exact, GError **error)
{
    const struct kernel_sigevent none = {.notify = SIGEV_NONE};
    const struct fmt_posix_timer *last =
        timers->len ? g_ptr_array_index(timers, timers->len - 1) : NULL;
    const uint64_t next = p->rec->next_timer_id;

    if (next == 0 || next > G_MAXINT || (last && next <= last->id + 1) ||
        (!exact && next > MAX_COUNT_ID))
        return true;
    return create_as(agent_leader(p), CLOCK_MONOTONIC, &none, (int)next - 1, error) &&
           discard(agent_leader(p), (int)next - 1, error);
}

static bool set_exact(const AgentProc *p, int how, GError **error)
{
    return agent_remote(&agent_leader(p)->tracee, "PR_TIMER_CREATE_RESTORE_IDS", SYS_prctl, NULL,
                        error, PR_TIMER_CREATE_RESTORE_IDS, how);
}

static bool finish(AgentProc *p, GError **error)
{
    g_autoptr(GPtrArray) timers = timers_of(p);
    const bool exact = kernel_takes_ids();

    if (timers->len == 0 && p->rec->next_timer_id == 0)
        return true;
    if (exact && !set_exact(p, PR_TIMER_CREATE_RESTORE_IDS_ON, error))
        return false;
    for (guint i = 0; i < timers->len; i++) {
        if (!create_timer(p, g_ptr_array_index(timers, i), error))
            return false;
    }
    return pass_ids(p, timers, exact, error) &&
           (!exact || set_exact(p, PR_TIMER_CREATE_RESTORE_IDS_OFF, error));
}

/* ---- arming them ---- */

static bool set(const struct agent_tracee *t, const struct fmt_posix_timer *timer, int flags,
                int64_t value_ns, GError **error)
{
    const int64_t value = MAX(value_ns, 1); // 0 would disarm it
    const struct {
        struct __kernel_timespec interval, value;
    } spec = {{timer->interval_ns / NS_PER_S, timer->interval_ns % NS_PER_S},
              {value / NS_PER_S, value % NS_PER_S}};
    uint64_t at;

    return agent_remote_put(t, 0, &spec, sizeof spec, &at, error) &&
           agent_remote(t, "timer_settime", SYS_timer_settime, NULL, error, timer->id, flags, at,
                        0);
}

// Signals in a queue; -1 on failure.
static int64_t n_pending(const struct agent_tracee *t, bool of_process, GError **error)
{
    siginfo_t infos[16];
    struct __ptrace_peeksiginfo_args args = {
        .flags = of_process ? PTRACE_PEEKSIGINFO_SHARED : 0,
        .nr = G_N_ELEMENTS(infos),
    };

    for (;;) {
        const long n = ptrace(PTRACE_PEEKSIGINFO, t->tid, &args, infos);

        if (n < 0) {
            agent_fail_errno(error, "thread %d: PTRACE_PEEKSIGINFO", t->tid);
            return -1;
        }
        args.off += (uint64_t)n;
        if (n < args.nr)
            return (int64_t)args.off;
    }
}

// Waits until there are more than `before`: a timer that is due fires at the next interrupt.
static bool wait_pending(const struct agent_tracee *t, bool of_process, int64_t before,
                         GError **error)
{
    const gint64 deadline = g_get_monotonic_time() + FIRE_WAIT_S * G_USEC_PER_SEC;

    for (;;) {
        const int64_t n = n_pending(t, of_process, error);

        if (n < 0)
            return false;
        if (n > before)
            return true;
        if (g_get_monotonic_time() > deadline)
            return agent_fail(error, "thread %d: a timer that is due does not fire", t->tid);
        g_usleep(50);
    }
}

// When it was, or will be, due, by its own clock. That of CPU time begins with the process.
static int64_t moment(const AgentProc *p, const struct fmt_posix_timer *timer)
{
    return is_cpu_clock(timer) ? 1
                               : agent_time_moment(p->r, (uint64_t)timer->clock, timer->left_ns);
}

bool agent_posix_timer_fire(AgentTask *t, uint64_t objref, bool to_process, GError **error)
{
    const struct fmt_posix_timer *timer =
        fmt_image_by_ref(t->proc->r->img, objref, FMT_POSIX_TIMER);
    const int64_t before = n_pending(&t->tracee, to_process, error);

    if (before < 0 || !set(&t->tracee, timer, TIMER_ABSTIME, moment(t->proc, timer), error) ||
        !wait_pending(&t->tracee, to_process, before, error)) {
        g_prefix_error(error, "timer %" G_GUINT64_FORMAT ": ", timer->id);
        return false;
    }
    return true;
}

static bool is_fired(const AgentRestore *r, const struct fmt_posix_timer *timer)
{
    const struct fmt_signal *s;

    for (size_t i = 0; FMT_NEXT(r->img, SIGNAL, i, s); i++) {
        if (s->timer == timer->rec.objref)
            return true;
    }
    return false;
}

static bool arm(const AgentProc *p, const struct fmt_posix_timer *timer, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    if (is_cpu_clock(timer))
        return set(t, timer, 0, timer->left_ns, error);
    // A relative timer of CLOCK_REALTIME does not care for what that shows.
    if (timer->clock == CLOCK_REALTIME && !timer->wall && timer->left_ns > 0)
        return set(t, timer, 0, (int64_t)agent_time_left(p->r, (uint64_t)timer->left_ns), error);
    return set(t, timer, TIMER_ABSTIME, moment(p, timer), error);
}

bool agent_posix_timers_arm(AgentProc *p, GError **error)
{
    g_autoptr(GPtrArray) timers = timers_of(p);

    for (guint i = 0; i < timers->len; i++) {
        const struct fmt_posix_timer *timer = g_ptr_array_index(timers, i);

        if (timer->state != FMT_TIMER_DISARMED && !is_fired(p->r, timer) && !arm(p, timer, error)) {
            g_prefix_error(error, "timer %" G_GUINT64_FORMAT ": ", timer->id);
            return false;
        }
    }
    return true;
}

const struct agent_aspect agent_aspect_posix_timer = {
    .name = "timers",
    .plan = plan,
    .finish = finish,
};
