// SPDX-License-Identifier: GPL-2.0-or-later
// Pidfds: of itself, of children that live, have ended and are gone, of a thread; who polls them.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#define THREAD O_EXCL

static int own, living, twin, zombie, gone, gone_too, of_thread, ep;
static pid_t child, dead;
static volatile sig_atomic_t signals;

static int open_pidfd(pid_t pid, unsigned flags)
{
    return (int)syscall(SYS_pidfd_open, pid, flags);
}

static int send_signal(int fd, int signo)
{
    return (int)syscall(SYS_pidfd_send_signal, fd, signo, NULL, 0);
}

static void count(int signo)
{
    signals++;
}

static pid_t spawn(int status)
{
    const pid_t pid = fork();

    MUST(pid >= 0);
    if (pid == 0 && status >= 0)
        _exit(status);
    if (pid == 0)
        for (;;)
            pause();
    return pid;
}

static void *poll_child(void *arg)
{
    struct pollfd p = {.fd = living, .events = POLLIN};

    CHECK(poll(&p, 1, -1) == 1 && p.revents & POLLIN, "the poll of a child ends with %x",
          p.revents);
    return arg;
}

static void *sleep_on(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static int is_ready(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    MUST(poll(&p, 1, 0) >= 0);
    return p.revents & POLLIN;
}

static long pid_of(int fd)
{
    char path[64], line[128];
    long pid = -2;
    FILE *f;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    MUST((f = fopen(path, "r")) != NULL);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "Pid: %ld", &pid) == 1)
            break;
    fclose(f);
    return pid;
}

static void set_up(void)
{
    siginfo_t info;
    pid_t pid;
    pthread_t thread;
    static int one_more;

    signal(SIGUSR1, count);
    MUST((own = open_pidfd(getpid(), O_NONBLOCK)) >= 0);
    child = spawn(-1);
    MUST((living = open_pidfd(child, 0)) >= 0 && (twin = dup(living)) >= 0);
    MUST(fcntl(twin, F_SETFD, 0) == 0);
    dead = spawn(7);
    MUST((zombie = open_pidfd(dead, 0)) >= 0);
    MUST(waitid(P_PID, (id_t)dead, &info, WEXITED | WNOWAIT) == 0);
    pid = spawn(0);
    MUST((gone = open_pidfd(pid, 0)) >= 0 && (gone_too = open_pidfd(pid, 0)) >= 0);
    MUST(waitpid(pid, NULL, 0) == pid);
    MUST(pthread_create(&thread, NULL, sleep_on, NULL) == 0);
    MUST((one_more = spawn(-1)) > 0 && kill(one_more, SIGKILL) == 0);
    MUST(waitpid(one_more, NULL, 0) == one_more);
    of_thread = open_pidfd(getpid(), THREAD); // since 6.9
    MUST((ep = epoll_create1(0)) >= 0);
    for (const int *fd = (const int[]){living, zombie, -1}; *fd >= 0; fd++)
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, *fd,
                       &(struct epoll_event){.events = EPOLLIN, .data.fd = *fd}) == 0);
}

static void check(void)
{
    struct epoll_event events[4];
    struct stat a, b, c;
    const int before = signals;

    CHECK(pid_of(own) == getpid() && pid_of(living) == child && pid_of(twin) == child,
          "pidfds of %ld, %ld", pid_of(own), pid_of(living));
    CHECK(pid_of(gone) == -1 && pid_of(gone_too) == -1, "who is gone has the pid %ld",
          pid_of(gone));
    CHECK(fcntl(own, F_GETFL) & O_NONBLOCK && !(fcntl(living, F_GETFL) & O_NONBLOCK),
          "flags %x, %x", fcntl(own, F_GETFL), fcntl(living, F_GETFL));
    CHECK(fcntl(own, F_GETFD) == FD_CLOEXEC && fcntl(twin, F_GETFD) == 0, "close-on-exec");
    CHECK(!is_ready(own) && !is_ready(living) && is_ready(zombie) && is_ready(gone),
          "ready: %d %d %d %d", is_ready(own), is_ready(living), is_ready(zombie), is_ready(gone));
    CHECK(send_signal(own, SIGUSR1) == 0 && signals == before + 1, "a signal to itself is lost");
    CHECK(send_signal(living, 0) == 0 && send_signal(zombie, 0) == 0, "signals: %m");
    CHECK(send_signal(gone, 0) < 0 && errno == ESRCH, "a signal to who is gone: %m");
    CHECK(epoll_wait(ep, events, 4, 0) == 1 && events[0].data.fd == zombie, "epoll");
    MUST(fstat(gone, &a) == 0 && fstat(gone_too, &b) == 0 && fstat(living, &c) == 0);
    CHECK(a.st_ino == b.st_ino, "who is gone is two");
    CHECK(of_thread < 0 || (fcntl(of_thread, F_GETFL) & THREAD) == 0 ||
              send_signal(of_thread, 0) == 0,
          "the pidfd of a thread");
}

static void end(pthread_t poller)
{
    siginfo_t info = {0};

    CHECK(send_signal(twin, SIGKILL) == 0, "the child cannot be killed: %m");
    pthread_join(poller, NULL);
    MUST(waitid(P_PIDFD, (id_t)living, &info, WEXITED) == 0);
    CHECK(info.si_pid == child && info.si_code == CLD_KILLED, "the child ended as %d",
          info.si_code);
    MUST(waitid(P_PIDFD, (id_t)zombie, &info, WEXITED) == 0);
    CHECK(info.si_pid == dead && info.si_status == 7, "the dead one ended with %d", info.si_status);
    CHECK(waitid(P_PIDFD, (id_t)gone, &info, WEXITED) < 0 && errno == ECHILD,
          "who is gone is back");
}

int main(int argc, char **argv)
{
    pthread_t poller;
    sigset_t own_signal;

    subject_begin(argc, argv);
    sigemptyset(&own_signal);
    sigaddset(&own_signal, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &own_signal, NULL) == 0); // the threads leave it to us
    set_up();
    MUST(pthread_create(&poller, NULL, poll_child, NULL) == 0);
    MUST(sigprocmask(SIG_UNBLOCK, &own_signal, NULL) == 0);
    subject_sleep_ms(20);
    subject_ready();
    if (subject.sabotage)
        MUST(dup3(own, living, O_CLOEXEC) == living);
    do {
        check();
        subject_sleep_ms(2);
    } while (!subject_asked());
    end(poller);
    subject_pass();
}
