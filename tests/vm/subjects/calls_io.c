// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that wait for files, sockets and children: what each is made with, and what ends it.
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "subject.h"

#ifdef __x86_64__
#define SYS_NEWSELECT SYS_select
#else
#define SYS_NEWSELECT SYS__newselect
#endif

/* ---- reads, writes, sockets ---- */

static void pipe_of(struct worker *w)
{
    if (!w->made)
        MUST(pipe2(w->fds, O_CLOEXEC) == 0);
    w->made = true;
}

static void pair_of(struct worker *w, int type)
{
    if (!w->made)
        MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, w->fds) == 0);
    w->made = true;
}

static void give_byte(struct worker *w)
{
    MUST(write(w->fds[1], "b", 1) == 1);
}

static void take_bytes(struct worker *w)
{
    static char bytes[65536];

    MUST(read(w->fds[0], bytes, sizeof bytes) > 0);
}

static void take_datagrams(struct worker *w)
{
    while (recv(w->fds[0], &(char){0}, 1, MSG_DONTWAIT) == 1)
        ;
}

static void do_read(struct worker *w)
{
    pipe_of(w);
    CALL(w, SYS_read, (unsigned long)w->fds[0], AT(w->bytes), 1);
}

static void do_readv(struct worker *w)
{
    pipe_of(w);
    w->iov = (struct iovec){w->bytes, 1};
    CALL(w, SYS_readv, (unsigned long)w->fds[0], AT(&w->iov), 1);
}

static void do_write(struct worker *w)
{
    pipe_of(w);
    static const char page[4096];
    MUST(fcntl(w->fds[1], F_SETFL, O_NONBLOCK) == 0);
    if (poll(&(struct pollfd){w->fds[0], POLLIN, 0}, 1, 0) == 1)
        take_bytes(w);
    while (write(w->fds[1], page, sizeof page) > 0)
        ;
    MUST(fcntl(w->fds[1], F_SETFL, 0) == 0);
    CALL(w, SYS_write, (unsigned long)w->fds[1], AT(w->bytes), 1);
}

static void do_recvfrom(struct worker *w)
{
    pair_of(w, SOCK_STREAM);
    CALL(w, SYS_recvfrom, (unsigned long)w->fds[0], AT(w->bytes), sizeof w->bytes, 0, 0, 0);
}

