// SPDX-License-Identifier: GPL-2.0-or-later
// Sleeps that are counted in jiffies: schedule_timeout() (kernel/time/timer.c).
#include "introspect/timer.h"

#include <time.h>

#include "introspect/reader.h"

/*
 * schedule_timeout() has a struct process_timer among its variables, which is queued in the timer
 * wheel. It is found by what it must look like: its function, its task, and that the queue leads to
 * it.
 */
#define MAX_FRAME_BYTES 4096

static bool is_timer_of(IntroReader *r, struct gva at, struct gva task, struct gva function,
                        bool queued)
{
    struct gva timer = intro_member_addr(r->k, at, M_process_timer_timer);

    if (rd_ptr(r, at, M_process_timer_task).addr != task.addr ||
        rd_ptr(r, timer, M_timer_function).addr != function.addr)
        return false;
    struct gva pprev = rd_ptr(r, timer, M_timer_pprev);
    return queued ? pprev.addr && rd_ptr_at(r, pprev).addr == timer.addr : !pprev.addr;
}

// An idle guest counts its jiffies when it wakes up.
static bool until(IntroKernel *k, uint64_t expires, const struct intro_clock *clock, int64_t *ret,
                  GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva jiffies_at, updated_at;

    if (!intro_symbol(k, "jiffies_64", &jiffies_at, error) ||
        !intro_symbol(k, "last_jiffies_update", &updated_at, error))
        return false;
    uint64_t jiffies = rd_u64_at(&r, jiffies_at), updated = rd_u64_at(&r, updated_at);
    int64_t ticks = (int64_t)(expires - jiffies);

    *ret = CLAMP(ticks, 0, G_MAXINT32) * (int64_t)clock->jiffy_ns -
           (clock->monotonic_ns - (int64_t)updated);
    return rd_done(&r, error);
}

static bool find(IntroKernel *k, struct gva task, const struct intro_chain *chain, bool queued,
                 struct gva *ret, GError **error)
{
    const int i = intro_chain_find(chain, "schedule_timeout");
    struct gva function;

    *ret = GVA(0);
    if (i < 0)
        return true;
    if (!intro_symbol(k, "process_timeout", &function, error))
        return false;
    const uint64_t end = MIN(chain->frame[i + 1], chain->frame[i] + MAX_FRAME_BYTES);
    for (uint64_t at = chain->frame[i]; at + intro_sizeof(k, T_process_timer) <= end; at += 8) {
        g_auto(IntroReader) r = INTRO_READER(k);
        if (is_timer_of(&r, GVA(at), task, function, queued) && !r.error) {
            *ret = GVA(at);
            return true;
        }
    }
    return true;
}

bool intro_wheel_find(IntroKernel *k, const struct intro_clock *clock, struct gva task,
                      const struct intro_chain *chain, struct intro_sleep *ret, bool *ret_found,
                      GError **error)
{
    struct gva timer;
    uint64_t expires;
    int64_t left;

    *ret_found = false;
    if (!find(k, task, chain, true, &timer, error))
        return false;
    if (!timer.addr)
        return true;
    if (!intro_get(k, intro_member_addr(k, timer, M_process_timer_timer), M_timer_expires, &expires,
                   error) ||
        !until(k, expires, clock, &left, error))
        return false;
    *ret_found = true;
    *ret = (struct intro_sleep){.by_wheel = true,
                                .clock = CLOCK_MONOTONIC,
                                .expires_ns = clock->monotonic_ns + left,
                                .remaining_ns = MAX(0, left)};
    return true;
}

bool intro_wheel_is_over(IntroKernel *k, struct gva task, const struct intro_chain *chain,
                         bool *ret, GError **error)
{
    struct gva timer;

    if (!find(k, task, chain, false, &timer, error))
        return false;
    *ret = timer.addr != 0;
    return true;
}
