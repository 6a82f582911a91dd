// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that wait for descriptors with a timeout, in processes that are stopped; what they wait for
// comes while they are. Each tells of just that when it goes on.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define STALE 0x40 // was in revents before

static const struct timespec patience = {PATIENCE_NS / NS_PER_S, 0};

static void check_poll(int n, const struct pollfd *p)
{
    CHECK(n == 1 && p[0].revents == POLLIN && p[1].revents == 0, "poll: %d, events %x and %x", n,
          p[0].revents, p[1].revents);
}

static void by_poll(int ready, int never)
{
    struct pollfd p[2] = {{ready, POLLIN, STALE}, {never, POLLIN, STALE}};

    check_poll(poll(p, 2, PATIENCE_MS), p);
}

static void by_ppoll(int ready, int never)
{
    struct pollfd p[2] = {{ready, POLLIN, STALE}, {never, POLLIN, STALE}};
    sigset_t none;

    sigemptyset(&none);
    check_poll(ppoll(p, 2, &patience, &none), p);
}

static void check_set(int n, const fd_set *set, int ready, int never)
{
    CHECK(n == 1 && FD_ISSET(ready, set) && !FD_ISSET(never, set), "select: %d: %m", n);
}

static void by_select(int ready, int never)
{
    struct timeval left = {PATIENCE_NS / NS_PER_S, 0};
    fd_set set;

    FD_ZERO(&set);
    FD_SET(ready, &set);
    FD_SET(never, &set);
    check_set((int)syscall(SYS_select, 64, &set, NULL, NULL, &left), &set, ready, never);
}

static void by_pselect(int ready, int never)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(ready, &set);
    FD_SET(never, &set);
    check_set(pselect(64, &set, NULL, NULL, &patience, NULL), &set, ready, never);
}

// Would end with EINTR: it begins anew.
static void by_epoll(int ready, int never)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = never}, got[2];
    const int ep = epoll_create1(0);
    int n;

    MUST(ep >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, never, &event) == 0);
    event.data.fd = ready;
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, ready, &event) == 0);
    while ((n = epoll_wait(ep, got, 2, PATIENCE_MS)) < 0 && errno == EINTR)
        ;
    CHECK(n == 1 && got[0].data.fd == ready && got[0].events == EPOLLIN, "epoll_wait: %d: %m", n);
}

static struct way {
    long nr;
    void (*wait)(int ready, int never);
    pid_t pid;
    int ready[2], never[2];
} ways[] = {
    {.nr = SYS_poll, .wait = by_poll},        {.nr = SYS_ppoll, .wait = by_ppoll},
    {.nr = SYS_select, .wait = by_select},    {.nr = SYS_pselect6, .wait = by_pselect},
    {.nr = SYS_epoll_wait, .wait = by_epoll},
};
#define N_WAYS (sizeof ways / sizeof ways[0])

static void begin(struct way *w)
{
    int status;

    MUST(pipe(w->ready) == 0 && pipe(w->never) == 0 && (w->pid = fork()) >= 0);
    if (w->pid == 0) {
        w->wait(w->ready[0], w->never[0]);
        _exit(0);
    }
    subject_await_call(w->pid, w->nr);
    MUST(kill(w->pid, SIGSTOP) == 0 && waitpid(w->pid, &status, WUNTRACED) == w->pid);
    MUST(WIFSTOPPED(status) && write(w->ready[1], "r", 1) == 1);
}

static void end(const struct way *w)
{
    int status;

    MUST(waitpid(w->pid, &status, WNOHANG | WUNTRACED) == 0 && kill(w->pid, SIGCONT) == 0);
    MUST(waitpid(w->pid, &status, 0) == w->pid);
    if (status != 0) // it has said what is wrong
        _exit(1);
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    for (size_t i = 0; i < N_WAYS; i++)
        begin(&ways[i]);
    subject_ready();
    if (subject.sabotage)
        MUST(write(ways[0].never[1], "n", 1) == 1);
    while (!subject_asked())
        subject_sleep_ms(1);
    for (size_t i = 0; i < N_WAYS; i++)
        end(&ways[i]);
    subject_pass();
}
