// SPDX-License-Identifier: GPL-2.0-or-later
// File locks of all kinds with waiters, leases, and files that send signals (O_ASYNC).
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

static char path[300];

static const char *in_workdir(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", subject.workdir, name);
    return path;
}

static int open_file(const char *name, int flags)
{
    int fd;

    MUST((fd = open(in_workdir(name), flags | O_CLOEXEC)) >= 0);
    return fd;
}

static void prepare(void)
{
    for (const char *const *name = (const char *const[]){"posix", "ofd", "flock", "leased-read",
                                                         "leased-write", "mapped", NULL};
         *name; name++)
        MUST(close(open(in_workdir(*name), O_WRONLY | O_CREAT, 0644)) == 0);
}

/* ---- locks ---- */

static int posix, ofd[3], probe_posix, probe_ofd, flock_shared, flock_probe, flock_exclusive;
static pid_t waiter, flock_waiter;
static int woken[2]; // each who has waited tells his letter
static pthread_t ofd_waiter;

static const struct range {
    short type;
    off_t start, len;
} posix_locks[] = {{F_WRLCK, 0, 10}, {F_RDLCK, 10, 5}, {F_WRLCK, 100, 1}, {F_WRLCK, 1000, 0}},
  ofd_locks[] = {{F_RDLCK, 0, 100}, {F_WRLCK, 1ll << 40, 4096}};

static void set(int fd, int command, short type, off_t start, off_t len)
{
    struct flock lock = {.l_type = type, .l_start = start, .l_len = len};

    CHECK(fcntl(fd, command, &lock) == 0, "lock at %ld: %m", start);
}

static _Noreturn void posix_waiter_main(void)
{
    set(posix, F_SETLKW, F_WRLCK, 100, 1);
    MUST(write(woken[1], "p", 1) == 1);
    pause();
    _exit(1);
}

static _Noreturn void flock_waiter_main(void)
{
    const int fd = open_file("flock", O_RDONLY);

    MUST(flock(fd, LOCK_EX) == 0);
    MUST(write(woken[1], "f", 1) == 1);
    pause();
    _exit(1);
}

static void *ofd_waiter_main(void *arg)
{
    set(ofd[2], F_OFD_SETLKW, F_WRLCK, 50, 1);
    MUST(write(woken[1], "o", 1) == 1);
    return arg;
}

static void take_locks(void)
{
    int locked[2];

    posix = open_file("posix", O_RDWR);
    probe_posix = open_file("ofd", O_RDWR); // of another file: to close one of `posix` would unlock
    close(probe_posix);
    MUST(pipe2(woken, O_CLOEXEC) == 0);
    MUST(pipe2(locked, O_CLOEXEC) == 0 && (waiter = fork()) >= 0);
    if (waiter == 0) {
        MUST(read(locked[0], &(char){0}, 1) == 1); // until the parent has the lock
        posix_waiter_main();
    }
    for (size_t i = 0; i < sizeof posix_locks / sizeof posix_locks[0]; i++)
        set(posix, F_SETLK, posix_locks[i].type, posix_locks[i].start, posix_locks[i].len);
    MUST(write(locked[1], "", 1) == 1 && close(locked[0]) == 0 && close(locked[1]) == 0);
    probe_posix = open_file("posix", O_RDWR);
    for (int i = 0; i < 3; i++)
        ofd[i] = open_file("ofd", O_RDWR);
    probe_ofd = open_file("ofd", O_RDWR);
    for (size_t i = 0; i < sizeof ofd_locks / sizeof ofd_locks[0]; i++)
        set(ofd[0], F_OFD_SETLK, ofd_locks[i].type, ofd_locks[i].start, ofd_locks[i].len);
    set(ofd[1], F_OFD_SETLK, F_RDLCK, 20, 10);
    MUST(pthread_create(&ofd_waiter, NULL, ofd_waiter_main, NULL) == 0);
    flock_shared = open_file("flock", O_RDWR);
    flock_probe = open_file("flock", O_RDWR);
    flock_exclusive = open_file("leased-read", O_RDONLY);
    MUST(flock(flock_shared, LOCK_SH) == 0 && flock(flock_exclusive, LOCK_EX) == 0);
    MUST((flock_waiter = fork()) >= 0);
    if (flock_waiter == 0)
        flock_waiter_main();
    subject_sleep_ms(200); // until they wait
}