static void do_recvfrom_until(struct worker *w)
{
    const uint64_t ns = calls_timeout_ns();
    const struct timeval tv = {(time_t)(ns / NS_PER_S), (suseconds_t)(ns % NS_PER_S / 1000)};

    pair_of(w, SOCK_DGRAM);
    MUST(setsockopt(w->fds[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == 0);
    CALL(w, SYS_recvfrom, (unsigned long)w->fds[0], AT(w->bytes), sizeof w->bytes, 0, 0, 0);
}

static void do_recvmsg(struct worker *w)
{
    pair_of(w, SOCK_SEQPACKET);
    w->iov = (struct iovec){w->bytes, sizeof w->bytes};
    w->message.msg_hdr = (struct msghdr){.msg_iov = &w->iov, .msg_iovlen = 1};
    CALL(w, SYS_recvmsg, (unsigned long)w->fds[0], AT(&w->message.msg_hdr), 0);
}

static void do_recvmmsg(struct worker *w)
{
    pair_of(w, SOCK_DGRAM);
    w->iov = (struct iovec){w->bytes, sizeof w->bytes};
    w->message.msg_hdr = (struct msghdr){.msg_iov = &w->iov, .msg_iovlen = 1};
    w->ts = (struct timespec){CALLS_LONG_NS / NS_PER_S, 0};
    CALL(w, SYS_recvmmsg, (unsigned long)w->fds[0], AT(&w->message), 1, 0, AT(&w->ts));
}

static void do_sendto(struct worker *w)
{
    pair_of(w, SOCK_DGRAM);
    while (send(w->fds[1], "x", 1, MSG_DONTWAIT) == 1)
        ;
    CALL(w, SYS_sendto, (unsigned long)w->fds[1], AT(w->bytes), 1, 0, 0, 0);
}

// An address that is the thread's alone.
static socklen_t address_of(const struct worker *w, struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    const int n =
        snprintf(ret->sun_path + 1, sizeof ret->sun_path - 1, "calls.%d.%d", getpid(), w->tid);

    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static void listen_there(struct worker *w)
{
    struct sockaddr_un address;
    const socklen_t n = address_of(w, &address);

    MUST((w->fds[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    MUST(bind(w->fds[0], (struct sockaddr *)&address, n) == 0);
    MUST(listen(w->fds[0], 0) == 0);
}

static void connect_there(struct worker *w)
{
    struct sockaddr_un address;
    const socklen_t n = address_of(w, &address);

    MUST((w->fds[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    MUST(connect(w->fds[1], (struct sockaddr *)&address, n) == 0);
}

static void do_accept(struct worker *w)
{
    listen_there(w);
    CALL(w, SYS_accept4, (unsigned long)w->fds[0], 0, 0, SOCK_CLOEXEC);
}

static void do_connect(struct worker *w)
{
    static __thread struct sockaddr_un address;

    listen_there(w);
    connect_there(w); // the one that there is room for
    MUST(close(w->fds[1]) == 0);
    const socklen_t n = address_of(w, &address);
    MUST((w->fds[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    CALL(w, SYS_connect, (unsigned long)w->fds[1], AT(&address), n);
}

static void accept_one(struct worker *w)
{
    const int fd = accept(w->fds[0], NULL, NULL);

    MUST(fd >= 0 && close(fd) == 0);
}

static void do_eventfd(struct worker *w)
{
    if (!w->made)
        MUST((w->fds[0] = eventfd(0, EFD_CLOEXEC)) >= 0);
    w->made = true;
    CALL(w, SYS_read, (unsigned long)w->fds[0], AT(w->bytes), 8);
}

static void give_event(struct worker *w)
{
    MUST(write(w->fds[0], &(uint64_t){1}, 8) == 8);
}

static void do_timerfd(struct worker *w)
{
    const struct itimerspec soon = {.it_value = *calls_timeout(w)};

    if (!w->made)
        MUST((w->fds[0] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) >= 0);
    w->made = true;
    MUST(timerfd_settime(w->fds[0], 0, &soon, NULL) == 0);
    CALL(w, SYS_read, (unsigned long)w->fds[0], AT(w->bytes), 8);
}

static void give_expiration(struct worker *w)
{
    const struct itimerspec soon = {.it_value = {0, 1}};

    MUST(timerfd_settime(w->fds[0], 0, &soon, NULL) == 0);
}

static void close_both(struct worker *w)
{
    if (w->call->end == connect_there && (long)w->regs.out[RAX] >= 0)
        MUST(close((int)w->regs.out[RAX]) == 0);
    close(w->fds[0]);
    close(w->fds[1]);
    w->fds[0] = w->fds[1] = -1;
}

/* ---- locks of files ---- */

// A file and the same opened once more, which has the lock.
static void two_files(struct worker *w)
{
    char path[32];

    if (w->made)
        return;
    w->made = true;
    MUST((w->fds[0] = memfd_create("calls", MFD_CLOEXEC)) >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", w->fds[0]);
    MUST((w->fds[1] = open(path, O_RDWR | O_CLOEXEC)) >= 0);
}

static void do_flock(struct worker *w)
{
    two_files(w);
    MUST(flock(w->fds[0], LOCK_UN) == 0);
    MUST(flock(w->fds[1], LOCK_EX) == 0);
    CALL(w, SYS_flock, (unsigned long)w->fds[0], LOCK_EX);
}

static void unflock(struct worker *w)
{
    MUST(flock(w->fds[1], LOCK_UN) == 0);
}

static void do_lockf(struct worker *w)
{
    static __thread struct flock lock;

    two_files(w);
    lock = (struct flock){.l_type = F_UNLCK};
    MUST(fcntl(w->fds[0], F_OFD_SETLK, &lock) == 0);
    lock.l_type = F_WRLCK;
    MUST(fcntl(w->fds[1], F_OFD_SETLK, &lock) == 0);
#ifdef __x86_64__
    CALL(w, SYS_fcntl, (unsigned long)w->fds[0], F_OFD_SETLKW, AT(&lock));
#else
    CALL(w, SYS_fcntl64, (unsigned long)w->fds[0], F_OFD_SETLKW, AT(&lock));
#endif
}

static void unlockf(struct worker *w)
{
    struct flock lock = {.l_type = F_UNLCK};

    MUST(fcntl(w->fds[1], F_OFD_SETLK, &lock) == 0);
}

/* ---- children ---- */

static void child_of(struct worker *w)
{
    if ((w->child = fork()) == 0)
        for (;;)
            pause();
    MUST(w->child > 0);
}

static void kill_child(struct worker *w)
{
    MUST(kill(w->child, SIGKILL) == 0);
}

static void reap_child(struct worker *w)
{
    if ((long)w->regs.out[RAX] != -EINTR)
        return;
    kill_child(w);
    MUST(waitpid(w->child, NULL, 0) == w->child);
}

static void do_wait4(struct worker *w)
{
    child_of(w);
    w->wanted = w->child;
    CALL(w, SYS_wait4, (unsigned long)w->child, AT(w->words), WUNTRACED | __WALL, 0);
}

static void do_waitid(struct worker *w)
{
    child_of(w);
    CALL(w, SYS_waitid, P_PID, (unsigned long)w->child, AT(&w->info), WEXITED | WSTOPPED, 0);
}

/* ---- several files ---- */

static void do_poll(struct worker *w)
{
    pipe_of(w);
    w->poll = (struct pollfd){w->fds[0], POLLIN, 0};
    CALL(w, SYS_poll, AT(&w->poll), 1, calls_timeout_ms());
}

static void do_poll_byte(struct worker *w)
{
    pipe_of(w);
    if (poll(&(struct pollfd){w->fds[0], POLLIN, 0}, 1, 0) == 1)
        take_bytes(w);
    w->poll = (struct pollfd){w->fds[0], POLLIN, 0};
    CALL(w, SYS_poll, AT(&w->poll), 1, (unsigned long)-1);
}

static void do_ppoll(struct worker *w)
{
    pipe_of(w);
    w->poll = (struct pollfd){w->fds[0], POLLIN, 0};
    CALL(w, SYS_ppoll, AT(&w->poll), 1, AT(calls_timeout(w)), AT(&w->let), CALLS_SIGSET);
}

static void do_select(struct worker *w)
{
    const uint64_t ns = calls_timeout_ns();

    w->tv = (struct timeval){(time_t)(ns / NS_PER_S), (suseconds_t)(ns % NS_PER_S / 1000)};
    CALL(w, SYS_NEWSELECT, 0, 0, 0, 0, AT(&w->tv));
}

static void do_pselect(struct worker *w)
{
    w->sixth.mask = AT(&w->let);
    w->sixth.bytes = CALLS_SIGSET;
    CALL(w, SYS_pselect6, 0, 0, 0, 0, AT(calls_timeout(w)), AT(&w->sixth));
}

static void epoll_of(struct worker *w)
{
    struct epoll_event event = {.events = EPOLLIN};
    int fds[2];

    if (w->made)
        return;
    w->made = true;
    MUST((w->fds[0] = epoll_create1(EPOLL_CLOEXEC)) >= 0);
    MUST(pipe2(fds, O_CLOEXEC) == 0);
    MUST(epoll_ctl(w->fds[0], EPOLL_CTL_ADD, fds[0], &event) == 0);
    w->fds[1] = fds[1];
    w->extra = fds[0];
}

static void do_epoll(struct worker *w)
{
    epoll_of(w);
    CALL(w, SYS_epoll_wait, (unsigned long)w->fds[0], AT(&w->event), 1, calls_timeout_ms());
}

static void empty_epoll_of(struct worker *w)
{
    epoll_of(w);
    if (poll(&(struct pollfd){w->extra, POLLIN, 0}, 1, 0) == 1)
        MUST(read(w->extra, w->bytes, 1) == 1);
}

static void do_epoll_byte(struct worker *w)
{
    empty_epoll_of(w);
    CALL(w, SYS_epoll_wait, (unsigned long)w->fds[0], AT(&w->event), 1,
         calls_with_signals ? (unsigned long)-1 : CALLS_LONG_NS / NS_PER_MS);
}

static void do_epoll_pwait(struct worker *w)
{
    epoll_of(w);
    CALL(w, SYS_epoll_pwait, (unsigned long)w->fds[0], AT(&w->event), 1, calls_timeout_ms(),
         AT(&w->let), CALLS_SIGSET);
}

// As event loops have it.
static void do_epoll_pwait_byte(struct worker *w)
{
    empty_epoll_of(w);
    CALL(w, SYS_epoll_pwait, (unsigned long)w->fds[0], AT(&w->event), 1, (unsigned long)-1, 0,
         CALLS_SIGSET);
}

#ifdef __x86_64__
static void do_epoll_pwait2(struct worker *w)
{
    epoll_of(w);
    CALL(w, SYS_epoll_pwait2, (unsigned long)w->fds[0], AT(&w->event), 1, AT(calls_timeout(w)),
         AT(&w->let), CALLS_SIGSET);
}
#endif

/* ---- the table ---- */

// clang-format off
const struct call calls_io[] = {
    ROW("read", do_read, give_byte, RESTARTS, 1),
    ROW("readv", do_readv, give_byte, RESTARTS, 1),
    ROW("write", do_write, take_bytes, RESTARTS, 1),
    ROW("recvfrom", do_recvfrom, give_byte, RESTARTS, 1),
    ROW("recvfrom until", do_recvfrom_until, NULL, FAILS, -EAGAIN, .stops = true),
    ROW("recvmsg", do_recvmsg, give_byte, RESTARTS, 1),
    ROW("recvmmsg", do_recvmmsg, give_byte, RESTARTS, 1),
    ROW("sendto", do_sendto, take_datagrams, RESTARTS, 1),
    ROW("accept", do_accept, connect_there, RESTARTS, CALLS_ANY, .after = close_both),
    ROW("connect", do_connect, accept_one, RESTARTS, 0, .after = close_both),
    ROW("read of an eventfd", do_eventfd, give_event, RESTARTS, 8),
    ROW("read of a timerfd", do_timerfd, give_expiration, RESTARTS, 8),
    ROW("flock", do_flock, unflock, RESTARTS, 0),
    ROW("fcntl", do_lockf, unlockf, RESTARTS, 0),
    ROW("wait4", do_wait4, kill_child, RESTARTS, CALLS_ANY, .after = reap_child),
    ROW("waitid", do_waitid, kill_child, RESTARTS, 0, .after = reap_child),
    ROW("poll", do_poll, NULL, FAILS, 0),
    ROW("poll for ever", do_poll_byte, give_byte, FAILS, 1),
    ROW("ppoll", do_ppoll, NULL, FAILS, 0, .masks = true),
    ROW("select", do_select, NULL, FAILS, 0),
    ROW("pselect6", do_pselect, NULL, FAILS, 0, .masks = true),
    ROW("epoll_wait", do_epoll, NULL, FAILS, 0, .elsewhere = true, .stops = true),
    ROW("epoll_wait for a byte", do_epoll_byte, give_byte, FAILS, 1, .elsewhere = true, .stops = true),
    ROW("epoll_pwait for a byte", do_epoll_pwait_byte, give_byte, FAILS, 1, .stops = true),
    ROW("epoll_pwait", do_epoll_pwait, NULL, FAILS, 0, .masks = true, .elsewhere = true, .stops = true),
#ifdef __x86_64__ // those of i386 take 64 bits or are wrapped in others
    ROW("epoll_pwait2", do_epoll_pwait2, NULL, FAILS, 0, .masks = true, .optional = true, .stops = true),
#endif
};
// clang-format on
const size_t n_calls_io = sizeof calls_io / sizeof calls_io[0];
