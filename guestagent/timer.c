// SPDX-License-Identifier: GPL-2.0-or-later
// Interval timers; armed right before the process is let go.

#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "guestagent/engine.h"

#define NS_PER_S  1000000000ull
#define NS_PER_US 1000ull

static void plan(AgentRestore *r)
{
    const struct fmt_itimer *timer;

    for (size_t i = 0; FMT_NEXT(r->img, ITIMER, i, timer); i++) {
        if (timer->which > ITIMER_PROF)
            agent_refuse(r, "itimer", 0, -1, "interval timer %" G_GUINT64_FORMAT " is unknown",
                         timer->which);
    }
}

static struct timeval timeval_of(uint64_t ns)
{
    ns += NS_PER_US - 1; // never early
    return (struct timeval){ns / NS_PER_S, ns % NS_PER_S / NS_PER_US};
}

bool agent_timer_arm(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const struct fmt_itimer *timer;

    for (size_t i = 0; FMT_NEXT(p->r->img, ITIMER, i, timer); i++) {
        struct itimerval value = {.it_interval = timeval_of(timer->interval_ns)};
        uint64_t left = timer->value_ns, at;

        if (timer->proc != p->rec->rec.objref || timer->value_ns == 0)
            continue;
        if (timer->which == ITIMER_REAL)
            left = agent_time_left(p->r, left);
        value.it_value = timeval_of(left);
        if (timer->interval_ns == 0)
            value.it_interval = (struct timeval){0};
        if (!agent_remote_put(t, 0, &value, sizeof value, &at, error) ||
            !agent_remote(t, "setitimer", SYS_setitimer, NULL, error, timer->which, at, 0))
            return false;
    }
    return true;
}

const struct agent_aspect agent_aspect_timer = {
    .name = "timers",
    .plan = plan,
};
