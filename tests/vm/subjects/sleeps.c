// SPDX-License-Identifier: GPL-2.0-or-later
// One thread for every way to sleep; each sleep must end on time.
//
// On time: not before its end by the clock it sleeps on, and after it by no more than LATE plus the
// longest time during which this process saw no time pass (a paused guest, a busy host). Early by
// EARLY is taken: the clock of a paused guest is known to within a tick. A timeout that a call only
// reads must be what it was afterwards.
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "subject.h"

#define EARLY_NS (8 * NS_PER_MS)
// Of what the kernel counts in ticks: it begins at the last one that it has seen, and a vCPU that
// the host holds up misses some.
#define EARLY_TICKS_NS (40 * NS_PER_MS)
#define LATE_NS        (200 * NS_PER_MS)
#define TICK_MS        10
#define MIN_NS         (300 * NS_PER_MS)
#define HALF_NS        (500 * NS_PER_MS)
#define SPREAD_NS      (1500 * NS_PER_MS)

// Sleeps for about ns. Returns false when the call gave another result than that of a timeout.
typedef bool sleep_fn(uint64_t ns);

// The ways to see how long nothing ran: an image that waits in a file is a gap of the last two.
static const clockid_t gap_clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
#define N_GAP_CLOCKS (sizeof gap_clocks / sizeof gap_clocks[0])
static uint64_t longest_gap_ns[N_GAP_CLOCKS], last_tick[N_GAP_CLOCKS];
static bool stop;
static unsigned n_done; // threads that will sleep no more

// With what the ticker has not seen yet: a clock that is another since the move, for one.
static uint64_t longest_gap(clockid_t clock)
{
    size_t i = N_GAP_CLOCKS - 1;

    while (i > 0 && gap_clocks[i] != clock)
        i--;
    const uint64_t longest = __atomic_load_n(&longest_gap_ns[i], __ATOMIC_SEQ_CST);
    const int64_t since =
        (int64_t)(subject_now(gap_clocks[i]) - __atomic_load_n(&last_tick[i], __ATOMIC_SEQ_CST));

    return since > (int64_t)longest ? (uint64_t)since : longest;
}

// What slept from `begin` on was to sleep for ns, and is over.
static void check_late(const char *name, clockid_t clock, uint64_t begin, uint64_t ns,
                       uint64_t early_ns)
{
    const int64_t over = (int64_t)(subject_now(clock) - begin - ns);
    const uint64_t gap = longest_gap(clock);

    CHECK(over >= -(int64_t)early_ns, "%s of %" PRIu64 " us ended %" PRId64 " us early", name,
          ns / 1000, -over / 1000);
    CHECK(over <= (int64_t)(LATE_NS + gap),
          "%s of %" PRIu64 " us ended %" PRId64 " us late, longest gap %" PRIu64 " us", name,
          ns / 1000, over / 1000, gap / 1000);
}

static struct timespec ts_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
}

static bool is_as_was(const struct timespec *ts, uint64_t ns)
{
    const struct timespec was = ts_of(ns);

    return ts->tv_sec == was.tv_sec && ts->tv_nsec == was.tv_nsec;
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
    return sigtimedwait(&one, NULL, &ts) == -1 && errno == EAGAIN && is_as_was(&ts, ns);
}

static int semaphore;

static bool by_semtimedop(uint64_t ns)
{
    const struct timespec ts = ts_of(ns);
    struct sembuf down = {0, -1, 0};

    return semtimedop(semaphore, &down, 1, &ts) == -1 && errno == EAGAIN && is_as_was(&ts, ns);
}

static int new_epoll(void)
{
    const int fd = epoll_create1(EPOLL_CLOEXEC);

    MUST(fd >= 0);
    return fd;
}

static bool by_epoll(uint64_t ns)
{
    static int set;
    struct epoll_event event;

    if (!set)
        set = new_epoll();
    return epoll_wait(set, &event, 1, (int)(ns / NS_PER_MS) + 1) == 0;
}

static bool by_epoll_pwait(uint64_t ns)
{
    static int set;
    struct epoll_event event;
    sigset_t all;

    if (!set)
        set = new_epoll();
    sigfillset(&all);
    return epoll_pwait(set, &event, 1, (int)(ns / NS_PER_MS) + 1, &all) == 0;
}

