// SPDX-License-Identifier: GPL-2.0-or-later
// Epoll sets: what is still to be fetched comes once, what was fetched does not come again.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

static int ep_new(void)
{
    const int ep = epoll_create1(EPOLL_CLOEXEC);

    MUST(ep >= 0);
    return ep;
}

static void watch(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};

    CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) == 0, "watching %d for %x: %m", fd, events);
}

static void change(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};

    CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event) == 0, "changing %d to %x: %m", fd, events);
}

// The next event has these bits and this data.
static void expect_at(int line, int ep, uint32_t events, uint64_t data)
{
    struct epoll_event event = {0};
    const int n = epoll_wait(ep, &event, 1, 0);

    CHECK(n == 1, "line %d: no event %x", line, events);
    CHECK(event.events == events && event.data.u64 == data,
          "line %d: event %x of %lx, not %x of %lx", line, event.events, event.data.u64, events,
          data);
}
#define EXPECT(...) expect_at(__LINE__, __VA_ARGS__)

static void expect_none_at(int line, int ep)
{
    struct epoll_event event = {0};

    CHECK(epoll_wait(ep, &event, 1, 0) == 0, "line %d: event %x of %lx", line, event.events,
          event.data.u64);
}
#define EXPECT_NONE(ep) expect_none_at(__LINE__, ep)

// Expires by an interrupt, which may come late.
static void await_timer(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    CHECK(poll(&p, 1, PATIENCE_MS) == 1, "a timer that is due does not expire: %m");
}

static void pipe_with(int ends[2], const char *text)
{
    MUST(pipe2(ends, O_NONBLOCK) == 0);
    MUST(write(ends[1], text, strlen(text)) == (ssize_t)strlen(text));
}

static void fill(int fd)
{
    static const char much[65536];

    while (write(fd, much, sizeof much) > 0)
        ;
}

static void drain(int fd)
{
    static char much[65536];

    while (read(fd, much, sizeof much) > 0)
        ;
}

/* ---- edges ---- */

static int edge, fetched[2], queued[2], empty[2], counter_fetched, timer_fetched;

static void edges_begin(void)
{
    edge = ep_new();
    pipe_with(fetched, "f");
    pipe_with(queued, "");
    pipe_with(empty, "");
    MUST((counter_fetched = eventfd(1, 0)) >= 0);
    MUST((timer_fetched = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) >= 0);
    watch(edge, fetched[0], EPOLLIN | EPOLLET, 1);
    watch(edge, counter_fetched, EPOLLIN | EPOLLET, 2);
    watch(edge, timer_fetched, EPOLLIN | EPOLLET, 3);
    watch(edge, fetched[1], EPOLLOUT | EPOLLET, 4);
    const struct itimerspec soon = {.it_value = {0, 1}, .it_interval = {0, 1000000}};
    MUST(timerfd_settime(timer_fetched, 0, &soon, NULL) == 0);
    await_timer(timer_fetched);
    subject_sleep_ms(20);
    EXPECT(edge, EPOLLIN, 1);
    EXPECT(edge, EPOLLIN, 2);
    EXPECT(edge, EPOLLOUT, 4);
    EXPECT(edge, EPOLLIN, 3);
    EXPECT_NONE(edge);
    watch(edge, empty[0], EPOLLIN | EPOLLRDHUP | EPOLLET, 5);
    watch(edge, queued[0], EPOLLIN | EPOLLET, 0xdeadbeefcafe);
    MUST(write(queued[1], "q", 1) == 1); // not fetched before the move
}

static void edges_end(void)
{
    uint64_t n;

    EXPECT(edge, EPOLLIN, 0xdeadbeefcafe);
    EXPECT_NONE(edge);
    MUST(write(fetched[1], "g", 1) == 1 && write(empty[1], "e", 1) == 1);
    EXPECT(edge, EPOLLIN, 1);
    EXPECT(edge, EPOLLIN, 5);
    EXPECT_NONE(edge);
    MUST(read(timer_fetched, &n, sizeof n) == sizeof n); // starts it again
    CHECK(n > 20, "only %lu expirations", n);
    await_timer(timer_fetched);
    EXPECT(edge, EPOLLIN, 3);
    EXPECT_NONE(edge);
    close(empty[1]);
    EXPECT(edge, EPOLLIN | EPOLLHUP, 5);
    EXPECT_NONE(edge);
}

/* ---- one shot ---- */

static int once, armed[2], fired[2], fired_empty[2], fired_full[2], fired_counter, fired_timer;

