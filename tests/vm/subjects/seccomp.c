// SPDX-License-Identifier: GPL-2.0-or-later
// Seccomp filters that threads share, have in part in common, or alone; argument strict: that mode.
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define N_THREADS 3
// Calls that nobody makes otherwise; a filter gives each its own errno.
#define CALL_ALL   SYS_acct
#define CALL_FIRST SYS_swapon
#define CALL_LATE  SYS_swapoff
#define CALL_TRAP  SYS_uselib

static unsigned filters_of(pid_t tid)
{
    char path[64], text[4096];
    const char *at;
    unsigned n = 0;

    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    CHECK(len > 0, "%s: %m", path);
    close(fd);
    text[len] = '\0';
    at = strstr(text, "\nSeccomp_filters:");
    return at && sscanf(at, "\nSeccomp_filters: %u", &n) == 1 ? n : 0;
}

// One more filter: `nr` gives `action`, all else goes through.
static long add(unsigned long nr, uint32_t action, unsigned flags)
{
    struct sock_filter insns[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog prog = {sizeof insns / sizeof *insns, insns};

    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
}

// Of an argument in two words, with scratch memory and arithmetic: swapoff(0x1122334455667788)
// alone.
static void add_by_argument(void)
{
    const unsigned arg = offsetof(struct seccomp_data, args);
    struct sock_filter insns[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, arg),
        BPF_STMT(BPF_ST, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, arg + 4),
        BPF_STMT(BPF_LDX | BPF_MEM, 3),
        BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x11223344 + 0x55667788, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CALL_LATE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ECHRNG),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog prog = {sizeof insns / sizeof *insns, insns};

    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, &prog) == 0);
}

static int error_of(long nr, unsigned long argument)
{
    errno = 0;
    CHECK(syscall(nr, argument, 0, 0) < 0, "call %ld went through", nr);
    return errno;
}

static volatile int trapped, trapped_errno;

static void on_trap(int signo, siginfo_t *info, void *context)
{
    trapped = info->si_syscall;
    trapped_errno = info->si_errno;
}

/* ---- a call that may come from one place alone ---- */

extern const char behind_wait[];

__attribute__((noinline)) static long wait_here(int set, struct epoll_event *event, int ms)
{
    register long r10 __asm__("r10") = ms;
    long ret;

    __asm__ volatile("syscall\n.globl behind_wait\nbehind_wait:"
                     : "=a"(ret)
                     : "0"(SYS_epoll_wait), "D"(set), "S"(event), "d"(1), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
}

static void add_by_place(void)
{
    const unsigned place = offsetof(struct seccomp_data, instruction_pointer);
    const uint64_t here = (uintptr_t)behind_wait;
    struct sock_filter insns[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_wait, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, place),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)here, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, place + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(here >> 32), 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog prog = {sizeof insns / sizeof *insns, insns};

    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0);
}

/* ---- threads: 0 and 1 have what all have, 2 some more of its own ---- */

static atomic_bool threads_stop[N_THREADS];
static atomic_uint n_ready;
static pid_t tids[N_THREADS];

static void *thread_main(void *arg)
{
    const unsigned number = (unsigned)(uintptr_t)arg;
    const int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event;

    MUST(set >= 0);
    if (number == 2) {
        MUST(add(CALL_FIRST, SECCOMP_RET_ERRNO | EXFULL, 0) == 0);
        add_by_place();
    }
    tids[number] = gettid();
    n_ready++;
    while (!threads_stop[number]) {
        CHECK(error_of(CALL_ALL, 0) == EBADRQC, "thread %u: %m", number);
        CHECK(error_of(CALL_FIRST, 0) == (number == 2 ? EXFULL : ENOANO), "thread %u: %m", number);
        subject_sleep_ms(number + 1); // goes on by restart_syscall when it is moved
        if (number == 2)
            CHECK(wait_here(set, &event, 5) == 0, "a wait did not time out");
    }
    close(set);
    return arg;
}

static void check(void)
{
    CHECK(error_of(CALL_ALL, 0) == EBADRQC, "the filter of all: %m");
    CHECK(error_of(CALL_FIRST, 0) == ENOANO, "the first filter: %m");
    CHECK(error_of(CALL_LATE, 0x1122334455667788) == ECHRNG, "the filter by argument: %m");
    CHECK(error_of(CALL_LATE, 1) != ECHRNG, "another argument");
    trapped = 0;
    syscall(CALL_TRAP);
    CHECK(trapped == CALL_TRAP && trapped_errno == 12, "SIGSYS tells of call %d, %d", trapped,
          trapped_errno);
    CHECK(prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER, "not in filter mode");
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0, "no_new_privs has come from nowhere");
}

