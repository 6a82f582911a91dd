// SPDX-License-Identifier: GPL-2.0-or-later
// Signalfds: what is pending comes out in order, and whoever waits is woken.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

static int resting, busy, waited, level, edge, inherited;

static sigset_t set_of(int signo, int other)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signo);
    if (other)
        sigaddset(&set, other);
    return set;
}

static int open_for(int signo, int other, int flags)
{
    const sigset_t set = set_of(signo, other);
    int fd;

    MUST((fd = signalfd(-1, &set, flags)) >= 0);
    return fd;
}

static void queue(pid_t pid, int signo, int value)
{
    MUST(sigqueue(pid, signo, (union sigval){.sival_int = value}) == 0);
}

static void expect(int fd, int signo, int value)
{
    struct signalfd_siginfo info;

    CHECK(read(fd, &info, sizeof info) == sizeof info, "reading signal %d: %m", signo);
    CHECK((int)info.ssi_signo == signo && info.ssi_int == value && info.ssi_code == SI_QUEUE,
          "signal %u with %d came, not %d with %d", info.ssi_signo, info.ssi_int, signo, value);
}

static void expect_none(int fd)
{
    struct signalfd_siginfo info;

    CHECK(read(fd, &info, sizeof info) < 0 && errno == EAGAIN, "signal %u came", info.ssi_signo);
}

static int events(int ep)
{
    struct epoll_event event[4];

    return epoll_wait(ep, event, 4, 0);
}

static void *wait_for_it(void *arg)
{
    for (int i = 0; i < 3; i++)
        expect(waited, SIGRTMIN + 5, i);
    return arg;
}

static void watch(int ep, int fd, uint32_t flags)
{
    struct epoll_event event = {.events = EPOLLIN | flags, .data.fd = fd};

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) == 0);
}

// A child reads its own signals from a signalfd that its parent has made.
static pid_t start_child(int answer)
{
    const pid_t child = fork();

    MUST(child >= 0);
    if (child > 0)
        return child;
    for (int n = 0;; n++) {
        expect(inherited, SIGRTMIN + 6, n);
        MUST(write(answer, "x", 1) == 1);
    }
}

int main(int argc, char **argv)
{
    int answer[2], n = 0;
    pthread_t waiter;
    sigset_t all;
    char x;

    subject_begin(argc, argv);
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL) == 0 && pipe(answer) == 0);
    resting = open_for(SIGUSR1, SIGRTMIN + 1, SFD_NONBLOCK);
    busy = open_for(SIGRTMIN + 2, 0, SFD_NONBLOCK | SFD_CLOEXEC);
    waited = open_for(SIGRTMIN + 5, 0, 0);
    inherited = open_for(SIGRTMIN + 6, 0, 0);
    MUST((level = epoll_create1(0)) >= 0 && (edge = epoll_create1(EPOLL_CLOEXEC)) >= 0);
    watch(level, resting, 0);
    watch(edge, resting, EPOLLET);
    watch(level, busy, 0);
    const pid_t child = start_child(answer[1]);

    // They come by number, and those of one number in their order.
    for (int i = 0; i < 3; i++)
        queue(getpid(), SIGRTMIN + 1, i);
    queue(getpid(), SIGUSR1, 77);
    CHECK(events(edge) == 1 && events(edge) == 0, "an edge did not come once");
    MUST(pthread_create(&waiter, NULL, wait_for_it, NULL) == 0);
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        queue(getpid(), SIGRTMIN + 1, 3);
    for (; !subject_asked(); n++) {
        CHECK(events(level) == 1, "%d events", events(level));
        CHECK(events(edge) == 0, "an edge that was fetched came again");
        expect_none(busy);
        queue(getpid(), SIGRTMIN + 2, n);
        CHECK(events(level) == 2, "no event for a signal");
        expect(busy, SIGRTMIN + 2, n);
        events(edge); // the kernel wakes all signalfds for any signal
        queue(child, SIGRTMIN + 6, n);
        MUST(read(answer[0], &x, 1) == 1);
        CHECK(fcntl(busy, F_GETFL) == (O_RDWR | O_NONBLOCK), "flags are %x", fcntl(busy, F_GETFL));
        subject_sleep_ms(2);
    }
    expect(resting, SIGUSR1, 77);
    for (int i = 0; i < 3; i++)
        expect(resting, SIGRTMIN + 1, i);
    expect_none(resting);
    CHECK(events(level) == 0 && events(edge) == 0, "events without signals");
    queue(getpid(), SIGUSR1, 1);
    CHECK(events(level) == 1 && events(edge) == 1, "no event for a new signal");
    for (int i = 0; i < 3; i++)
        queue(getpid(), SIGRTMIN + 5, i);
    pthread_join(waiter, NULL);
    kill(child, SIGKILL);
    MUST(waitpid(child, NULL, 0) == child);
    subject_pass();
}
