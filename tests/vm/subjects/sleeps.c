// SPDX-License-Identifier: GPL-2.0-or-later
// One thread for every way to sleep; each sleep must end on time.
//
// On time: not before its end by the clock it sleeps on, and after it by no more than LATE plus
// what was lost meanwhile: time that no thread of this process got on one of its CPUs, because the
// guest was paused or the host was busy. Early by EARLY is taken: the clock of a paused guest is
// known to within a tick. A timeout that a call only reads must be what it was afterwards.
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
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
// the host holds up misses some. What was lost just before comes on top.
#define EARLY_TICKS_NS (40 * NS_PER_MS)
#define LATE_NS        (200 * NS_PER_MS)
#define TICK_MS        10
#define MAX_CPUS       8
#define MIN_NS         (300 * NS_PER_MS)
#define HALF_NS        (500 * NS_PER_MS)
#define SPREAD_NS      (1500 * NS_PER_MS)

// Sleeps until begin + ns, or for about ns, which is the same. Returns false when the call gave
// another result than that of a timeout.
typedef bool sleep_fn(uint64_t begin, uint64_t ns);

/* ---- time that is lost ---- */

// An image that waits in a file is a gap of the last two.
static const clockid_t gap_clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
#define N_GAP_CLOCKS (sizeof gap_clocks / sizeof gap_clocks[0])

// On each CPU one that looks at the clocks at every tick.
static struct watch {
    int cpu;
    uint64_t last[N_GAP_CLOCKS];
} watches[MAX_CPUS];
static unsigned n_watches;

// What they have found: the sum of all gaps, and the end of the last. Two at once count once.
static uint64_t lost_so_far[N_GAP_CLOCKS], lost_until[N_GAP_CLOCKS];
static pthread_mutex_t lost_lock = PTHREAD_MUTEX_INITIALIZER;
static bool stop;

static uint64_t later_of(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void look_at_clock(struct watch *w, size_t i)
{
    MUST(pthread_mutex_lock(&lost_lock) == 0);
    const uint64_t last = w->last[i], now = subject_now(gap_clocks[i]);

    CHECK(gap_clocks[i] == CLOCK_REALTIME || now >= last, "clock %d went back by %" PRIu64 " ns",
          (int)gap_clocks[i], last - now);
    if (now > last + 2 * TICK_MS * NS_PER_MS && now > lost_until[i])
        lost_so_far[i] += now - later_of(last, lost_until[i]);
    if (now > last + 2 * TICK_MS * NS_PER_MS || now < last)
        lost_until[i] = now;
    w->last[i] = now;
    MUST(pthread_mutex_unlock(&lost_lock) == 0);
}

static void *watch_clocks(void *arg)
{
    struct watch *w = arg;
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(w->cpu, &one);
    MUST(sched_setaffinity(0, sizeof one, &one) == 0);
    for (;;) {
        for (size_t i = 0; i < N_GAP_CLOCKS; i++)
            look_at_clock(w, i);
        subject_sleep_ms(TICK_MS);
    }
    return NULL;
}

static void start_watches(void)
{
    pthread_t thread;
    cpu_set_t all;

    MUST(sched_getaffinity(0, sizeof all, &all) == 0);
    for (int cpu = 0; cpu < CPU_SETSIZE && n_watches < MAX_CPUS; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        watches[n_watches].cpu = cpu;
        for (size_t i = 0; i < N_GAP_CLOCKS; i++)
            watches[n_watches].last[i] = subject_now(gap_clocks[i]);
        n_watches++;
    }
    for (unsigned i = 0; i < n_watches; i++)
        MUST(pthread_create(&thread, NULL, watch_clocks, &watches[i]) == 0);
}

// What was lost so far; with what is yet to be found, since a move for one.
static uint64_t lost(clockid_t clock, bool unseen)
{
    size_t i = N_GAP_CLOCKS - 1;

    while (i > 0 && gap_clocks[i] != clock)
        i--;
    MUST(pthread_mutex_lock(&lost_lock) == 0);
    uint64_t sum = lost_so_far[i], since = UINT64_MAX;
    for (unsigned cpu = 0; cpu < n_watches; cpu++)
        if (watches[cpu].last[i] < since)
            since = watches[cpu].last[i];
    since = later_of(since, lost_until[i]);
    const uint64_t now = subject_now(gap_clocks[i]);
    MUST(pthread_mutex_unlock(&lost_lock) == 0);
    return sum + (unseen && now > since ? now - since : 0);
}

/* ---- ways to sleep ---- */

static struct timespec ts_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
}

static bool is_as_was(const struct timespec *ts, uint64_t ns)
{
    const struct timespec was = ts_of(ns);

    return ts->tv_sec == was.tv_sec && ts->tv_nsec == was.tv_nsec;
}

static bool by_nanosleep(uint64_t begin, uint64_t ns)
{
    const struct timespec ts = ts_of(ns);

    return nanosleep(&ts, NULL) == 0;
}

