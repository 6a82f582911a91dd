// SPDX-License-Identifier: GPL-2.0-or-later
// Processes and threads that are hardly ever all asleep: they nap, bear children and threads, and
// pass numbers to each other by all that one can wait for.
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define N_NAPPERS  16
#define NAP_NS     (8 * NS_PER_MS + 100000 * (uint64_t)self)
#define N_THREADS  3
#define THINK      500
#define PAUSE_MS   3 // of who would never sleep
#define WAIT_MS    20
#define TIMEOUT_MS 1000000
#define END        (UINT64_MAX - 1) // is asked last
#define MAX_PROCS  64

static struct common {
    atomic_bool over, is_wrong;
    atomic_ulong turns[MAX_PROCS]; // of each process
} * common;
static unsigned self;

static bool next_turn(void)
{
    atomic_fetch_add(&common->turns[self], 1);
    return !atomic_load(&common->over);
}

// User mode for a while.
static uint64_t think(uint64_t n)
{
    for (unsigned i = 0; i < THINK; i++)
        n = subject_mix(n);
    return n;
}

/* ---- who naps, and who has others wait ---- */

static void nap(void)
{
    struct timespec left = {-1, -1};
    const struct timespec ts = {0, (long)NAP_NS};

    while (next_turn()) {
        const uint64_t begin = subject_now(CLOCK_MONOTONIC);

        if (self % 2)
            CHECK(nanosleep(&ts, &left) == 0, "nanosleep: %m");
        else
            CHECK(clock_nanosleep(CLOCK_BOOTTIME, 0, &ts, &left) == 0, "clock_nanosleep");
        CHECK(subject_now(CLOCK_MONOTONIC) - begin >= NAP_NS, "a nap was too short");
        // Whatever stops it has the kernel write what is left.
        CHECK((left.tv_sec == -1 && left.tv_nsec == -1) ||
                  (left.tv_sec == 0 && (uint64_t)left.tv_nsec <= NAP_NS),
              "a nap left %ld.%09ld s", left.tv_sec, left.tv_nsec);
        think(begin);
    }
}

static void wait_for_nothing(void)
{
    const int none = epoll_create1(0);
    struct pollfd pfd = {.fd = none, .events = POLLIN};
    struct epoll_event event;

    MUST(none >= 0);
    while (next_turn()) {
        const uint64_t begin = subject_now(CLOCK_MONOTONIC);
        struct timeval tv = {0, WAIT_MS * 1000};
        const struct timespec ts = {0, WAIT_MS * (long)NS_PER_MS};
        fd_set set;

        FD_ZERO(&set);
        FD_SET(none, &set);
        CHECK(poll(&pfd, 1, WAIT_MS) == 0 && pfd.revents == 0, "poll");
        CHECK(select(none + 1, &set, NULL, NULL, &tv) == 0, "select: %m");
        CHECK(tv.tv_sec == 0 && tv.tv_usec == 0, "select left %ld.%06ld", tv.tv_sec, tv.tv_usec);
        CHECK(ppoll(&pfd, 1, &ts, NULL) == 0, "ppoll: %m");
        CHECK(epoll_wait(none, &event, 1, WAIT_MS) == 0, "epoll_wait: %m");
        CHECK(subject_now(CLOCK_MONOTONIC) - begin >= 4 * WAIT_MS * NS_PER_MS,
              "waiting was too short");
    }
}

/* ---- who bears ---- */

static pid_t born_tid; // each process has its own

static void bear_children(void)
{
    for (unsigned n = 0; next_turn(); n++) {
        int status;
        const long pid = syscall(SYS_clone, CLONE_CHILD_SETTID | SIGCHLD, 0, 0, &born_tid, 0);

        MUST(pid >= 0);
        if (pid == 0) {
            CHECK(born_tid == getpid(), "a child is told that it is %d", born_tid);
            think(n);
            _exit((int)(n % 100));
        }
        CHECK(born_tid == 0, "the number of a child came to its parent");
        subject_sleep_ms(n % 2 ? PAUSE_MS : 0);
        CHECK(waitpid((pid_t)pid, &status, 0) == pid && WIFEXITED(status) &&
                  WEXITSTATUS(status) == (int)(n % 100) + common->is_wrong,
              "child %u ended with %#x", n, status);
    }
}

static void *short_thread(void *arg)
{
    think((uint64_t)arg);
    return (char *)arg + 1;
}

static void bear_threads(void)
{
    while (next_turn()) {
        pthread_t threads[N_THREADS];

        for (uintptr_t i = 0; i < N_THREADS; i++)
            MUST(pthread_create(&threads[i], NULL, short_thread, (void *)i) == 0);
        for (uintptr_t i = 0; i < N_THREADS; i++) {
            void *result;

            MUST(pthread_join(threads[i], &result) == 0);
            CHECK((uintptr_t)result == i + 1, "thread %lu returned %p", (unsigned long)i, result);
        }
        subject_sleep_ms(PAUSE_MS);
    }
}

/* ---- who passes numbers ---- */

// How one waits until a descriptor can be read.
static void by_read(int fd)
{
    (void)fd;
}

static void by_poll(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};

    CHECK(poll(&pfd, 1, TIMEOUT_MS) == 1 && pfd.revents == POLLIN, "poll gives %#x", pfd.revents);
}

