// SPDX-License-Identifier: GPL-2.0-or-later
// Clocks: the processes go on in a time namespace that continues those of the source.
//
// Programs hold deadlines by CLOCK_MONOTONIC, which on another machine is another number. A new
// time namespace adds an offset to it and to CLOCK_BOOTTIME. How much time has passed for the
// program while it was away:
//
//   - in a live move, as much as really passed. Who moves the process has measured it
//     (agent_restore_options.elapsed_ns), so the clocks of the two machines need not agree, and a
//     sleep ends when it would have ended at home.
//   - for an image that waited in a file, or where nobody measured: nothing. That is what a suspend
//     is to CLOCK_MONOTONIC, and no timeout fires for time that the program could not use.
//     CLOCK_BOOTTIME counts a suspend, so it gets what the wall clocks say of it: those of who took
//     the image and who restores it, which are kept in step; else those of the two guests.
//
// The offsets must be there before the first process is, long before it runs. That is no loss: an
// offset is a difference of two clocks that both go on.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guestagent/engine.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define NS_PER_S G_GINT64_CONSTANT(1000000000)

static int64_t clock_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int64_t agent_timens_offset(int64_t captured_ns, int64_t now_ns, int64_t elapsed_ns)
{
    return captured_ns + MAX(elapsed_ns, 0) - now_ns;
}

// Offsets of our own namespace to the initial one, which those of a new one are counted from.
static void own_offsets(int64_t *ret_monotonic_ns, int64_t *ret_boottime_ns)
{
    g_autofree char *text = NULL;
    long long mono_s = 0, mono_ns = 0, boot_s = 0, boot_ns = 0;

    *ret_monotonic_ns = *ret_boottime_ns = 0;
    if (g_file_get_contents("/proc/self/timens_offsets", &text, NULL, NULL) &&
        sscanf(text, "monotonic %lld %lld boottime %lld %lld", &mono_s, &mono_ns, &boot_s,
               &boot_ns) == 4) {
        *ret_monotonic_ns = mono_s * NS_PER_S + mono_ns;
        *ret_boottime_ns = boot_s * NS_PER_S + boot_ns;
    }
}

// What we were told of the time since the pause, as of now; -1 where we were told nothing.
static int64_t by_now(const AgentRestore *r, int64_t told)
{
    if (told < 0)
        return -1;
    return told + (r->opt.told_ns ? clock_ns(CLOCK_MONOTONIC) - r->opt.told_ns : 0);
}

void agent_time_plan(AgentRestore *r)
{
    const struct fmt_head *head = fmt_image_head(r->img);
    const AgentProc *root = g_ptr_array_index(r->procs, 0);
    int64_t own_mono, own_boot;

    for (guint i = 1; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        // Who has ended has given up its namespaces and knows no time.
        if (p->rec->state != FMT_PROC_ZOMBIE &&
            (p->rec->timens_monotonic_ns != root->rec->timens_monotonic_ns ||
             p->rec->timens_boottime_ns != root->rec->timens_boottime_ns))
            agent_refuse(r, "time-namespace", p->rec->pid, -1,
                         "it is in another time namespace than its parent");
    }
    int64_t asleep = by_now(r, r->opt.asleep_ns);
    const int64_t elapsed = by_now(r, r->opt.elapsed_ns);

    if (asleep < 0)
        asleep = clock_ns(CLOCK_REALTIME) - head->realtime_ns;

    own_offsets(&own_mono, &own_boot);
    r->mono_offset_ns = agent_timens_offset(head->monotonic_ns + root->rec->timens_monotonic_ns,
                                            clock_ns(CLOCK_MONOTONIC) - own_mono, elapsed);
    r->boot_offset_ns =
        agent_timens_offset(head->boottime_ns + root->rec->timens_boottime_ns,
                            clock_ns(CLOCK_BOOTTIME) - own_boot, elapsed >= 0 ? elapsed : asleep);
    // With no clock in the image there is nothing to continue.
    r->timens = head->monotonic_ns != 0 && access("/proc/self/timens_offsets", W_OK) == 0;
    if (!r->timens) {
        r->mono_offset_ns = own_mono;
        r->boot_offset_ns = own_boot;
        agent_note(r, "time-namespace", 0, -1,
                   "this kernel has no time namespaces: CLOCK_MONOTONIC is another one here, and "
                   "absolute deadlines by it are off");
    }
}

