// SPDX-License-Identifier: GPL-2.0-or-later
// Timers of timer_create (kernel/time/posix-timers.c, posix-cpu-timers.c, alarmtimer.c).
#include <signal.h>
#include <string.h>
#include <time.h>

#include "introspect/cputime.h"
#include "introspect/itimer.h"
#include "introspect/timer.h"

/*
 * A timer is armed while its hrtimer, alarm or CPU timer is queued. One that has fired is not: its
 * only struct sigqueue lies in a queue of pending signals, and a periodic timer is armed again when
 * that is delivered, with an overrun that the kernel works out then from when it expired. So all
 * there is to know of it is that moment (and what timer_gettime has counted of the overrun
 * already).
 *
 * The number by which a pending signal and its timer know each other changes when the timer is set
 * anew (si_sys_private until 6.13, it_signal_seq since): what is in the queue then is stale.
 */
#define MAX_TIMERS_OF_PROCESS (1u << 20)
#define SYS_PRIVATE_OFFSET    32 // of si_sys_private in siginfo
#define ALARM_ENQUEUED        1  // ALARMTIMER_STATE_ENQUEUED
#define STATUS_REQUEUE        2  // POSIX_TIMER_REQUEUE_PENDING
#define REQUEUE_PENDING       1
#define SIGQUEUE_PREALLOC     1
#define PIDTYPE_PID           0
#define PIDTYPE_TGID          1

// Clocks of CPU time are negative: pid << 3, inverted, with these below (CPUCLOCK_*).
#define CPU_WHICH(clock)  ((clock)&3)
#define CPU_PER_THREAD(c) ((c)&4)

struct timer {
    struct intro_ctx *c;
    struct gva at, leader;
    struct fmt_posix_timer *rec;
    struct gva sigqueue;
    bool queued;     // armed
    int64_t left_ns; // until it expires, or since
    bool signal;     // its sigqueue is in a queue
    bool stale;      // and what is there was not meant for the present setting
    bool requeue;    // it waits for its signal to be delivered
};

static struct gva sigqueue_of(IntroReader *r, struct gva timer)
{
    // A pointer, or the structure itself.
    return intro_place(r->k, M_kit_sigq)->size_bytes == 8
               ? rd_ptr(r, timer, M_kit_sigq)
               : intro_member_addr(r->k, timer, M_kit_sigq);
}

static void read_signal(IntroReader *r, struct timer *t)
{
    uint8_t info[SYS_PRIVATE_OFFSET + 4] = {0};
    int32_t signo, sent_for;

    t->sigqueue = sigqueue_of(r, t->at);
    rd_bytes(r, t->sigqueue, M_sigqueue_info, info, sizeof(info));
    memcpy(&signo, info, sizeof(signo));
    memcpy(&t->rec->value, info + 24, sizeof(t->rec->value));
    memcpy(&sent_for, info + SYS_PRIVATE_OFFSET, sizeof(sent_for));
    t->rec->signo = (uint32_t)signo;
    struct gva node = intro_member_addr(r->k, t->sigqueue, M_sigqueue_list);
    t->signal = rd_u64_at(r, node) != node.addr;
    if (intro_has(r->k, M_kit_signal_seq)) {
        t->stale = rd(r, t->at, M_kit_signal_seq) != rd(r, t->at, M_kit_sigqueue_seq);
        t->requeue = rd(r, t->at, M_kit_status) == STATUS_REQUEUE;
    } else {
        const int32_t now_for = (int32_t)rd(r, t->at, M_kit_requeue_pending);

        t->stale = t->queued || (t->rec->interval_ns && now_for != sent_for);
        t->requeue = t->rec->interval_ns && (now_for & REQUEUE_PENDING) && !t->queued;
    }
}

// The first task that a struct pid stands for in this role; 0 where it has ended.
static struct gva pid_task(IntroReader *r, struct gva pid, unsigned type)
{
    struct gva node = rd_ptr_at(r, rd_elem(r, pid, M_pid_tasks, type, 8));

    return node.addr ? GVA(intro_container(r->k, node, M_task_pid_links).addr - 16 * type) : node;
}