static void by_select(int fd)
{
    struct timeval tv = {TIMEOUT_MS / 1000, 0};
    fd_set set;

    FD_ZERO(&set);
    FD_SET(fd, &set);
    CHECK(select(fd + 1, &set, NULL, NULL, &tv) == 1 && FD_ISSET(fd, &set), "select");
    CHECK(tv.tv_sec <= TIMEOUT_MS / 1000 && tv.tv_sec > TIMEOUT_MS / 1000 - 600,
          "select left %ld s", tv.tv_sec);
}

static void by_epoll(int fd)
{
    static int epoll = -1;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1234567890abcdef};

    if (epoll < 0)
        MUST((epoll = epoll_create1(0)) >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    event.data.u64 = 0;
    CHECK(epoll_wait(epoll, &event, 1, TIMEOUT_MS) == 1 && event.events == EPOLLIN &&
              event.data.u64 == 0x1234567890abcdef,
          "epoll_wait gives %#x", event.events);
}

static void (*const waits[])(int fd) = {by_read, by_poll, by_select, by_epoll};
#define N_WAITS (sizeof waits / sizeof waits[0])

struct channel {
    int ask[2], answer[2]; // to be read, to be written
};

static struct channel make_channel(unsigned kind)
{
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
    struct channel c;

    if (kind == 0) {
        MUST(pipe(c.ask) == 0 && pipe(c.answer) == 0);
    } else if (kind == 1) {
        c.ask[0] = c.ask[1] = eventfd(0, 0);
        c.answer[0] = c.answer[1] = eventfd(0, 0);
        MUST(c.ask[0] >= 0 && c.answer[0] >= 0);
    } else {
        MUST(socketpair(AF_UNIX, types[kind - 2], 0, c.ask) == 0 &&
             socketpair(AF_UNIX, types[kind - 2], 0, c.answer) == 0);
    }
    return c;
}

static uint64_t take(int fd, void (*wait)(int fd))
{
    uint64_t n;

    wait(fd);
    MUST(read(fd, &n, sizeof n) == sizeof n);
    return n;
}

static void ask(const struct channel *c, void (*wait)(int fd))
{
    uint64_t n = 1;

    for (; next_turn(); n += 2) {
        MUST(write(c->ask[1], &n, sizeof n) == sizeof n);
        think(n);
        subject_sleep_ms(n % 4 == 1 ? PAUSE_MS : 0);
        const uint64_t got = take(c->answer[0], wait);
        CHECK(got == n + 1, "the answer to %lu is %lu", (unsigned long)n, (unsigned long)got);
    }
    n = END;
    MUST(write(c->ask[1], &n, sizeof n) == sizeof n);
}

static void answer(const struct channel *c, void (*wait)(int fd))
{
    uint64_t n, expected = 1;

    for (; (n = take(c->ask[0], wait)) != END; expected += 2) {
        CHECK(n == expected, "%lu is asked, not %lu", (unsigned long)n, (unsigned long)expected);
        next_turn();
        think(n++);
        MUST(write(c->answer[1], &n, sizeof n) == sizeof n);
    }
}

/* ---- all of them ---- */

static unsigned n_procs;

// Whether this is the new process.
static bool start(void)
{
    const pid_t pid = fork();

    MUST(pid >= 0 && n_procs < MAX_PROCS);
    if (pid == 0) {
        self = n_procs;
        MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    }
    n_procs++;
    return pid == 0;
}

static void start_all(void)
{
    static void (*const lives[])(void) = {wait_for_nothing, bear_children, bear_threads};

    for (unsigned i = 0; i < N_NAPPERS; i++) {
        if (start()) {
            nap();
            _exit(0);
        }
    }
    for (unsigned i = 0; i < sizeof lives / sizeof lives[0]; i++) {
        if (start()) {
            lives[i]();
            _exit(0);
        }
    }
    for (unsigned i = 0; i < N_WAITS; i++) {
        const struct channel c = make_channel(i);

        if (start()) {
            ask(&c, waits[i]);
            _exit(0);
        }
        if (start()) {
            answer(&c, waits[(i + 1) % N_WAITS]);
            _exit(0);
        }
    }
}

// One that has failed has told why.
static void check_alive(void)
{
    if (waitpid(-1, NULL, WNOHANG) != 0)
        _exit(1);
}

static void await_turns(unsigned long more)
{
    unsigned long before[MAX_PROCS];

    for (unsigned i = 0; i < n_procs; i++)
        before[i] = atomic_load(&common->turns[i]);
    for (unsigned i = 0; i < n_procs; i++) {
        AWAIT((check_alive(), atomic_load(&common->turns[i]) >= before[i] + more),
              "process %u has come to a halt", i);
    }
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    MUST((common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                        -1, 0)) != MAP_FAILED);
    start_all();
    await_turns(2);
    subject_ready();
    common->is_wrong = subject.sabotage;
    while (!subject_asked()) {
        check_alive();
        subject_sleep_ms(5);
    }
    await_turns(2);
    atomic_store(&common->over, true);
    for (unsigned i = 0; i < n_procs; i++) {
        int status;

        MUST(wait(&status) > 0);
        if (status != 0)
            _exit(1);
    }
    subject_pass();
}
