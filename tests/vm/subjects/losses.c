// SPDX-License-Identifier: GPL-2.0-or-later
// Everything that the user may accept to lose (--allow): what becomes of it in the copy, and that
// nothing becomes of it in the original.
//
// Somebody outside of the tree holds the other ends, and is there in guest A alone: by that the
// subject knows whether it was moved.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oddities.h"
#include "subject.h"

/* ---- what somebody outside holds ---- */

static struct shared {
    uint64_t ticks; // counted by the one outside, and by nobody where he is not
    uint64_t written;
    pid_t outside;
} * shared;

static int reads[2], writes[2], sleeper[2], stream[2], datagrams;

static void make_ends(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const socklen_t length = offsetof(struct sockaddr_un, sun_path) + 7;
    char number[16];

    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED);
    MUST(pipe2(reads, O_NONBLOCK) == 0 && pipe2(writes, O_NONBLOCK) == 0 && pipe(sleeper) == 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, stream) == 0);
    MUST(write(reads[1], "abc", 3) == 3 && write(stream[1], "xyz", 3) == 3);
    // Abstract, numbered by its owner.
    snprintf(number, sizeof number, "%06d", (int)getpid());
    memcpy(name.sun_path + 1, number, 6);
    const int bound = socket(AF_UNIX, SOCK_DGRAM, 0);
    MUST(bound >= 0 && bind(bound, (struct sockaddr *)&name, length) == 0);
    MUST((datagrams = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0)) >= 0);
    MUST(connect(datagrams, (struct sockaddr *)&name, length) == 0);

    const pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        if (fork() != 0)
            _exit(0);
        // An orphan, and thereby init's.
        setsid();
        close(reads[0]), close(writes[1]), close(sleeper[0]), close(stream[0]), close(datagrams);
        shared->outside = getpid();
        while (access(subject.workdir, F_OK) == 0) {
            __atomic_fetch_add(&shared->ticks, 1, __ATOMIC_SEQ_CST);
            subject_sleep_ms(10);
        }
        _exit(0);
    }
    MUST(waitpid(child, NULL, 0) == child);
    while (!__atomic_load_n(&shared->ticks, __ATOMIC_SEQ_CST))
        subject_sleep_ms(1);
    close(reads[1]), close(writes[0]), close(sleeper[1]), close(stream[1]), close(bound);
}

static int woken; // bytes that the sleeper got, plus 1

static void *sleep_in_read(void *unused)
{
    char byte;
    const ssize_t n = read(sleeper[0], &byte, 1);

    (void)unused;
    __atomic_store_n(&woken, (int)n + 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void check_ends(bool moved)
{
    struct pollfd hup = {.fd = stream[0], .events = POLLIN};
    const uint64_t ticks = __atomic_load_n(&shared->ticks, __ATOMIC_SEQ_CST);
    char buffer[8];

    CHECK(read(reads[0], buffer, 8) == 3 && memcmp(buffer, "abc", 3) == 0, "what was in the pipe");
    const ssize_t more = read(reads[0], buffer, 8);
    CHECK(moved ? more == 0 : more < 0 && errno == EAGAIN, "end of the pipe: %zd %m", more);
    const ssize_t sent = write(writes[1], "d", 1);
    CHECK(moved ? sent < 0 && errno == EPIPE : sent == 1, "pipe to the outside: %zd %m", sent);
    if (moved)
        AWAIT(__atomic_load_n(&woken, __ATOMIC_SEQ_CST), "who reads a pipe does not wake");
    subject_sleep_ms(200);
    CHECK(__atomic_load_n(&woken, __ATOMIC_SEQ_CST) == moved, "who reads a pipe wakes: %d", woken);

    CHECK(read(stream[0], buffer, 8) == 3 && memcmp(buffer, "xyz", 3) == 0,
          "what was in the socket");
    const ssize_t end = read(stream[0], buffer, 8);
    CHECK(moved ? end == 0 : end < 0 && errno == EAGAIN, "end of the stream: %zd %m", end);
    const ssize_t said = write(stream[0], "u", 1);
    CHECK(moved ? said < 0 && errno == EPIPE : said == 1, "stream to the outside: %zd %m", said);
    MUST(poll(&hup, 1, 0) >= 0);
    CHECK(!(hup.revents & POLLHUP) == !moved, "poll of the stream: %x", hup.revents);
    const ssize_t told = send(datagrams, "v", 1, 0);
    CHECK(moved ? told < 0 && errno == ECONNREFUSED : told == 1, "datagram: %zd %m", told);

    CHECK(shared->written == 0x5eed, "shared memory");
    if (!moved)
        AWAIT(__atomic_load_n(&shared->ticks, __ATOMIC_SEQ_CST) != ticks,
              "shared memory is not shared");
    CHECK((__atomic_load_n(&shared->ticks, __ATOMIC_SEQ_CST) == ticks) == moved,
          "shared memory is shared");
}

/* ---- descriptors of what cannot be had elsewhere ---- */

static int open_tcp(void)
{
    const struct sockaddr_in name = {.sin_family = AF_INET};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    return fd >= 0 && bind(fd, (const struct sockaddr *)&name, sizeof name) == 0 &&
                   listen(fd, 5) == 0
               ? fd
               : -1;
}

static struct thing {
    const char *name;
    int (*open)(void);
    int fd, copy; // copy: of the same description, with FD_CLOEXEC
} things[] = {
    {"BPF map", open_bpf_map, -1, -1},
    {"performance counter", open_perf, -1, -1},
    {"device", open_kmsg, -1, -1},
    {"fanotify group", open_fanotify, -1, -1},
    {"file of debugfs", open_debugfs, -1, -1},
    {"file system context", open_fscontext, -1, -1},
    {"namespace", open_uts_namespace, -1, -1},
    {"TCP socket", open_tcp, -1, -1},
    {"netlink socket", open_netlink, -1, -1},
};

#define N_THINGS (sizeof things / sizeof things[0])

static int set, event;

static void make_things(void)
{
    struct epoll_event watch = {.events = EPOLLIN | EPOLLOUT};

    MUST((set = epoll_create1(0)) >= 0 && (event = eventfd(1, 0)) >= 0);
    watch.data.fd = event;
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, event, &watch) == 0);
    for (size_t i = 0; i < N_THINGS; i++) {
        struct thing *t = &things[i];
        MUST((t->fd = t->open()) >= 0 || !fprintf(stderr, "%s: %m\n", t->name));
        MUST(fcntl(t->fd, F_SETFD, 0) == 0);
        MUST((t->copy = fcntl(t->fd, F_DUPFD_CLOEXEC, 0)) >= 0);
        watch.data.fd = t->fd;
        epoll_ctl(set, EPOLL_CTL_ADD, t->fd, &watch); // not all can be watched
    }
}