static bool read_hrtimer(struct timer *t, enum intro_member member, GError **error)
{
    struct intro_due due;

    if (!intro_hrtimer_due(t->c->k, intro_member_addr(t->c->k, t->at, member), t->c->clock, &due,
                           error))
        return false;
    t->queued = due.queued;
    t->left_ns = due.left_ns;
    t->rec->wall = due.clock == CLOCK_REALTIME || due.clock == CLOCK_TAI;
    return true;
}

// The hrtimer of an alarm follows its queue: the alarm itself says when it is due.
static bool read_alarm(struct timer *t, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(t->c->k);
    const uint32_t clock = t->rec->clock == CLOCK_REALTIME_ALARM ? CLOCK_REALTIME : CLOCK_BOOTTIME;

    t->queued = rd(&r, t->at, M_kit_alarm_state) & ALARM_ENQUEUED;
    t->left_ns = (int64_t)rd(&r, t->at, M_kit_alarm_expires) - intro_clock_now(t->c->clock, clock);
    t->rec->wall = clock == CLOCK_REALTIME;
    return rd_done(&r, error);
}

static bool read_cpu(struct timer *t, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(t->c->k);
    const bool thread = CPU_PER_THREAD(t->rec->clock);
    struct gva pid = rd_ptr(&r, t->at, M_kit_cpu_pid);
    struct gva task = pid_task(&r, pid, thread ? PIDTYPE_PID : PIDTYPE_TGID);
    struct intro_cputime used;

    if (!rd_done(&r, error))
        return false;
    if (!task.addr || CPU_WHICH(t->rec->clock) >= INTRO_N_CPU)
        return intro_refuse(t->c, "posix-timer",
                            "has a timer (%" G_GUINT64_FORMAT ") of the CPU time of a task that "
                            "has ended",
                            t->rec->id) ||
               true;
    if (thread ? !intro_cputime_thread(t->c->k, task, &used, error)
               : !intro_cputime_process(t->c->k, task, &used, error))
        return false;
    if (rd_ptr(&r, task, M_task_group_leader).addr != t->leader.addr)
        intro_refuse(t->c, "posix-timer",
                     "has a timer (%" G_GUINT64_FORMAT ") of the CPU time of another process",
                     t->rec->id);
    t->rec->cpu_tid = thread ? intro_pid_nr(&r, pid, intro_pid_level(&r, t->c->root_task)) : 0;
    t->queued = rd(&r, t->at, M_kit_cpu_head);
    const uint64_t expires = rd(&r, t->at, M_kit_cpu_expires);
    // A timer that is not armed says 0.
    t->left_ns = expires ? (int64_t)(expires - used.ns[CPU_WHICH(t->rec->clock)]) : 0;
    return rd_done(&r, error);
}

// How each clock says when a timer of it is due.
static bool read_due(struct timer *t, GError **error)
{
    switch (t->rec->clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_TAI:
        return read_hrtimer(t, M_kit_hrtimer, error);
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM:
        if (intro_has(t->c->k, M_kit_alarm_expires))
            return read_alarm(t, error);
        break;
    default:
        if (t->rec->clock < 0 && CPU_WHICH(t->rec->clock) < INTRO_N_CPU)
            return read_cpu(t, error);
    }
    intro_refuse(t->c, "posix-timer",
                 "has a timer (%" G_GUINT64_FORMAT ") of clock %" G_GINT64_FORMAT
                 ", which is not supported",
                 t->rec->id, t->rec->clock);
    return true;
}

// When a periodic timer that expired left_ns ago (negative) is due next.
static int64_t next_period(int64_t left_ns, uint64_t interval_ns)
{
    return left_ns > 0 ? left_ns : (int64_t)(interval_ns - (uint64_t)-left_ns % interval_ns);
}

static bool judge(struct timer *t, int64_t overrun, GError **error)
{
    struct fmt_posix_timer *rec = t->rec;
    int64_t counted;

    rec->left_ns = t->left_ns;
    if ((rec->notify & ~(uint64_t)SIGEV_THREAD_ID) == SIGEV_NONE) {
        // Never queued: timer_gettime alone tells how it goes on.
        if (rec->interval_ns)
            rec->left_ns = next_period(t->left_ns, rec->interval_ns);
        rec->state = rec->left_ns > 0 ? FMT_TIMER_ARMED : FMT_TIMER_DISARMED;
    } else if (t->queued) {
        rec->state = FMT_TIMER_ARMED;
    } else if ((t->signal && !t->stale) || t->requeue) {
        rec->state = FMT_TIMER_FIRED;
        // timer_gettime moves the expiry on and counts.
        if (__builtin_mul_overflow(overrun + 1, (int64_t)rec->interval_ns, &counted) ||
            __builtin_sub_overflow(t->left_ns, counted, &rec->left_ns)) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                        "k_itimer at %#" G_GINT64_MODIFIER "x: impossible times", t->at.addr);
            return false;
        }
    }
    if (rec->state == FMT_TIMER_DISARMED)
        rec->left_ns = 0;
    return true;
}