static void expect(int fd, const struct range *r, pid_t pid)
{
    struct flock lock = {.l_type = F_WRLCK, .l_start = r->start, .l_len = r->len};

    MUST(fcntl(fd, F_OFD_GETLK, &lock) == 0);
    CHECK(lock.l_type == r->type && lock.l_start == r->start && lock.l_len == r->len &&
              lock.l_pid == pid,
          "lock at %ld is of type %d at %ld, %ld bytes, of %d", r->start, lock.l_type, lock.l_start,
          lock.l_len, lock.l_pid);
}

static void check_locks(void)
{
    struct flock free = {.l_type = F_WRLCK, .l_start = 15, .l_len = 85};

    for (size_t i = 0; i < sizeof posix_locks / sizeof posix_locks[0]; i++)
        expect(probe_posix, &posix_locks[i], getpid());
    MUST(fcntl(probe_posix, F_OFD_GETLK, &free) == 0);
    CHECK(free.l_type == F_UNLCK, "what is free is locked");
    expect(probe_ofd, &ofd_locks[1], -1);
    expect(probe_ofd, &ofd_locks[0], -1);
    CHECK(flock(flock_probe, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK,
          "the flock is not held");
}

static void expect_woken(const char *who)
{
    char got;

    CHECK(read(woken[0], &got, 1) == 1 && got == *who, "%c is woken instead of %s", got, who);
}

static void release_locks(void)
{
    int status;

    MUST(fcntl(woken[0], F_SETFL, O_NONBLOCK) == 0);
    CHECK(read(woken[0], &status, 1) < 0 && errno == EAGAIN, "somebody did not wait");
    MUST(fcntl(woken[0], F_SETFL, 0) == 0);
    set(posix, F_SETLK, F_UNLCK, 100, 1);
    expect_woken("p");
    expect(probe_posix, &posix_locks[2], waiter);
    MUST(flock(flock_shared, LOCK_UN) == 0);
    expect_woken("f");
    CHECK(flock(flock_probe, LOCK_SH | LOCK_NB) < 0, "the flock of the waiter is not held");
    set(ofd[0], F_OFD_SETLK, F_UNLCK, 0, 100);
    expect_woken("o");
    MUST(pthread_join(ofd_waiter, NULL) == 0);
    expect(probe_ofd, &(struct range){F_RDLCK, 20, 10}, -1);
    MUST(kill(waiter, SIGKILL) == 0 && waitpid(waiter, &status, 0) == waiter);
    MUST(kill(flock_waiter, SIGKILL) == 0 && waitpid(flock_waiter, &status, 0) == flock_waiter);
    CHECK(flock(flock_probe, LOCK_EX | LOCK_NB) == 0, "the flock outlives its owner");
    CHECK(flock(open_file("leased-read", O_RDONLY), LOCK_EX | LOCK_NB) < 0, "no exclusive flock");
    // To close any descriptor of the file gives up the locks of the process.
    close(posix);
    struct flock all = {.l_type = F_WRLCK};
    MUST(fcntl(probe_posix, F_OFD_GETLK, &all) == 0);
    CHECK(all.l_type == F_UNLCK, "locks of fcntl outlive their file");
}

/* ---- signals of files ---- */

static int async[2], owned[2], read_lease, write_lease;

#define SIGPIPE_READY (SIGRTMIN + 3)
#define SIGLEASE      (SIGRTMIN + 4)

static void ask_for_signals(void)
{
    const struct f_owner_ex thread = {F_OWNER_TID, (pid_t)syscall(SYS_gettid)};

    MUST(pipe(async) == 0 && pipe(owned) == 0);
    MUST(fcntl(async[0], F_SETOWN_EX, &thread) == 0 &&
         fcntl(async[0], F_SETSIG, SIGPIPE_READY) == 0 &&
         fcntl(async[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
    MUST(fcntl(owned[0], F_SETOWN, -getpgrp()) == 0 && fcntl(owned[1], F_SETOWN, getpid()) == 0);
    read_lease = open_file("leased-read", O_RDONLY);
    MUST(fcntl(read_lease, F_SETSIG, SIGLEASE) == 0 && fcntl(read_lease, F_SETLEASE, F_RDLCK) == 0);
    write_lease = open_file("leased-write", O_RDWR);
    MUST(fcntl(write_lease, F_SETLEASE, F_WRLCK) == 0);
}

static void check_owners(void)
{
    struct f_owner_ex owner;

    MUST(fcntl(async[0], F_GETOWN_EX, &owner) == 0);
    CHECK(owner.type == F_OWNER_TID && owner.pid == getpid(), "the owner is %d of type %d",
          owner.pid, owner.type);
    CHECK(fcntl(async[0], F_GETSIG) == SIGPIPE_READY &&
              fcntl(async[0], F_GETFL) == (O_ASYNC | O_NONBLOCK),
          "signal %d, flags %o", fcntl(async[0], F_GETSIG), fcntl(async[0], F_GETFL));
    MUST(fcntl(owned[0], F_GETOWN_EX, &owner) == 0);
    CHECK(owner.type == F_OWNER_PGRP && owner.pid == getpgrp(), "the owning group is %d",
          owner.pid);
    CHECK(fcntl(owned[1], F_GETOWN) == getpid() && fcntl(owned[1], F_GETSIG) == 0,
          "the owner is %d", fcntl(owned[1], F_GETOWN));
    CHECK(fcntl(read_lease, F_GETLEASE) == F_RDLCK && fcntl(read_lease, F_GETSIG) == SIGLEASE,
          "the lease is of type %d", fcntl(read_lease, F_GETLEASE));
    CHECK(fcntl(write_lease, F_GETLEASE) == F_WRLCK && fcntl(write_lease, F_GETOWN) == getpid(),
          "the lease is of type %d, and tells %d", fcntl(write_lease, F_GETLEASE),
          fcntl(write_lease, F_GETOWN));
}

static void expect_signal(int signo, int fd, const char *what)
{
    siginfo_t info;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signo);
    CHECK(sigtimedwait(&set, &info, &(struct timespec){PATIENCE_NS / NS_PER_S, 0}) == signo,
          "%s sends no signal", what);
    CHECK(signo == SIGIO || info.si_fd == fd, "%s sends a signal for descriptor %d, not %d", what,
          info.si_fd, fd);
}

static void expect_no_signal(void)
{
    sigset_t set;

    MUST(sigpending(&set) == 0);
    CHECK(!sigismember(&set, SIGPIPE_READY) && !sigismember(&set, SIGLEASE) &&
              !sigismember(&set, SIGIO),
          "a signal comes out of nothing");
}

static void use_signals(void)
{
    expect_no_signal();
    MUST(write(async[1], "x", 1) == 1);
    expect_signal(SIGPIPE_READY, async[0], "the pipe");
    // Somebody else opens what is leased.
    CHECK(open(in_workdir("leased-read"), O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK,
          "a leased file opens: %m");
    expect_signal(SIGLEASE, read_lease, "the read lease");
    MUST(fcntl(read_lease, F_SETLEASE, F_UNLCK) == 0);
    CHECK(open(in_workdir("leased-write"), O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK,
          "a file leased for writing opens: %m");
    expect_signal(SIGIO, write_lease, "the write lease");
    MUST(fcntl(write_lease, F_SETLEASE, F_UNLCK) == 0);
}

int main(int argc, char **argv)
{
    sigset_t all;

    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    sigfillset(&all);
    MUST(sigprocmask(SIG_BLOCK, &all, NULL) == 0);
    take_locks();
    ask_for_signals();
    subject_ready();
    if (subject.sabotage)
        set(posix, F_SETLK, F_UNLCK, 0, 1);
    do {
        check_locks();
        check_owners();
    } while (!subject_asked());
    use_signals();
    release_locks();
    subject_pass();
}
