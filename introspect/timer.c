// SPDX-License-Identifier: GPL-2.0-or-later
// When sleeping tasks would wake up: the hrtimers of all CPUs (kernel/time/hrtimer.c).
#include "introspect/timer.h"

#include <time.h>

#include "introspect/context.h"
#include "introspect/reader.h"

/*
 * A task that sleeps with a timeout has a struct hrtimer_sleeper on its kernel stack, whose timer
 * is queued on some CPU and whose function is hrtimer_wakeup. Walking the queues finds it for every
 * system call alike, without knowing the stack frames of any.
 */
#define MAX_TIMERS      (1u << 20)
#define MAX_CLOCK_BASES 16
#define HRTIMER_QUEUED  1 // HRTIMER_STATE_ENQUEUED

struct intro_timers {
    GHashTable *by_task; // task address -> struct intro_sleep
};

int64_t intro_clock_now(const struct intro_clock *clock, uint32_t id)
{
    switch (id) {
    case CLOCK_REALTIME:
        return clock->realtime_ns;
    case CLOCK_TAI:
        return clock->tai_ns;
    case CLOCK_BOOTTIME:
        return clock->boottime_ns;
    default:
        return clock->monotonic_ns;
    }
}

struct timer_walk {
    IntroKernel *k;
    const struct intro_clock *clock;
    struct intro_timers *timers;
    struct gva wakeup; // hrtimer_wakeup
    uint32_t clock_id;
};

static bool read_timer(struct gva node, void *user, GError **error)
{
    struct timer_walk *w = user;
    g_auto(IntroReader) r = INTRO_READER(w->k);
    struct gva timer = intro_container(w->k, node, M_hrtimer_node);
    struct gva function = rd_ptr(&r, timer, M_hrtimer_function);

    if (!rd_done(&r, error))
        return false;
    if (function.addr != w->wakeup.addr)
        return true;
    struct gva task = rd_ptr(&r, intro_container(w->k, timer, M_sleeper_timer), M_sleeper_task);
    struct intro_sleep *sleep = g_new0(struct intro_sleep, 1);
    sleep->clock = w->clock_id;
    sleep->expires_ns = (int64_t)rd(&r, timer, M_hrtimer_softexpires);
    sleep->remaining_ns = MAX(0, sleep->expires_ns - intro_clock_now(w->clock, w->clock_id));
    g_hash_table_insert(w->timers->by_task, GSIZE_TO_POINTER(task.addr), sleep);
    return rd_done(&r, error);
}

static bool read_cpu(struct timer_walk *w, struct gva cpu_base, GError **error)
{
    uint32_t n = intro_place(w->k, M_hrtimer_cpu_base_clock_base)->n_elements;

    if (!intro_check_spinlock(w->k, intro_member_addr(w->k, cpu_base, M_hrtimer_cpu_base_lock),
                              "hrtimer queue", error))
        return false;
    for (uint32_t i = 0; i < MIN(n, MAX_CLOCK_BASES); i++) {
        g_auto(IntroReader) r = INTRO_READER(w->k);
        struct gva base = rd_elem(&r, cpu_base, M_hrtimer_cpu_base_clock_base, i,
                                  intro_sizeof(w->k, T_hrtimer_clock_base));
        struct gva root = rd_ptr(&r, base, M_hrtimer_clock_base_active);
        w->clock_id = rd(&r, base, M_hrtimer_clock_base_clockid);
        // An expired timer is off the queue before it has woken its task.
        if (rd_opt(&r, base, M_hrtimer_clock_base_running, 0)) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY, "a timer is expiring");
            return false;
        }
        if (!rd_done(&r, error) || !intro_walk_rbtree(w->k, root, MAX_TIMERS, read_timer, w, error))
            return false;
    }
    return true;
}

struct intro_timers *intro_timers_read(IntroKernel *k, const struct intro_clock *clock,
                                       GError **error)
{
    struct intro_timers *timers = g_new0(struct intro_timers, 1);
    struct timer_walk walk = {.k = k, .clock = clock, .timers = timers};
    bool ok = intro_symbol(k, "hrtimer_wakeup", &walk.wakeup, error);

    timers->by_task = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    for (unsigned cpu = 0; ok && cpu < intro_n_cpus(k); cpu++) {
        struct gva base;
        ok = intro_percpu(k, "hrtimer_bases", cpu, &base, error) && read_cpu(&walk, base, error);
    }
    if (!ok) {
        g_prefix_error(error, "timers: ");
        intro_timers_free(timers);
        return NULL;
    }
    return timers;
}

void intro_timers_free(struct intro_timers *timers)
{
    if (!timers)
        return;
    g_hash_table_unref(timers->by_task);
    g_free(timers);
}

const struct intro_sleep *intro_timers_find(const struct intro_timers *timers, struct gva task)
{
    return g_hash_table_lookup(timers->by_task, GSIZE_TO_POINTER(task.addr));
}

bool intro_hrtimer_due(IntroKernel *k, struct gva hrtimer, const struct intro_clock *clock,
                       struct intro_due *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva base = rd_ptr(&r, hrtimer, M_hrtimer_base);
    struct intro_due due = {
        .queued = rd_opt(&r, hrtimer, M_hrtimer_state, HRTIMER_QUEUED) & HRTIMER_QUEUED,
        .clock = rd(&r, base, M_hrtimer_clock_base_clockid),
    };

    due.left_ns =
        (int64_t)rd(&r, hrtimer, M_hrtimer_softexpires) - intro_clock_now(clock, due.clock);
    if (!rd_done(&r, error))
        return false;
    *ret = due;
    return true;
}
