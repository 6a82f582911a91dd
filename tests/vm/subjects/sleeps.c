// SPDX-License-Identifier: GPL-2.0-or-later
// One thread for every way to sleep; each sleep must end on time.
//
// On time: not before its end by the clock it sleeps on, and after it by no more than LATE plus the
// longest time during which this process saw no time pass (a paused guest, a busy host). Early by
// EARLY is taken: the clock of a paused guest is known to within a tick. Where a call has no way to
// be entered again with the rest of its timeout, the timeout starts over, of which capture warns.
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#define EARLY_NS  (8 * NS_PER_MS)
#define LATE_NS   (200 * NS_PER_MS)
#define TICK_MS   10
#define MIN_NS    (300 * NS_PER_MS)
#define SPREAD_NS (1500 * NS_PER_MS)

// Sleeps for about ns. Returns false when the call gave another result than that of a timeout.
typedef bool sleep_fn(uint64_t ns);

static uint64_t longest_gap_ns[2]; // by monotonic and by wall clock
static bool stop;

static struct timespec ts_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
}

static bool by_nanosleep(uint64_t ns)
{
    const struct timespec ts = ts_of(ns);

    return nanosleep(&ts, NULL) == 0;
}

static bool by_clock_relative(uint64_t ns)
{
    struct timespec ts = ts_of(ns), left;

    return clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &left) == 0;
}

static bool by_clock_realtime(uint64_t ns)
{
    const struct timespec ts = ts_of(ns);

    return clock_nanosleep(CLOCK_REALTIME, 0, &ts, NULL) == 0;
}

static bool until(clockid_t clock, uint64_t ns)
{
    const struct timespec ts = ts_of(subject_now(clock) + ns);

    return clock_nanosleep(clock, TIMER_ABSTIME, &ts, NULL) == 0;
}

static bool until_monotonic(uint64_t ns)
{
    return until(CLOCK_MONOTONIC, ns);
}

static bool until_boottime(uint64_t ns)
{
    return until(CLOCK_BOOTTIME, ns);
}

static bool until_realtime(uint64_t ns)
{
    return until(CLOCK_REALTIME, ns);
}

static bool by_poll(uint64_t ns)
{
    return poll(NULL, 0, (int)(ns / NS_PER_MS) + 1) == 0;
}

static bool by_ppoll(uint64_t ns)
{
    struct timespec ts = ts_of(ns);
    sigset_t all;

    sigfillset(&all);
    return ppoll(NULL, 0, &ts, &all) == 0;
}

static bool by_select(uint64_t ns)
{
    struct timeval tv = {(time_t)(ns / NS_PER_S), (suseconds_t)(ns % NS_PER_S / 1000) + 1};

    return select(0, NULL, NULL, NULL, &tv) == 0 && tv.tv_sec == 0 && tv.tv_usec == 0;
}

static bool by_pselect(uint64_t ns)
{
    struct timespec ts = ts_of(ns);

    return pselect(0, NULL, NULL, NULL, &ts, NULL) == 0;
}

static bool futex_sleep(int op, const struct timespec *ts)
{
    uint32_t word = 7;

    return syscall(SYS_futex, &word, op, 7, ts, NULL, FUTEX_BITSET_MATCH_ANY) == -1 &&
           errno == ETIMEDOUT;
}

static bool by_futex(uint64_t ns)
{
    const struct timespec ts = ts_of(ns);

    return futex_sleep(FUTEX_WAIT_PRIVATE, &ts);
}

static bool until_futex(uint64_t ns)
{
    const struct timespec ts = ts_of(subject_now(CLOCK_MONOTONIC) + ns);

    return futex_sleep(FUTEX_WAIT_BITSET_PRIVATE, &ts);
}

static bool until_futex_realtime(uint64_t ns)
{
    const struct timespec ts = ts_of(subject_now(CLOCK_REALTIME) + ns);

    return futex_sleep(FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, &ts);
}

static bool by_sigtimedwait(uint64_t ns)
{
    const struct timespec ts = ts_of(ns);
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 3);
    return sigtimedwait(&one, NULL, &ts) == -1 && errno == EAGAIN;
}

