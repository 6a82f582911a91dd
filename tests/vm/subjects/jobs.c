// SPDX-License-Identifier: GPL-2.0-or-later
// Children that have ended or are stopped, and what wait() has yet to tell of them.
// Argument ends: zombies of every kind. Argument stops: stopped and continued processes.
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

static pid_t fork_with(uint64_t exit_signal)
{
    struct clone_args args = {.exit_signal = exit_signal};
    const pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);

    MUST(pid >= 0);
    return pid;
}

static void read_proc(pid_t pid, const char *name, char *ret, size_t size)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    const int fd = open(path, O_RDONLY);
    const ssize_t n = fd < 0 ? -1 : read(fd, ret, size - 1);

    CHECK(n >= 0, "%s: %m", path);
    ret[n] = '\0';
    close(fd);
}

static char state_of(pid_t pid)
{
    char text[512];

    read_proc(pid, "stat", text, sizeof text);
    return strrchr(text, ')')[2];
}

/* ---- zombies ---- */

struct end {
    const char *name;
    int exit_code; // where no signal
    int signo;
    bool core;
    uid_t uid;
    uint64_t exit_signal;
    bool own_session, own_group;
    pid_t pid;
};

static struct end ends[] = {
    {"zero", .exit_signal = SIGCHLD},
    {"forty-two", 42, .exit_signal = SIGCHLD, .own_session = true},
    {"two-five-five", 255, .exit_signal = SIGCHLD, .own_group = true},
    {"killed", .signo = SIGKILL, .exit_signal = SIGCHLD},
    {"terminated", .signo = SIGTERM, .exit_signal = SIGCHLD, .own_session = true},
    {"real-time", .signo = 44, .exit_signal = SIGCHLD},
    {"no-core", .signo = SIGSEGV, .exit_signal = SIGCHLD},
    {"core", .signo = SIGABRT, .core = true, .exit_signal = SIGCHLD},
    {"core-user", .signo = SIGQUIT, .core = true, .uid = 1234, .exit_signal = SIGCHLD},
    {"user", 3, .uid = 4321, .exit_signal = SIGCHLD},
    {"other-signal", 5, .exit_signal = SIGUSR1},
    {"no-signal", 6, .exit_signal = 0},
};
#define N_ENDS (sizeof ends / sizeof ends[0])

static _Noreturn void meet(const struct end *e)
{
    const struct rlimit limit = {e->core ? RLIM_INFINITY : 0, e->core ? RLIM_INFINITY : 0};

    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_NAME, e->name);
    MUST(chdir(subject.workdir) == 0);
    if (e->own_session)
        MUST(setsid() > 0);
    if (e->own_group)
        MUST(setpgid(0, 0) == 0);
    MUST(setrlimit(RLIMIT_CORE, &limit) == 0);
    if (e->uid)
        MUST(setresuid(e->uid, e->uid, e->uid) == 0);
    MUST(prctl(PR_SET_DUMPABLE, 1) == 0);
    if (!e->signo)
        _exit(e->exit_code);
    signal(e->signo, SIG_DFL);
    raise(e->signo);
    _exit(99);
}

static void peek(const struct end *e, siginfo_t *ret)
{
    memset(ret, 0, sizeof *ret);
    CHECK(waitid(P_PID, (id_t)e->pid, ret, WEXITED | WNOWAIT | __WALL) == 0, "%s: %m", e->name);
}

static void check_end(const struct end *e)
{
    const int code = !e->signo ? CLD_EXITED : e->core ? CLD_DUMPED : CLD_KILLED;
    const int status = e->signo ? e->signo | (e->core ? 0x80 : 0) : e->exit_code << 8;
    char comm[32], *end;
    siginfo_t info;
    int got;

    read_proc(e->pid, "comm", comm, sizeof comm);
    if ((end = strchr(comm, '\n')))
        *end = '\0';
    CHECK(state_of(e->pid) == 'Z', "%s is in state %c", e->name, state_of(e->pid));
    CHECK(strcmp(comm, e->name) == 0, "%s is called %s", e->name, comm);
    CHECK(getpgid(e->pid) == (e->own_session || e->own_group ? e->pid : getpgrp()), "%s: group %d",
          e->name, getpgid(e->pid));
    CHECK(getsid(e->pid) == (e->own_session ? e->pid : getsid(0)), "%s: session %d", e->name,
          getsid(e->pid));
    peek(e, &info);
    CHECK(info.si_pid == e->pid && info.si_code == code &&
              info.si_status == (e->signo ? e->signo : e->exit_code) && info.si_uid == e->uid,
          "%s: pid %d code %d status %d uid %u", e->name, info.si_pid, info.si_code, info.si_status,
          info.si_uid);
    // Without __WALL only those are waited for that tell by SIGCHLD.
    got = 0x5a5a;
    if (e->exit_signal != SIGCHLD)
        CHECK(waitpid(e->pid, &got, 0) < 0 && errno == ECHILD, "%s: waited for: %m", e->name);
    CHECK(waitpid(e->pid, &got, __WALL) == e->pid && got == status, "%s: status %#x, not %#x",
          e->name, got, status);
}