static bool by_clock_relative(uint64_t begin, uint64_t ns)
{
    struct timespec ts = ts_of(ns), left;

    return clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &left) == 0;
}

static bool by_clock_realtime(uint64_t begin, uint64_t ns)
{
    const struct timespec ts = ts_of(ns);

    return clock_nanosleep(CLOCK_REALTIME, 0, &ts, NULL) == 0;
}

static bool until(clockid_t clock, uint64_t end)
{
    const struct timespec ts = ts_of(end);

    return clock_nanosleep(clock, TIMER_ABSTIME, &ts, NULL) == 0;
}

static bool until_monotonic(uint64_t begin, uint64_t ns)
{
    return until(CLOCK_MONOTONIC, begin + ns);
}

static bool until_boottime(uint64_t begin, uint64_t ns)
{
    return until(CLOCK_BOOTTIME, begin + ns);
}

static bool until_realtime(uint64_t begin, uint64_t ns)
{
    return until(CLOCK_REALTIME, begin + ns);
}

static bool by_poll(uint64_t begin, uint64_t ns)
{
    return poll(NULL, 0, (int)(ns / NS_PER_MS) + 1) == 0;
}

static bool by_ppoll(uint64_t begin, uint64_t ns)
{
    struct timespec ts = ts_of(ns);
    sigset_t all;

    sigfillset(&all);
    return ppoll(NULL, 0, &ts, &all) == 0;
}

static bool by_select(uint64_t begin, uint64_t ns)
{
    struct timeval tv = {(time_t)(ns / NS_PER_S), (suseconds_t)(ns % NS_PER_S / 1000) + 1};

    return select(0, NULL, NULL, NULL, &tv) == 0 && tv.tv_sec == 0 && tv.tv_usec == 0;
}

static bool by_pselect(uint64_t begin, uint64_t ns)
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

static bool by_futex(uint64_t begin, uint64_t ns)
{
    const struct timespec ts = ts_of(ns);

    return futex_sleep(FUTEX_WAIT_PRIVATE, &ts);
}

static bool until_futex(uint64_t begin, uint64_t ns)
{
    const struct timespec ts = ts_of(begin + ns);

    return futex_sleep(FUTEX_WAIT_BITSET_PRIVATE, &ts);
}

static bool until_futex_realtime(uint64_t begin, uint64_t ns)
{
    const struct timespec ts = ts_of(begin + ns);

    return futex_sleep(FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, &ts);
}

static bool by_sigtimedwait(uint64_t begin, uint64_t ns)
{
    const struct timespec ts = ts_of(ns);
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 3);
    return sigtimedwait(&one, NULL, &ts) == -1 && errno == EAGAIN && is_as_was(&ts, ns);
}

static int semaphore;

static bool by_semtimedop(uint64_t begin, uint64_t ns)
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

static bool by_epoll(uint64_t begin, uint64_t ns)
{
    static int set;
    struct epoll_event event;

    if (!set)
        set = new_epoll();
    return epoll_wait(set, &event, 1, (int)(ns / NS_PER_MS) + 1) == 0;
}

static bool by_epoll_pwait(uint64_t begin, uint64_t ns)
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
static bool for_half_a_second(uint64_t begin, uint64_t ns)
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
    return by_nanosleep(begin, HALF_NS);
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

static bool by_recv(uint64_t begin, uint64_t ns)
{
    static int fds[2];
    const struct timeval tv = tv_of(ns);
    char c;

    if (!fds[1])
        new_pair(fds, SOCK_STREAM);
    set_timeout(fds[0], SO_RCVTIMEO, &tv);
    return recv(fds[0], &c, 1, 0) == -1 && timed_out(fds[0], SO_RCVTIMEO, &tv);
}

static bool by_recv_datagram(uint64_t begin, uint64_t ns)
{
    static int fds[2];
    const struct timeval tv = tv_of(ns);
    char c;

    if (!fds[1])
        new_pair(fds, SOCK_DGRAM);
    set_timeout(fds[0], SO_RCVTIMEO, &tv);
    return read(fds[0], &c, 1) == -1 && timed_out(fds[0], SO_RCVTIMEO, &tv);
}

static bool by_send(uint64_t begin, uint64_t ns)
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

