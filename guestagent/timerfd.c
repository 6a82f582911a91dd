// SPDX-License-Identifier: GPL-2.0-or-later
// Timerfds: armed when nothing else is left to do, so that they expire when they would have.
//
// The kernel has an expiry in the past fire at once and count one; intervals that have passed since
// are made up for when the program reads. So a timer that has expired on the way, or had when it
// was captured, is set to the moment at which it did.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "guestagent/engine.h"

#define NS_PER_S   G_GINT64_CONSTANT(1000000000)
#define HELD_UP_NS (NS_PER_S / 1000)
#define MAX_TRIES  100

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t) // needs CONFIG_CHECKPOINT_RESTORE
#endif

static bool can_set_ticks(int fd)
{
    uint64_t one = 1;

    return ioctl(fd, TFD_IOC_SET_TICKS, &one) == 0;
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_timerfd *rec = fmt_image_by_ref(r->img, f->object, FMT_TIMERFD);
    const int try = rec ? timerfd_create((clockid_t)rec->clock, TFD_CLOEXEC) : -1;

    if (!rec)
        agent_refuse_file(r, "timerfd", f->rec.objref, "the image lacks the timer of a timerfd");
    else if (rec->interval_ns > G_MAXINT64 / 4 || rec->left_ns < -G_MAXINT64 / 4 ||
             rec->left_ns > G_MAXINT64 / 2)
        agent_refuse_file(r, "timerfd", f->rec.objref, "the time of a timerfd is impossible");
    else if (try < 0)
        agent_refuse_file(r, "timerfd", f->rec.objref,
                          "a timerfd by clock %" G_GUINT64_FORMAT ": %s", rec->clock,
                          g_strerror(errno));
    else if (!can_set_ticks(try))
        agent_refuse_file(r, "timerfd", f->rec.objref,
                          "this kernel cannot restore the expirations of a timerfd "
                          "(CONFIG_CHECKPOINT_RESTORE)");
    if (try >= 0)
        close(try);
}

static int open_timerfd(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_timerfd *rec = fmt_image_by_ref(r->img, f->object, FMT_TIMERFD);
    const int fd = agent_fd_up(r, timerfd_create((clockid_t)rec->clock, TFD_CLOEXEC), error);

    return fd >= 0 && agent_fd_status(fd, f, error) ? fd : -1;
}

// The clock in which timerfd_settime takes an absolute time.
static clockid_t base_clock(const struct fmt_timerfd *rec)
{
    switch (rec->clock) {
    case CLOCK_REALTIME_ALARM:
        return CLOCK_REALTIME;
    case CLOCK_BOOTTIME_ALARM:
        return CLOCK_BOOTTIME;
    default:
        return (clockid_t)rec->clock;
    }
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

// The clock that its time passes by: a relative time does whatever becomes of the wall clock.
static clockid_t passing_clock(const struct fmt_timerfd *rec)
{
    const clockid_t clock = base_clock(rec);

    return clock == CLOCK_REALTIME && !(rec->flags & TFD_TIMER_ABSTIME) ? CLOCK_MONOTONIC : clock;
}

// When it expires, or should have, as we see that clock. No time may pass between two looks at it:
// intervals would be shifted, by seconds where we are held up.
static int64_t moment_ns(AgentRestore *r, const struct fmt_timerfd *rec)
{
    const clockid_t clock = passing_clock(rec);

    if (clock == CLOCK_REALTIME)
        return rec->expires_ns;
    return agent_time_here(r, (uint64_t)clock, agent_time_moment(r, (uint64_t)clock, rec->left_ns));
}

static bool set(int fd, uint64_t flags, int64_t value_ns, uint64_t interval_ns, GError **error)
{
    const struct itimerspec spec = {
        .it_value = {value_ns / NS_PER_S, value_ns % NS_PER_S},
        .it_interval = {(time_t)(interval_ns / NS_PER_S), (long)(interval_ns % NS_PER_S)},
    };

    return timerfd_settime(fd, (int)flags, &spec, NULL) == 0 ||
           agent_fail_errno(error, "timerfd_settime");
}

// By a relative time, as it was set at home: we may be held up in between.
static bool set_relative(int fd, const struct fmt_timerfd *rec, int64_t moment, GError **error)
{
    const clockid_t clock = passing_clock(rec);

    for (int tries = 0; tries < MAX_TRIES; tries++) {
        const int64_t before = now_ns(clock);

        if (!set(fd, rec->flags, MAX(moment - before, 1), rec->interval_ns, error))
            return false;
        if (now_ns(clock) - before < HELD_UP_NS)
            break;
    }
    return true;
}

// Sets a timer that is due: it fires while we look. *ret_ticks is what it counts from then on.
static bool set_past(int fd, const struct fmt_timerfd *rec, int64_t moment, uint64_t *ret_ticks,
                     GError **error)
{
    const clockid_t base = base_clock(rec), passing = passing_clock(rec);
    int64_t at = base == passing ? moment : now_ns(base) + moment - now_ns(passing);
    struct pollfd fired = {.fd = fd, .events = POLLIN};

    *ret_ticks = rec->ticks + rec->armed;
    if (at <= 0 && rec->interval_ns) { // before this clock began: leave whole intervals out
        const uint64_t missed = (uint64_t)(-at) / rec->interval_ns + 1;

        at += (int64_t)(missed * rec->interval_ns);
        *ret_ticks += missed;
    }
    if (!set(fd, rec->flags | TFD_TIMER_ABSTIME, MAX(at, 1), rec->interval_ns, error))
        return false;
    return poll(&fired, 1, -1) == 1 || agent_fail_errno(error, "a timer that is due");
}

static bool arm(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_timerfd *rec = fmt_image_by_ref(r->img, f->object, FMT_TIMERFD);
    const int fd = agent_file_fd(r, f->rec.objref);
    const bool pending = rec->armed || (rec->expired && rec->interval_ns);
    const int64_t moment = pending ? moment_ns(r, rec) : 0, now = now_ns(passing_clock(rec));
    uint64_t ticks = rec->ticks;
    bool ok;

    if (!pending)
        ok = set(fd, rec->flags, 0, rec->interval_ns, error);
    else if (moment <= now || !rec->armed)
        ok = set_past(fd, rec, MIN(moment, now), &ticks, error);
    else if (rec->flags & TFD_TIMER_ABSTIME)
        ok = set(fd, rec->flags, moment, rec->interval_ns, error);
    else
        ok = set_relative(fd, rec, moment, error);
    if (!ok)
        return false;
    return ticks == 0 || ioctl(fd, TFD_IOC_SET_TICKS, &ticks) == 0 ||
           agent_fail_errno(error, "expirations of a timerfd");
}

// Ready for a moment, before it is armed: reading leaves it as it was.
static bool stir(AgentRestore *r, const struct fmt_file *f, bool on, GError **error)
{
    const int fd = agent_file_fd(r, f->rec.objref);
    uint64_t ticks = 1;

    if (on ? ioctl(fd, TFD_IOC_SET_TICKS, &ticks) < 0 : read(fd, &ticks, sizeof ticks) < 0)
        return agent_fail_errno(error, "timerfd");
    return true;
}

const struct agent_file_kind agent_file_timerfd = {
    .kind = FMT_FILE_TIMERFD,
    .name = "timerfd",
    .plan = plan,
    .open = open_timerfd,
    .later[AGENT_FILE_ARM] = arm,
    .stir = stir,
};