static void run_ends(void)
{
    sigset_t usual, pending, before;

    sigfillset(&usual);
    MUST(sigprocmask(SIG_BLOCK, &usual, NULL) == 0);
    for (size_t i = 0; i < N_ENDS; i++) {
        siginfo_t info;

        ends[i].pid = fork_with(ends[i].exit_signal);
        if (ends[i].pid == 0)
            meet(&ends[i]);
        peek(&ends[i], &info);
    }
    // One of the two that can tell is taken off; the other stays pending.
    const struct timespec now = {0};
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, SIGCHLD);
    MUST(sigtimedwait(&one, NULL, &now) == SIGCHLD);
    MUST(sigpending(&before) == 0 && sigismember(&before, SIGUSR1));
    if (subject.sabotage)
        MUST(waitpid(ends[1].pid, NULL, __WALL) > 0);
    subject_ready();
    while (!subject_asked()) {
        MUST(sigpending(&pending) == 0);
        CHECK(sigismember(&pending, SIGCHLD) == 0, "it is told of a child again");
        CHECK(sigismember(&pending, SIGUSR1) == 1, "a signal is lost");
        subject_sleep_ms(5);
    }
    for (size_t i = 0; i < N_ENDS; i++)
        check_end(&ends[i]);
    CHECK(waitpid(-1, NULL, __WALL) < 0 && errno == ECHILD, "there are more children");
}

/* ---- stopped ---- */

enum { TOLD = 1, CONTINUED = 2, THREADS = 4, SLEEPS = 8, HANDLER = 16, AGAIN = 32, ALONE = 64 };

struct stop {
    const char *name;
    int signo;
    unsigned how;
    pid_t pid;
};

static struct stop stops[] = {
    {"stopped", SIGSTOP, 0, 0},
    {"stopped, told", SIGSTOP, TOLD, 0},
    {"by the terminal", SIGTSTP, 0, 0},
    {"input", SIGTTIN, TOLD, 0},
    {"threads", SIGSTOP, THREADS, 0},
    {"again", SIGSTOP, TOLD | AGAIN | THREADS, 0},
    {"again, a thread", SIGSTOP, AGAIN | ALONE, 0},
    {"asleep", SIGSTOP, TOLD | SLEEPS, 0},
    {"handler", SIGSTOP, HANDLER | THREADS, 0},
    {"continued", SIGSTOP, CONTINUED, 0},
    {"continued, told", SIGSTOP, CONTINUED | TOLD, 0},
};
#define N_STOPS (sizeof stops / sizeof stops[0])

// Shared with the children.
static struct progress {
    volatile uint64_t n;
    volatile uint64_t side; // of the second thread
    volatile int handled, slept;
} * progress;

static struct progress *mine;

static void on_cont(int signo)
{
    mine->handled++;
}

static void *count_aside(void *unused)
{
    for (;;) {
        mine->side++;
        subject_sleep_ms(1);
    }
    return unused;
}

static _Noreturn void work(const struct stop *s, struct progress *p)
{
    const struct timespec moment = {0, 300000000};
    sigset_t none;
    pthread_t thread;

    mine = p;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    MUST(setpgid(0, 0) == 0); // a terminal cannot stop a group that nobody would continue
    if (s->how & HANDLER)
        signal(SIGCONT, on_cont);
    if (s->how & THREADS)
        MUST(pthread_create(&thread, NULL, count_aside, NULL) == 0);
    for (;;) {
        p->n++;
        if (s->how & SLEEPS) {
            CHECK(nanosleep(&moment, NULL) == 0, "%s: a sleep of a stopped process: %m", s->name);
            p->slept++;
        } else {
            subject_sleep_ms(1);
        }
    }
}

static void await_progress(const struct stop *s, struct progress *p)
{
    const uint64_t n = p->n, side = p->side;

    while (p->n == n || (s->how & THREADS && p->side == side))
        subject_sleep_ms(2);
}

// The parent is told a moment after wait() can see it.
static void await_sigchld(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    MUST(sigwaitinfo(&set, NULL) == SIGCHLD);
}