static bool by_accept(uint64_t begin, uint64_t ns)
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
    bool anew; // may begin anew when it had just begun: the kernel does not say what is left
    bool in_ticks;
} ways[] = {
    {"nanosleep", by_nanosleep, CLOCK_MONOTONIC, 0, false, false},
    {"clock_nanosleep", by_clock_relative, CLOCK_MONOTONIC, 0, false, false},
    {"clock_nanosleep REALTIME", by_clock_realtime, CLOCK_MONOTONIC, 0, false, false},
    {"clock_nanosleep until", until_monotonic, CLOCK_MONOTONIC, 0, false, false},
    {"clock_nanosleep until BOOTTIME", until_boottime, CLOCK_BOOTTIME, 0, false, false},
    {"clock_nanosleep until REALTIME", until_realtime, CLOCK_REALTIME, 0, false, false},
    {"poll", by_poll, CLOCK_MONOTONIC, 0, false, false},
    {"ppoll", by_ppoll, CLOCK_MONOTONIC, 0, false, false},
    {"select", by_select, CLOCK_MONOTONIC, 0, false, false},
    {"pselect", by_pselect, CLOCK_MONOTONIC, 0, false, false},
    {"futex", by_futex, CLOCK_MONOTONIC, 0, false, false},
    {"futex until", until_futex, CLOCK_MONOTONIC, 0, false, false},
    {"futex until REALTIME", until_futex_realtime, CLOCK_REALTIME, 0, false, false},
    {"sigtimedwait", by_sigtimedwait, CLOCK_MONOTONIC, 0, true, false},
    {"semtimedop", by_semtimedop, CLOCK_MONOTONIC, 0, true, false},
    {"epoll_wait", by_epoll, CLOCK_MONOTONIC, 0, true, false},
    {"epoll_pwait", by_epoll_pwait, CLOCK_MONOTONIC, 0, true, false},
    {"epoll_pwait2", for_half_a_second, CLOCK_MONOTONIC, HALF_NS, true, false},
    {"recv", by_recv, CLOCK_MONOTONIC, 0, true, true},
    {"read of datagrams", by_recv_datagram, CLOCK_MONOTONIC, 0, true, true},
    {"send", by_send, CLOCK_MONOTONIC, 0, true, true},
    {"accept", by_accept, CLOCK_MONOTONIC, 0, true, true},
};
#define N_WAYS (sizeof ways / sizeof ways[0])

// *lost_before: at the begin of the sleep before this one; is that of this one afterwards.
static void check_sleep(const struct way *way, uint64_t ns, uint64_t *lost_before)
{
    const uint64_t lost_at_begin = lost(way->clock, false);
    const int64_t wall = subject_wall();
    const uint64_t begin = subject_now(way->clock);

    CHECK(way->sleep(begin, ns), "%s: not a timeout: %m", way->name);
    const int64_t over = (int64_t)(subject_now(way->clock) - begin - ns);
    const uint64_t lost_now = lost(way->clock, true);
    uint64_t early = way->in_ticks ? EARLY_TICKS_NS + lost_now - *lost_before : EARLY_NS;
    const uint64_t away = lost_now - lost_at_begin;
    // A move has a part that the program does not see, and in which a sleep may begin: the busier
    // the host, the longer are both.
    const uint64_t late = LATE_NS + away + (way->anew ? away / 2 : 0);

    // It may have been moved when it was over, to where the wall clock is behind.
    if (way->clock == CLOCK_REALTIME && subject_wall() < wall)
        early += (uint64_t)(wall - subject_wall());
    CHECK(over >= -(int64_t)early, "%s of %" PRIu64 " us ended %" PRId64 " us early", way->name,
          ns / 1000, -over / 1000);
    CHECK(over <= (int64_t)late,
          "%s of %" PRIu64 " us ended %" PRId64 " us late, of which %" PRIu64 " us were lost",
          way->name, ns / 1000, over / 1000, away / 1000);
    *lost_before = lost_at_begin;
}

static void *sleeper(void *arg)
{
    const struct way *way = arg;
    uint64_t state = (uint64_t)(way - ways), lost_before = lost(way->clock, false);

    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        const uint64_t ns =
            way->always_ns ? way->always_ns : MIN_NS + subject_random(&state) % SPREAD_NS;

        check_sleep(way, ns, &lost_before);
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

int main(int argc, char **argv)
{
    static const struct way by_no_clock = {"sabotage", by_nanosleep, CLOCK_PROCESS_CPUTIME_ID,
                                           0,          false,        false};
    pthread_t threads[N_WAYS];
    uint64_t lost_before = 0;

    subject_begin(argc, argv);
    MUST((semaphore = semget(IPC_PRIVATE, 1, 0600)) >= 0);
    start_watches();
    for (size_t i = 0; i < N_WAYS; i++)
        MUST(pthread_create(&threads[i], NULL, sleeper, (void *)&ways[i]) == 0);
    subject_ready();
    do {
        subject_sleep_ms(TICK_MS);
        check_vdso(CLOCK_MONOTONIC, "CLOCK_MONOTONIC");
        check_vdso(CLOCK_BOOTTIME, "CLOCK_BOOTTIME");
        if (subject.sabotage) // by this clock hardly any time passes
            check_sleep(&by_no_clock, MIN_NS, &lost_before);
    } while (!subject_asked());
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    for (size_t i = 0; i < N_WAYS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    MUST(semctl(semaphore, 0, IPC_RMID) == 0);
    subject_pass();
}