static const struct way {
    const char *name;
    sleep_fn *sleep;
    clockid_t clock;
    bool starts_over;
} ways[] = {
    {"nanosleep", by_nanosleep, CLOCK_MONOTONIC, false},
    {"clock_nanosleep", by_clock_relative, CLOCK_MONOTONIC, false},
    {"clock_nanosleep REALTIME", by_clock_realtime, CLOCK_MONOTONIC, false},
    {"clock_nanosleep until", until_monotonic, CLOCK_MONOTONIC, false},
    {"clock_nanosleep until BOOTTIME", until_boottime, CLOCK_BOOTTIME, false},
    {"clock_nanosleep until REALTIME", until_realtime, CLOCK_REALTIME, false},
    {"poll", by_poll, CLOCK_MONOTONIC, false},
    {"ppoll", by_ppoll, CLOCK_MONOTONIC, false},
    {"select", by_select, CLOCK_MONOTONIC, false},
    {"pselect", by_pselect, CLOCK_MONOTONIC, false},
    {"futex", by_futex, CLOCK_MONOTONIC, false},
    {"futex until", until_futex, CLOCK_MONOTONIC, false},
    {"futex until REALTIME", until_futex_realtime, CLOCK_REALTIME, false},
    {"sigtimedwait", by_sigtimedwait, CLOCK_MONOTONIC, true},
};
#define N_WAYS (sizeof ways / sizeof ways[0])

static void check_sleep(const struct way *way, uint64_t ns)
{
    const uint64_t begin = subject_now(way->clock);
    const bool timed_out = way->sleep(ns);
    const int saved = errno;
    const int64_t over = (int64_t)(subject_now(way->clock) - begin - ns);
    // What the ticker has not seen yet it will in a moment.
    subject_sleep_ms(3 * TICK_MS);
    const uint64_t gap =
        __atomic_load_n(&longest_gap_ns[way->clock == CLOCK_REALTIME], __ATOMIC_SEQ_CST);

    errno = saved;
    CHECK(timed_out, "%s: not a timeout: %m", way->name);
    CHECK(over >= -(int64_t)EARLY_NS, "%s of %" PRIu64 " us ended %" PRId64 " us early", way->name,
          ns / 1000, -over / 1000);
    CHECK(over <= (int64_t)(LATE_NS + gap + (way->starts_over ? ns : 0)),
          "%s of %" PRIu64 " us ended %" PRId64 " us late, longest gap %" PRIu64 " us", way->name,
          ns / 1000, over / 1000, gap / 1000);
}

static void *sleeper(void *arg)
{
    const struct way *way = arg;
    uint64_t state = (uint64_t)(way - ways);

    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        uint64_t ns = MIN_NS + subject_random(&state) % SPREAD_NS;

        check_sleep(way, ns);
    }
    return NULL;
}

static uint64_t now_by_kernel(clockid_t clock)
{
    struct timespec ts;

    syscall(SYS_clock_gettime, clock, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

// The vdso, which may be another kernel's by now, must tell the same time as the kernel.
static void check_vdso(clockid_t clock, const char *name)
{
    const uint64_t before = now_by_kernel(clock), now = subject_now(clock),
                   after = now_by_kernel(clock);

    CHECK(before <= now && now <= after,
          "%s: %" PRIu64 " by the vdso, the kernel says %" PRIu64 " before, %" PRIu64 " after",
          name, now, before, after);
}

static void tick(void)
{
    static uint64_t last[2];
    const clockid_t clocks[2] = {CLOCK_MONOTONIC, CLOCK_REALTIME};

    check_vdso(CLOCK_MONOTONIC, "CLOCK_MONOTONIC");
    check_vdso(CLOCK_BOOTTIME, "CLOCK_BOOTTIME");
    for (unsigned i = 0; i < 2; i++) {
        const uint64_t now = subject_now(clocks[i]);

        CHECK(i == 1 || now >= last[i], "CLOCK_MONOTONIC went back by %" PRIu64 " ns",
              last[i] - now);
        if (last[i] && now > last[i] && now - last[i] > longest_gap_ns[i])
            __atomic_store_n(&longest_gap_ns[i], now - last[i], __ATOMIC_SEQ_CST);
        last[i] = now;
    }
}

int main(int argc, char **argv)
{
    pthread_t threads[N_WAYS];

    subject_begin(argc, argv);
    tick();
    for (size_t i = 0; i < N_WAYS; i++)
        MUST(pthread_create(&threads[i], NULL, sleeper, (void *)&ways[i]) == 0);
    subject_ready();
    do {
        subject_sleep_ms(TICK_MS);
        tick();
        if (subject.sabotage) // by this clock hardly any time passes
            check_sleep(&(struct way){"sabotage", by_nanosleep, CLOCK_PROCESS_CPUTIME_ID, false},
                        MIN_NS);
    } while (!subject_asked());
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    for (size_t i = 0; i < N_WAYS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    subject_pass();
}