static void once_begin(void)
{
    const uint32_t in = EPOLLIN | EPOLLONESHOT;

    once = ep_new();
    pipe_with(armed, "");
    pipe_with(fired, "x");
    pipe_with(fired_empty, "x");
    pipe_with(fired_full, "");
    MUST((fired_counter = eventfd(1, 0)) >= 0);
    MUST((fired_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) >= 0);
    const struct itimerspec far = {.it_value = {5000, 0}}, soon = {.it_value = {0, 1}};
    MUST(timerfd_settime(fired_timer, 0, &soon, NULL) == 0);
    await_timer(fired_timer);
    watch(once, fired[0], in, 1);
    watch(once, fired_empty[0], in | EPOLLET, 2);
    watch(once, fired_full[1], EPOLLOUT | EPOLLONESHOT, 3);
    watch(once, fired_counter, in, 4);
    watch(once, fired_timer, in, 5);
    EXPECT(once, EPOLLIN, 1);
    EXPECT(once, EPOLLIN, 2);
    EXPECT(once, EPOLLOUT, 3);
    EXPECT(once, EPOLLIN, 4);
    EXPECT(once, EPOLLIN, 5);
    EXPECT_NONE(once);
    drain(fired_empty[0]);
    fill(fired_full[1]);
    MUST(timerfd_settime(fired_timer, 0, &far, NULL) == 0);
    watch(once, armed[0], in, 6);
    MUST(write(armed[1], "a", 1) == 1);
}

static void once_end(void)
{
    EXPECT(once, EPOLLIN, 6);
    EXPECT_NONE(once);
    // Not even errors before it is armed again.
    close(fired[1]);
    close(fired_empty[1]);
    close(fired_full[0]);
    MUST(eventfd_write(fired_counter, 1) == 0);
    EXPECT_NONE(once);
    change(once, fired[0], EPOLLIN | EPOLLONESHOT, 11);
    change(once, fired_empty[0], EPOLLIN, 12);
    change(once, fired_full[1], EPOLLIN, 13);
    EXPECT(once, EPOLLIN | EPOLLHUP, 11);
    EXPECT(once, EPOLLHUP, 12);
    EXPECT(once, EPOLLERR, 13);
}

// What has fired and has nothing to fire with: a listener without a connection, a signal that was
// taken.
static int quiet, listener, fired_signal, connected;
static struct sockaddr_un address;
static socklen_t address_bytes = sizeof address;

static void raise_winch(void)
{
    MUST(kill(getpid(), SIGWINCH) == 0);
}