// What comes while it is stopped stays pending, until SIGCONT takes it away.
static bool is_pending(const struct stop *s)
{
    const char *what = s->how & ALONE ? "SigPnd:\t" : "ShdPnd:\t";
    char path[40], line[200];
    unsigned long set = 0;

    snprintf(path, sizeof path, "/proc/%d/status", (int)s->pid);
    FILE *f = fopen(path, "re");
    MUST(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, what, strlen(what)) == 0)
            set = strtoul(line + strlen(what), NULL, 16);
    fclose(f);
    return set >> (SIGSTOP - 1) & 1;
}

static void start_stop(struct stop *s, struct progress *p)
{
    siginfo_t info;

    s->pid = fork_with(SIGCHLD);
    if (s->pid == 0)
        work(s, p);
    while (p->n == 0)
        subject_sleep_ms(1);
    MUST(kill(s->pid, s->signo) == 0);
    await_sigchld();
    MUST(waitid(P_PID, (id_t)s->pid, &info, WSTOPPED | (s->how & TOLD ? 0 : WNOWAIT)) == 0);
    CHECK(info.si_status == s->signo, "%s: stopped by %d", s->name, info.si_status);
    if (s->how & AGAIN) {
        MUST((s->how & ALONE ? syscall(SYS_tkill, s->pid, SIGSTOP) : kill(s->pid, SIGSTOP)) == 0);
        CHECK(is_pending(s), "%s: not pending", s->name);
    }
    if (!(s->how & CONTINUED))
        return;
    MUST(kill(s->pid, SIGCONT) == 0);
    await_sigchld();
    MUST(waitid(P_PID, (id_t)s->pid, &info, WCONTINUED | (s->how & TOLD ? 0 : WNOWAIT)) == 0);
}

static int news(const struct stop *s, int of, int *ret_status)
{
    siginfo_t info = {0};

    MUST(waitid(P_PID, (id_t)s->pid, &info, of | WNOHANG) == 0);
    *ret_status = info.si_status;
    return info.si_pid == s->pid ? info.si_code : 0;
}

static void check_stop(const struct stop *s, struct progress *p, const struct progress *before)
{
    const bool stopped = !(s->how & CONTINUED);
    const int of = stopped ? WSTOPPED : WCONTINUED;
    const int expect = s->how & TOLD ? 0 : stopped ? CLD_STOPPED : CLD_CONTINUED;
    int status, code = news(s, stopped ? WCONTINUED : WSTOPPED, &status);

    CHECK(code == 0, "%s: news of the other kind: %d, %d", s->name, code, status);
    code = news(s, of, &status);
    CHECK(code == expect && (!code || status == (stopped ? s->signo : SIGCONT)),
          "%s: news %d (%d), not %d", s->name, code, status, expect);
    CHECK(news(s, of, &status) == 0, "%s: told twice", s->name);
    if (stopped) {
        CHECK(state_of(s->pid) == 'T', "%s: state %c", s->name, state_of(s->pid));
        CHECK(p->n == before->n && p->side == before->side && p->handled == before->handled,
              "%s: it went on while it was stopped", s->name);
        CHECK(is_pending(s) == !!(s->how & AGAIN), "%s: a SIGSTOP is lost, or new", s->name);
        MUST(kill(s->pid, SIGCONT) == 0);
    }
    await_progress(s, p);
    if (stopped) {
        CHECK(news(s, WCONTINUED, &status) == CLD_CONTINUED, "%s: not continued", s->name);
        CHECK(!(s->how & HANDLER) || p->handled == 1, "%s: handled %d times", s->name, p->handled);
    }
    MUST(kill(s->pid, SIGKILL) == 0 && waitpid(s->pid, &status, 0) == s->pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s: ended with %#x", s->name,
          status);
}

static void run_stops(void)
{
    struct progress before[N_STOPS];
    sigset_t block, pending;

    progress = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(progress != MAP_FAILED);
    sigemptyset(&block);
    sigaddset(&block, SIGCHLD);
    MUST(sigprocmask(SIG_BLOCK, &block, NULL) == 0);
    for (size_t i = 0; i < N_STOPS; i++)
        start_stop(&stops[i], &progress[i]);
    memcpy(before, progress, sizeof before);
    if (subject.sabotage)
        MUST(kill(stops[1].pid, SIGCONT) == 0);
    subject_ready();
    while (!subject_asked()) {
        MUST(sigpending(&pending) == 0);
        CHECK(subject.sabotage || !sigismember(&pending, SIGCHLD), "it is told of a child again");
        await_progress(&stops[N_STOPS - 1], &progress[N_STOPS - 1]);
    }
    for (size_t i = 0; i < N_STOPS; i++)
        check_stop(&stops[i], &progress[i], &before[i]);
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    if (subject.argument && strcmp(subject.argument, "stops") == 0)
        run_stops();
    else
        run_ends();
    subject_pass();
}