static void read_target(IntroReader *r, struct timer *t)
{
    struct gva pid = rd_ptr(r, t->at, M_kit_pid);

    if (!(t->rec->notify & SIGEV_THREAD_ID))
        return;
    t->rec->tid = intro_pid_nr(r, pid, intro_pid_level(r, t->c->root_task));
    if (!r->error && !pid_task(r, pid, PIDTYPE_PID).addr)
        intro_refuse(t->c, "posix-timer",
                     "has a timer (%" G_GUINT64_FORMAT ") that signals a thread that has ended",
                     t->rec->id);
}

struct timer_walk {
    struct intro_ctx *c;
    struct gva leader;
    uint64_t proc;
};

static bool read_timer(struct gva node, void *user, GError **error)
{
    struct timer_walk *w = user;
    g_auto(IntroReader) r = INTRO_READER(w->c->k);
    struct timer t = {
        .c = w->c, .at = intro_container(w->c->k, node, M_kit_list), .leader = w->leader};

    if (!intro_check_spinlock(w->c->k, intro_member_addr(w->c->k, t.at, M_kit_lock), "k_itimer",
                              error))
        return false;
    struct gva sigqueue = sigqueue_of(&r, t.at);
    t.rec = intro_object_add(w->c, sigqueue, FMT_POSIX_TIMER);
    t.rec->proc = w->proc;
    t.rec->id = rd(&r, t.at, M_kit_id);
    t.rec->clock = (int32_t)rd(&r, t.at, M_kit_clock);
    t.rec->notify = (uint32_t)rd(&r, t.at, M_kit_notify);
    t.rec->interval_ns = rd(&r, t.at, M_kit_interval);
    t.rec->overrun_last = CLAMP((int64_t)rd(&r, t.at, M_kit_overrun_last), 0, G_MAXINT);
    const int64_t overrun = (int64_t)rd(&r, t.at, M_kit_overrun);
    if (!rd_done(&r, error) || !read_due(&t, error))
        return false;
    read_signal(&r, &t);
    read_target(&r, &t);
    return rd_done(&r, error) && judge(&t, overrun, error);
}

bool intro_posix_timers(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc,
                        GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva signal = rd_ptr(&r, leader, M_task_signal);
    struct timer_walk walk = {c, leader, proc->rec.objref};
    struct gva timers = intro_member_addr(c->k, signal, M_signal_posix_timers);

    proc->next_timer_id = (uint32_t)rd(&r, signal, M_signal_next_timer_id);
    if (!rd_done(&r, error))
        return false;
    // One pointer is the head of an hlist, two are that of a list.
    return intro_place(c->k, M_signal_posix_timers)->size_bytes == 8
               ? intro_walk_hlist(c->k, timers, MAX_TIMERS_OF_PROCESS, read_timer, &walk, error)
               : intro_walk_list(c->k, timers, MAX_TIMERS_OF_PROCESS, read_timer, &walk, error);
}

bool intro_timer_of_signal(struct intro_ctx *c, struct gva sigqueue, uint64_t *ret_timer,
                           bool *ret_dropped, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    const uint64_t ref = intro_object_ref(c, sigqueue);
    const struct fmt_posix_timer *timer = fmt_image_by_ref(c->img, ref, FMT_POSIX_TIMER);
    const bool is_timers = rd(&r, sigqueue, M_sigqueue_flags) & SIGQUEUE_PREALLOC;

    if (!rd_done(&r, error))
        return false;
    *ret_timer = timer && timer->state == FMT_TIMER_FIRED ? ref : 0;
    // Until 6.13 it comes through as a signal of no timer.
    *ret_dropped = !*ret_timer && is_timers && intro_has(c->k, M_kit_signal_seq);
    return true;
}
