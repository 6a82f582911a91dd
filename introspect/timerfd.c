// SPDX-License-Identifier: GPL-2.0-or-later
// Timerfds (struct timerfd_ctx).
#include "introspect/file.h"
#include "introspect/reader.h"
#include "introspect/timer.h"

#include <time.h>

/*
 * A timer that expires counts a tick and is not queued again before somebody reads or asks for the
 * time left: then the intervals that have passed since are made up for. Until that, `expired` is
 * set and the hrtimer holds the time of the expiry. Clocks that wake a suspended machine have an
 * alarm in the hrtimer's place.
 */
#define ALARM_ENQUEUED 1         // ALARMTIMER_STATE_ENQUEUED
#define MOFFS_CANCELED INT64_MAX // KTIME_MAX

static bool read_alarm(struct intro_ctx *c, struct gva ctx, uint64_t clock, struct intro_due *ret,
                       GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);

    ret->clock = clock == CLOCK_REALTIME_ALARM ? CLOCK_REALTIME : CLOCK_BOOTTIME;
    ret->queued = rd(&r, ctx, M_timerfd_alarm_state) & ALARM_ENQUEUED;
    ret->left_ns =
        (int64_t)rd(&r, ctx, M_timerfd_alarm_expires) - intro_clock_now(c->clock, ret->clock);
    return rd_done(&r, error);
}

static bool read_expiry(struct intro_ctx *c, struct gva ctx, struct fmt_timerfd *rec,
                        GError **error)
{
    struct intro_due due;
    bool ok = rec->clock == CLOCK_REALTIME_ALARM || rec->clock == CLOCK_BOOTTIME_ALARM
                  ? read_alarm(c, ctx, rec->clock, &due, error)
                  : intro_hrtimer_due(c->k, intro_member_addr(c->k, ctx, M_timerfd_hrtimer),
                                      c->clock, &due, error);

    if (!ok)
        return false;
    rec->armed = due.queued;
    if (due.queued || rec->expired) {
        rec->left_ns = due.left_ns;
        rec->expires_ns = due.left_ns + intro_clock_now(c->clock, due.clock);
    }
    return true;
}

bool intro_record_timerfd(struct intro_opened *o, GError **error)
{
    struct intro_ctx *c = o->c;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva ctx = rd_ptr(&r, o->file, M_file_private);

    if (!rd_done(&r, error) ||
        !intro_check_spinlock(c->k, intro_member_addr(c->k, ctx, M_timerfd_lock), "timerfd", error))
        return false;

    struct fmt_timerfd *rec = intro_object_add(c, ctx, FMT_TIMERFD);
    rec->clock = rd(&r, ctx, M_timerfd_clockid);
    rec->flags = rd(&r, ctx, M_timerfd_settime_flags);
    rec->expired = rd(&r, ctx, M_timerfd_expired) != 0;
    rec->ticks = rd(&r, ctx, M_timerfd_ticks);
    rec->interval_ns = rd(&r, ctx, M_timerfd_interval);
    bool canceled = rd(&r, ctx, M_timerfd_might_cancel) &&
                    (int64_t)rd(&r, ctx, M_timerfd_moffs) == MOFFS_CANCELED;
    if (!rd_done(&r, error))
        return false;
    if (canceled)
        intro_refuse(c, "timerfd", "has a timerfd that has yet to say that the clock was set");
    o->rec->object = rec->rec.objref;
    return read_expiry(c, ctx, rec, error);
}