// As a program may have it: what is constant is where nobody can write.
static bool for_half_a_second(uint64_t ns)
{
#ifdef SYS_epoll_pwait2
    static const int64_t half[2] = {0, HALF_NS};
    static int set;
    struct epoll_event event;

    if (!set)
        set = new_epoll();
    const long n = syscall(SYS_epoll_pwait2, set, &event, 1, half, NULL, 8);
    if (n == 0 || errno != ENOSYS)
        return n == 0;
#endif
    return by_nanosleep(HALF_NS);
}

/* ---- timeouts of sockets ---- */

static struct timeval tv_of(uint64_t ns)
{
    return (struct timeval){(time_t)(ns / NS_PER_S), (suseconds_t)(ns % NS_PER_S / 1000) + 1};
}

static void new_pair(int fds[2], int type)
{
    MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) == 0);
}

// The option is the same before, while and after a call sleeps by it, to within a jiffy.
static bool timed_out(int fd, int option, const struct timeval *want)
{
    const int saved = errno;
    struct timeval now;
    socklen_t len = sizeof now;

    MUST(getsockopt(fd, SOL_SOCKET, option, &now, &len) == 0);
    const int64_t off =
        ((int64_t)now.tv_sec - want->tv_sec) * 1000000 + now.tv_usec - want->tv_usec;
    CHECK(off >= 0 && off <= 10000, "the timeout of a socket is off by %" PRId64 " us", off);
    errno = saved;
    return errno == EAGAIN;
}

static void set_timeout(int fd, int option, const struct timeval *tv)
{
    MUST(setsockopt(fd, SOL_SOCKET, option, tv, sizeof *tv) == 0);
}

static bool by_recv(uint64_t ns)
{
    static int fds[2];
    const struct timeval tv = tv_of(ns);
    char c;

    if (!fds[1])
        new_pair(fds, SOCK_STREAM);
    set_timeout(fds[0], SO_RCVTIMEO, &tv);
    return recv(fds[0], &c, 1, 0) == -1 && timed_out(fds[0], SO_RCVTIMEO, &tv);
}

static bool by_recv_datagram(uint64_t ns)
{
    static int fds[2];
    const struct timeval tv = tv_of(ns);
    char c;

    if (!fds[1])
        new_pair(fds, SOCK_DGRAM);
    set_timeout(fds[0], SO_RCVTIMEO, &tv);
    return read(fds[0], &c, 1) == -1 && timed_out(fds[0], SO_RCVTIMEO, &tv);
}

static bool by_send(uint64_t ns)
{
    static int fds[2];
    const struct timeval tv = tv_of(ns);

    if (!fds[1]) {
        new_pair(fds, SOCK_DGRAM);
        while (send(fds[0], "x", 1, MSG_DONTWAIT) == 1)
            ;
    }
    set_timeout(fds[0], SO_SNDTIMEO, &tv);
    return send(fds[0], "y", 1, 0) == -1 && timed_out(fds[0], SO_SNDTIMEO, &tv);
}