// A child has them all; what one filter kills is killed.
static void check_kill(void)
{
    int status;
    const pid_t child = fork();

    if (child == 0) {
        if (error_of(CALL_ALL, 0) == EBADRQC && add(SYS_getppid, SECCOMP_RET_KILL_PROCESS, 0) == 0)
            syscall(SYS_getppid);
        _exit(1);
    }
    MUST(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "the child ended with %#x", status);
}

// What is shared is shared: with thread 2 out of the way all can be brought in line.
static void check_sync(pthread_t threads[N_THREADS])
{
    CHECK(add(SYS_vhangup, SECCOMP_RET_ERRNO | ELIBACC, SECCOMP_FILTER_FLAG_TSYNC) > 0,
          "threads with different filters were brought in line");
    threads_stop[2] = true;
    MUST(pthread_join(threads[2], NULL) == 0);
    // Joined is not gone: until then the kernel counts it.
    while (syscall(SYS_tgkill, getpid(), tids[2], 0) == 0)
        subject_sleep_ms(1);
    CHECK(add(SYS_vhangup, SECCOMP_RET_ERRNO | ELIBACC, SECCOMP_FILTER_FLAG_TSYNC) == 0,
          "threads with the same filters cannot be brought in line: %m");
    for (unsigned i = 0; i < 2; i++) {
        threads_stop[i] = true;
        MUST(pthread_join(threads[i], NULL) == 0);
    }
}

static void run_filters(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    pthread_t threads[N_THREADS];

    MUST(sigaction(SIGSYS, &action, NULL) == 0);
    MUST(add(CALL_FIRST, SECCOMP_RET_ERRNO | ENOANO, 0) == 0);
    MUST(add(CALL_ALL, SECCOMP_RET_ERRNO | EBADRQC, 0) == 0);
    for (uintptr_t i = 0; i < N_THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, thread_main, (void *)i) == 0);
    while (n_ready < N_THREADS)
        subject_sleep_ms(1);
    add_by_argument();
    MUST(add(CALL_TRAP, SECCOMP_RET_TRAP | 12, 0) == 0);
    const unsigned had = filters_of(getpid());
    subject_ready();
    if (subject.sabotage)
        MUST(add(CALL_ALL, SECCOMP_RET_ERRNO | EIO, 0) == 0);
    do {
        check();
        subject_sleep_ms(2);
    } while (!subject_asked());
    CHECK(filters_of(getpid()) == had, "%u filters, not %u", filters_of(getpid()), had);
    check_sync(threads);
    check_kill();
}

/* ---- strict mode: one thread that may read and write, and nothing else ---- */

static int ask[2], answer[2];
static atomic_int strict_tid;

static void *strict_main(void *arg)
{
    uint32_t token;

    strict_tid = gettid();
    MUST(subject.sabotage || prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
    while (read(ask[0], &token, sizeof token) == sizeof token) {
        if (token == 0)
            syscall(SYS_getppid);
        token = token * 3 + 1;
        if (write(answer[1], &token, sizeof token) != sizeof token)
            break;
    }
    return arg;
}

static void run_strict(void)
{
    pthread_t thread;
    uint32_t token = 1, back;

    MUST(pipe(ask) == 0 && pipe(answer) == 0);
    struct pollfd answered = {.fd = answer[0], .events = POLLIN};
    MUST(pthread_create(&thread, NULL, strict_main, NULL) == 0);
    do {
        MUST(write(ask[1], &token, sizeof token) == sizeof token);
        MUST(read(answer[0], &back, sizeof back) == sizeof back);
        CHECK(back == token * 3 + 1, "answer %u to %u", back, token);
        if (token++ == 1)
            subject_ready();
        subject_sleep_ms(2);
    } while (!subject_asked());
    MUST(write(ask[1], &(uint32_t){0}, sizeof(uint32_t)) == sizeof(uint32_t));
    AWAIT(syscall(SYS_tgkill, getpid(), strict_tid, 0) < 0 || poll(&answered, 1, 0) != 0,
          "a call that strict mode forbids does not end");
    CHECK(poll(&answered, 1, 0) == 0, "a call that strict mode forbids went through");
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    if (subject.argument && strcmp(subject.argument, "strict") == 0)
        run_strict();
    else
        run_filters();
    subject_pass();
}