static void connect_once(void)
{
    MUST((connected = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    MUST(connect(connected, (struct sockaddr *)&address, address_bytes) == 0);
}

static void quiet_begin(void)
{
    const struct sockaddr_un any = {.sun_family = AF_UNIX};
    struct signalfd_siginfo info;
    sigset_t winch;

    quiet = ep_new();
    MUST((listener = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    MUST(bind(listener, (const struct sockaddr *)&any, sizeof any.sun_family) == 0);
    MUST(listen(listener, 4) == 0);
    MUST(getsockname(listener, (struct sockaddr *)&address, &address_bytes) == 0);
    sigemptyset(&winch);
    sigaddset(&winch, SIGWINCH);
    MUST(pthread_sigmask(SIG_BLOCK, &winch, NULL) == 0);
    MUST((fired_signal = signalfd(-1, &winch, SFD_NONBLOCK)) >= 0);
    watch(quiet, listener, EPOLLIN | EPOLLONESHOT, 1);
    connect_once();
    EXPECT(quiet, EPOLLIN, 1);
    MUST(close(accept(listener, NULL, NULL)) == 0 && close(connected) == 0);
    watch(quiet, fired_signal, EPOLLIN | EPOLLONESHOT, 2);
    raise_winch();
    EXPECT(quiet, EPOLLIN, 2);
    MUST(read(fired_signal, &info, sizeof info) == sizeof info);
}

static void quiet_end(void)
{
    connect_once();
    raise_winch();
    EXPECT_NONE(quiet);
    change(quiet, listener, EPOLLIN | EPOLLONESHOT, 11);
    EXPECT(quiet, EPOLLIN, 11);
    change(quiet, fired_signal, EPOLLIN, 12);
    EXPECT(quiet, EPOLLIN, 12);
}

// A timer that expires on the way is told of, whatever was fetched of others.
static int news, news_timer, news_counter;

static void news_begin(void)
{
    const struct itimerspec soon = {.it_value = {0, 300 * 1000000}};

    news = ep_new();
    MUST((news_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) >= 0);
    MUST((news_counter = eventfd(1, 0)) >= 0);
    watch(news, news_timer, EPOLLIN | EPOLLET, 1);
    watch(news, news_counter, EPOLLIN | EPOLLET, 2);
    EXPECT(news, EPOLLIN, 2);
    MUST(timerfd_settime(news_timer, 0, &soon, NULL) == 0);
}

static void news_end(void)
{
    struct epoll_event event = {0};

    CHECK(epoll_wait(news, &event, 1, PATIENCE_MS) == 1 && event.data.u64 == 1,
          "a timer that has expired is not told of");
    EXPECT_NONE(news);
}

/* ---- numbers that are closed, or another file's ---- */

static int odd, kept, other, reused;

static void numbers_begin(void)
{
    int gone;

    odd = ep_new();
    MUST((gone = eventfd(0, 0)) >= 0);
    watch(odd, gone, EPOLLIN, 100);
    MUST((kept = fcntl(gone, F_DUPFD, 50)) >= 50);
    close(gone);
    MUST((reused = eventfd(0, 0)) >= 0);
    watch(odd, reused, EPOLLIN, 200);
    MUST((other = fcntl(reused, F_DUPFD, 50)) >= 50);
    close(reused);
    MUST(open("/dev/null", O_RDONLY) == reused);
    // The same file, watched under three numbers.
    watch(odd, other, EPOLLOUT | EPOLLET, 201);
    EXPECT(odd, EPOLLOUT, 201);
    EXPECT_NONE(odd);
}

static void numbers_end(void)
{
    struct epoll_event event = {.events = EPOLLIN}, all[4];
    uint64_t sum = 0;

    EXPECT_NONE(odd);
    MUST(eventfd_write(kept, 1) == 0);
    EXPECT(odd, EPOLLIN, 100);
    change(odd, other, EPOLLIN, 202);
    MUST(eventfd_write(other, 1) == 0);
    const int n = epoll_wait(odd, all, 4, 0);
    for (int i = 0; i < n; i++)
        sum += all[i].data.u64;
    CHECK(n == 3 && sum == 100 + 200 + 202, "%d events of numbers that were closed", n);
    CHECK(epoll_ctl(odd, EPOLL_CTL_MOD, reused, &event) < 0 && errno == EPERM,
          "the number that was reused is watched: %m");
}

/* ---- sets within sets, who shares them ---- */

static int inner, outer_level, outer_edge, outermost, inner_counter;

static void nested_begin(void)
{
    inner = ep_new();
    outer_level = ep_new();
    outer_edge = ep_new();
    outermost = ep_new();
    MUST((inner_counter = eventfd(1, 0)) >= 0);
    watch(outermost, outer_level, EPOLLIN, 9);
    watch(outer_level, inner, EPOLLIN, 7);
    watch(outer_edge, inner, EPOLLIN | EPOLLET, 8);
    watch(inner, inner_counter, EPOLLIN, 6);
    EXPECT(outer_edge, EPOLLIN, 8);
    EXPECT_NONE(outer_edge);
}

static void nested_end(void)
{
    struct pollfd p = {.fd = outermost, .events = POLLIN};

    EXPECT_NONE(outer_edge);
    EXPECT(outer_level, EPOLLIN, 7);
    EXPECT(outermost, EPOLLIN, 9);
    EXPECT(inner, EPOLLIN, 6);
    MUST(eventfd_write(inner_counter, 1) == 0);
    EXPECT(outer_edge, EPOLLIN, 8);
    uint64_t n;
    MUST(read(inner_counter, &n, 8) == 8 && n == 2);
    CHECK(poll(&p, 1, 0) == 0, "a set without events is ready");
}

/* ---- the order in which they come ---- */

static int line, counters[16];

static void line_begin(void)
{
    line = ep_new();
    for (int i = 0; i < 16; i++) {
        MUST((counters[i] = eventfd(0, 0)) >= 0);
        watch(line, counters[i], EPOLLIN | (i % 2 ? EPOLLET : 0), (uint64_t)i);
    }
    for (int i = 0; i < 16; i++)
        MUST(eventfd_write(counters[i * 7 % 16], 1) == 0);
}

static void line_end(void)
{
    for (int i = 0; i < 16; i++)
        EXPECT(line, EPOLLIN, (uint64_t)(i * 7 % 16));
    // The level-triggered ones come round again.
    for (int i = 0; i < 16; i += 2)
        EXPECT(line, EPOLLIN, (uint64_t)(i * 7 % 16));
}

/* ---- exclusive, and what else an entry may say ---- */

static int exclusive, shared_pipe[2];

static void exclusive_begin(void)
{
    exclusive = ep_new();
    pipe_with(shared_pipe, "s");
    watch(exclusive, shared_pipe[0], EPOLLIN | EPOLLEXCLUSIVE, 21);
    watch(exclusive, shared_pipe[1], EPOLLOUT | EPOLLEXCLUSIVE | EPOLLET, 22);
    EXPECT(exclusive, EPOLLIN, 21);
    EXPECT(exclusive, EPOLLOUT, 22);
}

static void exclusive_end(void)
{
    struct epoll_event event = {.events = EPOLLIN};

    EXPECT(exclusive, EPOLLIN, 21);
    drain(shared_pipe[0]);
    CHECK(epoll_ctl(exclusive, EPOLL_CTL_MOD, shared_pipe[0], &event) < 0 && errno == EINVAL,
          "an exclusive entry was changed");
}

/* ---- who waits ---- */

static int waited, waited_counter, never_ready;

static void *wait_forever(void *arg)
{
    struct epoll_event event;

    CHECK(epoll_wait(waited, &event, 1, -1) == 1 && event.data.u64 == 31,
          "the one that waits got another event: %m");
    return arg;
}

enum way { EPOLL_WAIT, EPOLL_PWAIT, POLL, PPOLL, SELECT, N_WAYS };

static volatile bool stop;

static int wait_ms(enum way way, int ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    struct pollfd p = {.fd = never_ready, .events = POLLIN};
    struct epoll_event event;
    fd_set set;

    FD_ZERO(&set);
    FD_SET(never_ready, &set);
    switch (way) {
    case EPOLL_WAIT:
        return epoll_wait(never_ready, &event, 1, ms);
    case EPOLL_PWAIT:
        return epoll_pwait(never_ready, &event, 1, ms, NULL);
    case POLL:
        return poll(&p, 1, ms);
    case PPOLL:
        return ppoll(&p, 1, &ts, NULL);
    default:
        return select(never_ready + 1, &set, NULL, NULL, &tv);
    }
}

static void *wait_a_while(void *arg)
{
    while (!stop) {
        const uint64_t start = subject_now(CLOCK_MONOTONIC), ns = 600 * NS_PER_MS;
        const int n = wait_ms((enum way)(uintptr_t)arg, 600);
        const uint64_t passed = subject_now(CLOCK_MONOTONIC) - start;

        CHECK(n == 0, "way %ld to wait gave %d: %m", (long)arg, n);
        CHECK(passed + NS_PER_MS >= ns, "way %ld waited %lu us", (long)arg, passed / 1000);
        CHECK(passed < ns + PATIENCE_NS, "way %ld waited %lu ms", (long)arg,
              (unsigned long)(passed / NS_PER_MS));
    }
    return NULL;
}

// The set that a child has inherited, with descriptors that it alone still has.
static pid_t start_child(int *ret_ep, int *ret_counter, int *ret_answer)
{
    int ep = ep_new(), counter = eventfd(0, 0), answer = eventfd(0, 0), before;
    struct epoll_event event;

    MUST((before = eventfd(0, 0)) >= 0);
    watch(ep, counter, EPOLLIN | EPOLLET, 41);
    watch(ep, before, EPOLLIN | EPOLLET, 42);
    const pid_t child = fork();
    MUST(child >= 0);
    while (child == 0) {
        CHECK(epoll_wait(ep, &event, 1, -1) == 1 && event.data.u64 == 41, "child: %m");
        MUST(eventfd_write(answer, 1) == 0);
    }
    close(before);
    *ret_ep = ep;
    *ret_counter = counter;
    *ret_answer = answer;
    return child;
}

int main(int argc, char **argv)
{
    int child_ep, child_counter, child_answer;
    pthread_t forever, waiters[N_WAYS];
    uint64_t n;

    subject_begin(argc, argv);
    // Before the rest is there: it would keep that open as well.
    const pid_t child = start_child(&child_ep, &child_counter, &child_answer);
    edges_begin();
    once_begin();
    quiet_begin();
    news_begin();
    numbers_begin();
    nested_begin();
    line_begin();
    exclusive_begin();
    waited = ep_new();
    never_ready = ep_new();
    MUST((waited_counter = eventfd(0, 0)) >= 0);
    watch(waited, waited_counter, EPOLLIN, 31);
    MUST(pthread_create(&forever, NULL, wait_forever, NULL) == 0);
    for (uintptr_t i = 0; i < N_WAYS; i++)
        MUST(pthread_create(&waiters[i], NULL, wait_a_while, (void *)i) == 0);
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        EXPECT(edge, EPOLLIN, 0xdeadbeefcafe);
    while (!subject_asked()) {
        MUST(eventfd_write(child_counter, 1) == 0);
        MUST(read(child_answer, &n, sizeof n) == sizeof n);
        subject_sleep_ms(5);
    }
    edges_end();
    once_end();
    quiet_end();
    news_end();
    numbers_end();
    nested_end();
    line_end();
    exclusive_end();
    MUST(eventfd_write(waited_counter, 1) == 0);
    pthread_join(forever, NULL);
    stop = true;
    for (unsigned i = 0; i < N_WAYS; i++)
        pthread_join(waiters[i], NULL);
    kill(child, SIGKILL);
    MUST(waitpid(child, NULL, 0) == child);
    subject_pass();
}