static void check_dead(const struct thing *t, int fd)
{
    struct pollfd poll_one = {.fd = fd, .events = POLLIN | POLLOUT};
    char byte = 0;

    CHECK(read(fd, &byte, 1) < 0 && errno == EBADF, "%s: read: %m", t->name);
    CHECK(write(fd, &byte, 1) < 0 && errno == EBADF, "%s: write: %m", t->name);
    CHECK(ioctl(fd, FIONREAD, &byte) < 0 && errno == EBADF, "%s: ioctl: %m", t->name);
    CHECK(poll(&poll_one, 1, 0) == 1 && poll_one.revents == POLLNVAL, "%s: poll: %x", t->name,
          poll_one.revents);
    CHECK(openat(fd, "x", O_RDONLY) < 0 && errno != ENOENT, "%s: is a way to somewhere", t->name);
    CHECK(fcntl(fd, F_GETFL) == (fcntl(fd, F_GETFL) | O_PATH), "%s: flags", t->name);
}

static void check_things(bool moved)
{
    struct epoll_event events[N_THINGS + 1];

    for (size_t i = 0; i < N_THINGS; i++) {
        const struct thing *t = &things[i];

        CHECK(fcntl(t->fd, F_GETFD) == 0, "%s: descriptor %d: %m", t->name, t->fd);
        CHECK(fcntl(t->copy, F_GETFD) == FD_CLOEXEC, "%s: descriptor %d: %m", t->name, t->copy);
        if (moved)
            check_dead(t, t->fd), check_dead(t, t->copy);
        else
            CHECK(!(fcntl(t->fd, F_GETFL) & O_PATH), "%s: the original's flags", t->name);
    }
    const int n = epoll_wait(set, events, N_THINGS + 1, 0);
    bool found = false;
    for (int i = 0; i < n; i++)
        found |= events[i].data.fd == event;
    CHECK(found, "the set lacks what was not lost");
    CHECK(!moved || n == 1, "the set has %d entries that are ready", n);
}

/* ---- what has no descriptor ---- */

static volatile uint64_t watched;
static volatile sig_atomic_t traps;
static char hostname[65];

static void on_trap(int signo)
{
    (void)signo;
    traps++;
}

// A child sets a breakpoint in its parent and leaves it there.
static void make_breakpoint(void)
{
    const pid_t parent = getpid(), child = fork();
    int status;

    MUST(child >= 0 && signal(SIGTRAP, on_trap) != SIG_ERR);
    if (child == 0) {
        const uint64_t control = 1 | 1 << 16 | 3 << 18; // DR0, locally: writes of 8 bytes
        const bool ok =
            ptrace(PTRACE_SEIZE, parent, 0, 0) == 0 &&
            ptrace(PTRACE_INTERRUPT, parent, 0, 0) == 0 &&
            waitpid(parent, &status, __WALL) == parent &&
            ptrace(PTRACE_POKEUSER, parent, offsetof(struct user, u_debugreg[0]), &watched) == 0 &&
            ptrace(PTRACE_POKEUSER, parent, offsetof(struct user, u_debugreg[7]), control) == 0 &&
            ptrace(PTRACE_DETACH, parent, 0, 0) == 0;
        _exit(ok ? 0 : 1);
    }
    while (waitpid(child, &status, 0) < 0)
        MUST(errno == EINTR);
    CHECK(status == 0, "no breakpoint: %x", status);
    watched = 1;
    CHECK(traps == 1, "a breakpoint that does not trap");
}

static void check_rest(bool moved)
{
    struct utsname here;

    watched = 2;
    CHECK(traps == (moved ? 1 : 2), "breakpoint: %d traps", (int)traps);
    MUST(uname(&here) == 0);
    CHECK((strcmp(here.nodename, hostname) == 0) == !moved, "the host is called %s", here.nodename);
}

int main(int argc, char **argv)
{
    pthread_t thread;

    subject_begin(argc, argv);
    MUST(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    make_ends();
    make_things();
    make_breakpoint();
    snprintf(hostname, sizeof hostname, "losses-%d", (int)getpid());
    MUST(unshare(CLONE_NEWUTS) == 0 && sethostname(hostname, strlen(hostname)) == 0);
    shared->written = 0x5eed;
    MUST(pthread_create(&thread, NULL, sleep_in_read, NULL) == 0);
    subject_ready();
    if (subject.sabotage)
        close(things[0].copy);
    while (!subject_asked())
        subject_sleep_ms(10);
    const bool moved = kill(shared->outside, 0) < 0;
    check_ends(moved);
    check_things(moved);
    check_rest(moved);
    subject_pass();
}