bool agent_time_enter(AgentRestore *r, const char **ret_what)
{
    char text[128];
    int fd;

    *ret_what = "new time namespace";
    if (unshare(CLONE_NEWTIME) < 0)
        return false;
    *ret_what = "offsets of the time namespace";
    fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    // The kernel wants 0 <= nanoseconds < 10^9 beside signed seconds.
    const int64_t mono = r->mono_offset_ns, boot = r->boot_offset_ns;
    const int64_t mono_s = (mono - (mono % NS_PER_S + NS_PER_S) % NS_PER_S) / NS_PER_S;
    const int64_t boot_s = (boot - (boot % NS_PER_S + NS_PER_S) % NS_PER_S) / NS_PER_S;
    const int len = snprintf(text, sizeof text, "monotonic %lld %lld\nboottime %lld %lld\n",
                             (long long)mono_s, (long long)(mono - mono_s * NS_PER_S),
                             (long long)boot_s, (long long)(boot - boot_s * NS_PER_S));
    const bool ok = write(fd, text, len) == len;
    const int saved = errno;

    close(fd);
    errno = saved;
    return ok;
}

// What a clock shows to the restored processes now.
static int64_t now_there(AgentRestore *r, uint64_t clock)
{
    int64_t own_mono, own_boot;

    own_offsets(&own_mono, &own_boot);
    switch (clock) {
    case CLOCK_MONOTONIC:
        return clock_ns(CLOCK_MONOTONIC) - own_mono + r->mono_offset_ns;
    case CLOCK_BOOTTIME:
        return clock_ns(CLOCK_BOOTTIME) - own_boot + r->boot_offset_ns;
    default:
        return clock_ns((clockid_t)clock);
    }
}

// What it showed them when the source was paused.
static int64_t captured(AgentRestore *r, uint64_t clock)
{
    const struct fmt_head *head = fmt_image_head(r->img);
    const AgentProc *root = g_ptr_array_index(r->procs, 0);

    return clock == CLOCK_BOOTTIME ? head->boottime_ns + root->rec->timens_boottime_ns
                                   : head->monotonic_ns + root->rec->timens_monotonic_ns;
}

// Time that has passed for the program since the pause, by CLOCK_MONOTONIC or CLOCK_BOOTTIME.
static int64_t passed(AgentRestore *r, uint64_t clock)
{
    if (!r->timens)
        return MAX(by_now(r, r->opt.elapsed_ns), 0);
    return now_there(r, clock) - captured(r, clock);
}

// When the pause was, by what the clock shows to the restored processes. To the nanosecond where
// their clocks go on: a period that began before must not have its phase shifted.
static int64_t pause_there(AgentRestore *r, uint64_t clock)
{
    return r->timens ? captured(r, clock) : now_there(r, clock) - passed(r, clock);
}

uint64_t agent_time_left(AgentRestore *r, uint64_t left_ns)
{
    const int64_t gone = MAX(passed(r, CLOCK_MONOTONIC), 0);

    return left_ns > (uint64_t)gone ? left_ns - gone : 1;
}

int64_t agent_time_moment(AgentRestore *r, uint64_t clock, int64_t left_ns)
{
    // Not so far that sums overflow.
    const int64_t left = CLAMP(left_ns, -(G_MAXINT64 / 4), G_MAXINT64 / 4);

    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_ALARM:
        return fmt_image_head(r->img)->realtime_ns + left;
    case CLOCK_TAI:
        return fmt_image_head(r->img)->realtime_ns + left + now_there(r, CLOCK_TAI) -
               now_there(r, CLOCK_REALTIME);
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM:
        return pause_there(r, CLOCK_BOOTTIME) + left;
    default:
        return pause_there(r, CLOCK_MONOTONIC) + left;
    }
}

int64_t agent_time_here(AgentRestore *r, uint64_t clock, int64_t moment_ns)
{
    int64_t own_mono, own_boot;

    own_offsets(&own_mono, &own_boot);
    switch (clock) {
    case CLOCK_MONOTONIC:
        return moment_ns - r->mono_offset_ns + own_mono;
    case CLOCK_BOOTTIME:
        return moment_ns - r->boot_offset_ns + own_boot;
    default:
        return moment_ns;
    }
}

struct __kernel_timespec agent_time_deadline(AgentRestore *r, uint64_t clock, uint64_t left_ns)
{
    // In this order: rather late by a moment than early.
    const uint64_t left = MIN(agent_time_left(r, left_ns), (uint64_t)G_MAXINT64 / 4);
    const int64_t at = now_there(r, clock) + (int64_t)left;

    return (struct __kernel_timespec){at / NS_PER_S, at % NS_PER_S};
}