static bool by_accept(uint64_t ns)
{
    static int fd;
    const struct sockaddr_un any = {.sun_family = AF_UNIX};
    const struct timeval tv = tv_of(ns);

    if (!fd) {
        MUST((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
        MUST(bind(fd, (const struct sockaddr *)&any, sizeof any.sun_family) == 0);
        MUST(listen(fd, 1) == 0);
    }
    set_timeout(fd, SO_RCVTIMEO, &tv);
    return accept(fd, NULL, NULL) == -1 && timed_out(fd, SO_RCVTIMEO, &tv);
}

static const struct way {
    const char *name;
    sleep_fn *sleep;
    clockid_t clock;
    uint64_t always_ns; // 0: any time
    bool in_ticks;
} ways[] = {
    {"nanosleep", by_nanosleep, CLOCK_MONOTONIC, 0, false},
    {"clock_nanosleep", by_clock_relative, CLOCK_MONOTONIC, 0, false},
    {"clock_nanosleep REALTIME", by_clock_realtime, CLOCK_MONOTONIC, 0, false},
    {"clock_nanosleep until", until_monotonic, CLOCK_MONOTONIC, 0, false},
    {"clock_nanosleep until BOOTTIME", until_boottime, CLOCK_BOOTTIME, 0, false},
    {"clock_nanosleep until REALTIME", until_realtime, CLOCK_REALTIME, 0, false},
    {"poll", by_poll, CLOCK_MONOTONIC, 0, false},
    {"ppoll", by_ppoll, CLOCK_MONOTONIC, 0, false},
    {"select", by_select, CLOCK_MONOTONIC, 0, false},
    {"pselect", by_pselect, CLOCK_MONOTONIC, 0, false},
    {"futex", by_futex, CLOCK_MONOTONIC, 0, false},
    {"futex until", until_futex, CLOCK_MONOTONIC, 0, false},
    {"futex until REALTIME", until_futex_realtime, CLOCK_REALTIME, 0, false},
    {"sigtimedwait", by_sigtimedwait, CLOCK_MONOTONIC, 0, false},
    {"semtimedop", by_semtimedop, CLOCK_MONOTONIC, 0, false},
    {"epoll_wait", by_epoll, CLOCK_MONOTONIC, 0, false},
    {"epoll_pwait", by_epoll_pwait, CLOCK_MONOTONIC, 0, false},
    {"epoll_pwait2", for_half_a_second, CLOCK_MONOTONIC, HALF_NS, false},
    {"recv", by_recv, CLOCK_MONOTONIC, 0, true},
    {"read of datagrams", by_recv_datagram, CLOCK_MONOTONIC, 0, true},
    {"send", by_send, CLOCK_MONOTONIC, 0, true},
    {"accept", by_accept, CLOCK_MONOTONIC, 0, true},
};
#define N_WAYS (sizeof ways / sizeof ways[0])

static void check_sleep(const struct way *way, uint64_t ns)
{
    const uint64_t begin = subject_now(way->clock);

    CHECK(way->sleep(ns), "%s: not a timeout: %m", way->name);
    check_late(way->name, way->clock, begin, ns, way->in_ticks ? EARLY_TICKS_NS : EARLY_NS);
}

static void *sleeper(void *arg)
{
    const struct way *way = arg;
    uint64_t state = (uint64_t)(way - ways);

    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        const uint64_t ns =
            way->always_ns ? way->always_ns : MIN_NS + subject_random(&state) % SPREAD_NS;

        check_sleep(way, ns);
    }
    __atomic_fetch_add(&n_done, 1, __ATOMIC_SEQ_CST);
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
    check_vdso(CLOCK_MONOTONIC, "CLOCK_MONOTONIC");
    check_vdso(CLOCK_BOOTTIME, "CLOCK_BOOTTIME");
    for (size_t i = 0; i < N_GAP_CLOCKS; i++) {
        const uint64_t now = subject_now(gap_clocks[i]);

        const uint64_t last = last_tick[i];

        CHECK(gap_clocks[i] == CLOCK_REALTIME || now >= last,
              "clock %d went back by %" PRIu64 " ns", (int)gap_clocks[i], last - now);
        if (last && now > last && now - last > longest_gap_ns[i])
            __atomic_store_n(&longest_gap_ns[i], now - last, __ATOMIC_SEQ_CST);
        __atomic_store_n(&last_tick[i], now, __ATOMIC_SEQ_CST);
    }
}

int main(int argc, char **argv)
{
    pthread_t threads[N_WAYS];

    subject_begin(argc, argv);
    MUST((semaphore = semget(IPC_PRIVATE, 1, 0600)) >= 0);
    tick();
    for (size_t i = 0; i < N_WAYS; i++)
        MUST(pthread_create(&threads[i], NULL, sleeper, (void *)&ways[i]) == 0);
    subject_ready();
    do {
        subject_sleep_ms(TICK_MS);
        tick();
        if (subject.sabotage) // by this clock hardly any time passes
            check_sleep(&(struct way){"sabotage", by_nanosleep, CLOCK_PROCESS_CPUTIME_ID, 0, false},
                        MIN_NS);
    } while (!subject_asked());
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&n_done, __ATOMIC_SEQ_CST) < N_WAYS) {
        subject_sleep_ms(TICK_MS);
        tick();
    }
    for (size_t i = 0; i < N_WAYS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    MUST(semctl(semaphore, 0, IPC_RMID) == 0);
    subject_pass();
}
