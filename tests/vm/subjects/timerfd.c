// SPDX-License-Identifier: GPL-2.0-or-later
// Timerfds by all clocks: armed, expired, read and not read; each expires when it would have.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "subject.h"

#define MS(ns) ((unsigned long)((ns) / NS_PER_MS))
// How far what is left may be from what it should be: a timer by a relative time is set anew.
#define SLACK_NS (500 * NS_PER_MS)
#define FAR_NS   (5000 * NS_PER_S)
#define TICK_NS  (37 * NS_PER_MS)

static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME,
                                   CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM};
#define N_CLOCKS (sizeof clocks / sizeof clocks[0])

static clockid_t base(clockid_t clock)
{
    return clock == CLOCK_REALTIME_ALARM   ? CLOCK_REALTIME
           : clock == CLOCK_BOOTTIME_ALARM ? CLOCK_BOOTTIME
                                           : clock;
}

static uint64_t ns_of(struct timespec ts)
{
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static struct timespec spec(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
}

static int timer(clockid_t clock, int flags, uint64_t value, uint64_t interval)
{
    const struct itimerspec set = {.it_value = spec(value), .it_interval = spec(interval)};
    const int fd = timerfd_create(clock, TFD_NONBLOCK);

    CHECK(fd >= 0, "timerfd by clock %d: %m", clock);
    CHECK(timerfd_settime(fd, flags, &set, NULL) == 0, "settime by clock %d: %m", clock);
    return fd;
}

static uint64_t ticks(int fd)
{
    uint64_t n = 0;

    CHECK(read(fd, &n, sizeof n) == sizeof n || errno == EAGAIN, "reading a timerfd: %m");
    return n;
}

// An interrupt may come late.
static void await_ready(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    CHECK(poll(&p, 1, PATIENCE_MS) == 1, "a timer that is due does not expire: %m");
}

static bool is_ready(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

/* ---- far away: what is left ---- */

static struct far {
    int fd;
    clockid_t clock; // that its end is known by
    struct subject_end end;
    uint64_t interval;
} fars[2 * N_CLOCKS + 1];
static unsigned n_fars;

static void add_far(clockid_t clock, int flags)
{
    struct far *f = &fars[n_fars++];
    const bool absolute = flags & TFD_TIMER_ABSTIME;

    // A relative time passes whatever happens to the wall clock.
    f->clock = absolute || base(clock) != CLOCK_REALTIME ? base(clock) : CLOCK_MONOTONIC;
    f->end.earliest = subject_now(f->clock) + FAR_NS;
    f->interval = (n_fars % 3) * 1000000007;
    f->fd = timer(clock, flags, absolute ? f->end.earliest : FAR_NS, f->interval);
    f->end.latest = absolute ? f->end.earliest : subject_now(f->clock) + FAR_NS;
}

static void check_far(const struct far *f)
{
    struct itimerspec is;
    uint64_t before, after;
    int64_t wall;

    do { // by one wall clock
        wall = subject_wall();
        before = subject_now(f->clock);
        MUST(timerfd_gettime(f->fd, &is) == 0);
        after = subject_now(f->clock);
    } while (f->clock == CLOCK_REALTIME && !subject_wall_is(wall));
    const int64_t off = subject_end_off(f->end, ns_of(is.it_value), before, after);
    CHECK(off < (int64_t)SLACK_NS && off > -(int64_t)SLACK_NS,
          "timer %ld by clock %d is off by %ld ms", f - fars, f->clock, off / 1000000);
    CHECK(ns_of(is.it_interval) == f->interval, "its interval is %lu", ns_of(is.it_interval));
    CHECK(!is_ready(f->fd), "a timer far away is ready");
    CHECK(fcntl(f->fd, F_GETFL) == (O_RDWR | O_NONBLOCK), "flags are %x", fcntl(f->fd, F_GETFL));
}

/* ---- intervals: how many there were ---- */

static struct periodic {
    int fd;
    clockid_t clock;
    uint64_t start, seen;
} unread, partly, asked;

static void add_periodic(struct periodic *p, clockid_t clock)
{
    p->clock = clock;
    p->start = subject_now(clock);
    p->fd = timer(clock, TFD_TIMER_ABSTIME, p->start + TICK_NS, TICK_NS);
}

static uint64_t count(struct periodic *p)
{
    return p->seen += ticks(p->fd);
}

static void check_periodic(struct periodic *p)
{
    const uint64_t least = (subject_now(p->clock) - p->start) / TICK_NS;

    AWAIT(count(p) >= least, "%lu expirations, at least %lu expected", p->seen, least);
    const uint64_t most = (subject_now(p->clock) - p->start) / TICK_NS;
    CHECK(p->seen <= most, "%lu expirations, at most %lu expected", p->seen, most);
}

/* ---- soon: a thread that waits ---- */

static volatile bool stop;

static void *wait_often(void *arg)
{
    const int fd = timerfd_create(CLOCK_MONOTONIC, 0);

    MUST(fd >= 0);
    for (unsigned n = 0; !stop; n++) {
        const uint64_t ns = (n % 4 ? 20 : 400) * NS_PER_MS, start = subject_now(CLOCK_MONOTONIC);
        const struct itimerspec set = {.it_value = spec(n % 2 ? ns : start + ns)};

        MUST(timerfd_settime(fd, n % 2 ? 0 : TFD_TIMER_ABSTIME, &set, NULL) == 0);
        CHECK(ticks(fd) == 1, "a timer that was waited for did not expire once");
        const uint64_t passed = subject_now(CLOCK_MONOTONIC) - start;
        CHECK(passed >= ns, "a timer of %lu ms expired after %lu us", MS(ns), passed / 1000);
        CHECK(passed < ns + PATIENCE_NS, "a timer of %lu ms took %lu ms", MS(ns), MS(passed));
    }
    return arg;
}

static void check_still(int expired, int done, int never, int disarmed)
{
    struct itimerspec is;

    CHECK(is_ready(expired) && !is_ready(done) && !is_ready(never) && !is_ready(disarmed),
          "timers that rest do not");
    MUST(timerfd_gettime(done, &is) == 0);
    CHECK(ns_of(is.it_value) == 0 && ns_of(is.it_interval) == 0,
          "a timer that is over has time left");
    MUST(timerfd_gettime(disarmed, &is) == 0);
    CHECK(ns_of(is.it_value) == 0 && ns_of(is.it_interval) == 123456789, "its interval is gone");
    CHECK(ticks(done) == 0 && ticks(never) == 0 && ticks(disarmed) == 0, "one that rests ticked");
}

int main(int argc, char **argv)
{
    struct itimerspec is;
    pthread_t waiter;

    subject_begin(argc, argv);
    for (unsigned i = 0; i < N_CLOCKS; i++) {
        add_far(clocks[i], 0);
        add_far(clocks[i], TFD_TIMER_ABSTIME);
    }
    add_far(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET);
    const int expired = timer(CLOCK_MONOTONIC, 0, 1, 0), done = timer(CLOCK_BOOTTIME, 0, 1, 0);
    const int never = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    const int disarmed = timer(CLOCK_REALTIME, 0, 0, 123456789);
    add_periodic(&unread, CLOCK_MONOTONIC);
    add_periodic(&partly, CLOCK_BOOTTIME);
    add_periodic(&asked, CLOCK_MONOTONIC);
    await_ready(expired);
    await_ready(done);
    CHECK(ticks(done) == 1, "a timer of 1 ns did not expire");
    await_ready(asked.fd);
    MUST(timerfd_gettime(asked.fd, &is) == 0); // counts what has passed and goes on
    MUST(pthread_create(&waiter, NULL, wait_often, NULL) == 0);
    subject_ready();
    if (subject.sabotage)
        unread.start += 3 * TICK_NS;
    while (!subject_asked()) {
        for (unsigned i = 0; i < n_fars; i++)
            check_far(&fars[i]);
        check_still(expired, done, never, disarmed);
        if (subject_now(CLOCK_MONOTONIC) / NS_PER_MS % 3 == 0)
            check_periodic(&partly);
        subject_sleep_ms(5);
    }
    CHECK(ticks(expired) == 1 && ticks(expired) == 0, "the one that had expired did not once");
    check_periodic(&unread);
    check_periodic(&partly);
    check_periodic(&asked);
    subject_sleep_ms(100); // and they go on
    check_periodic(&unread);
    check_periodic(&asked);
    stop = true;
    pthread_join(waiter, NULL);
    subject_pass();
}
