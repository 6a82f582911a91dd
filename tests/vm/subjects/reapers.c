// SPDX-License-Identifier: GPL-2.0-or-later
// Threads that wait for the end of children, or for their stops, by wait4() and waitid() with every
// option. What they wait for comes after the move; what came before it is still to be told.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define EXIT_STATUS 7
#define P_PIDFD_    3 // P_PIDFD, of which old headers know nothing
#define BURN_MS     20

enum act { EXITS, DIES, STOPS, CONTINUES };

static struct waiter {
    const char *name;
    enum act act;
    bool by_id; // waitid()
    int which;  // P_*
    int options;
    bool no_signal; // a child whose end is told by no signal: a clone
    bool any;       // child of this thread
    bool own_group; // 0, of children in the group of this process
    bool no_info;   // NULL for siginfo and status, and for rusage
    pid_t child;
    int pidfd;
    long nr;   // the call it sleeps in
    pid_t tid; // set when it is about to
    bool done;
    pthread_t thread;
} waiters[] = {
    {.name = "wait4", .act = EXITS},
    {.name = "wait4 without a status", .act = EXITS, .no_info = true},
    {.name = "wait4 __WALL", .act = DIES, .options = __WALL},
    {.name = "wait4 WUNTRACED", .act = STOPS, .options = WUNTRACED},
    {.name = "wait4 WUNTRACED, but it ends", .act = DIES, .options = WUNTRACED | WCONTINUED},
    {.name = "wait4 WCONTINUED", .act = CONTINUES, .options = WCONTINUED},
    {.name = "wait4 __WCLONE", .act = EXITS, .options = __WCLONE, .no_signal = true},
    {.name = "wait4 of a clone, __WALL", .act = DIES, .options = __WALL, .no_signal = true},
    {.name = "wait4 __WNOTHREAD", .act = EXITS, .options = __WNOTHREAD, .any = true},
    {.name = "wait4 of the own group", .act = DIES, .options = __WNOTHREAD, .own_group = true},
    {.name = "waitid P_PID", .act = EXITS, .by_id = true, .which = P_PID, .options = WEXITED},
    {.name = "waitid P_PGID", .act = DIES, .by_id = true, .which = P_PGID, .options = WEXITED},
    {.name = "waitid P_ALL",
     .act = EXITS,
     .by_id = true,
     .which = P_ALL,
     .options = WEXITED | __WNOTHREAD},
    {.name = "waitid without siginfo",
     .act = EXITS,
     .by_id = true,
     .which = P_PID,
     .options = WEXITED,
     .no_info = true},
    {.name = "waitid P_PIDFD", .act = EXITS, .by_id = true, .which = P_PIDFD_, .options = WEXITED},
    {.name = "waitid WNOWAIT",
     .act = DIES,
     .by_id = true,
     .which = P_PID,
     .options = WEXITED | WNOWAIT},
    {.name = "waitid WSTOPPED",
     .act = STOPS,
     .by_id = true,
     .which = P_PID,
     .options = WSTOPPED | WEXITED},
    {.name = "waitid WSTOPPED | WNOWAIT",
     .act = STOPS,
     .by_id = true,
     .which = P_PIDFD_,
     .options = WSTOPPED | WNOWAIT},
    {.name = "waitid WCONTINUED",
     .act = CONTINUES,
     .by_id = true,
     .which = P_PID,
     .options = WCONTINUED},
    {.name = "waitid WCONTINUED | WNOWAIT",
     .act = CONTINUES,
     .by_id = true,
     .which = P_PGID,
     .options = WCONTINUED | WNOWAIT},
};
#define N_WAITERS (sizeof waiters / sizeof waiters[0])

/* ---- children ---- */

static void on_term(int signo)
{
    _exit(EXIT_STATUS);
}

static _Noreturn void child(void)
{
    const struct sigaction action = {.sa_handler = on_term};
    const sigset_t none = {0};
    const uint64_t until = subject_now(CLOCK_PROCESS_CPUTIME_ID) + BURN_MS * NS_PER_MS;

    sigaction(SIGTERM, &action, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    while (subject_now(CLOCK_PROCESS_CPUTIME_ID) < until)
        ;
    for (;;)
        pause();
}

static void make_child(struct waiter *w)
{
    w->child = (pid_t)syscall(SYS_clone, w->no_signal ? 0 : SIGCHLD, 0, 0, 0, 0);
    if (w->child == 0)
        child();
    MUST(w->child > 0);
    if (!w->own_group)
        MUST(setpgid(w->child, w->child) == 0);
    if (w->which == P_PIDFD_)
        MUST((w->pidfd = (int)syscall(SYS_pidfd_open, w->child, 0)) >= 0);
    if (w->act == CONTINUES) {
        MUST(kill(w->child, SIGSTOP) == 0);
        MUST(syscall(SYS_wait4, w->child, NULL, WUNTRACED | __WALL, NULL) == w->child);
    }
}

/* ---- what they are told ---- */

static void check_status(const struct waiter *w, int status)
{
    const bool good = w->act == EXITS   ? WIFEXITED(status) && WEXITSTATUS(status) == EXIT_STATUS
                      : w->act == DIES  ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                      : w->act == STOPS ? WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP
                                        : WIFCONTINUED(status);

    CHECK(good, "%s: status %#x", w->name, (unsigned)status);
}

static void check_usage(const struct waiter *w, const struct rusage *usage)
{
    const long us = (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000 +
                    usage->ru_utime.tv_usec + usage->ru_stime.tv_usec;

    CHECK(us >= 0 && us < 60 * 1000000l, "%s: it has used %ld us", w->name, us);
}

static void wait_by_pid(const struct waiter *w, int options)
{
    struct rusage usage = {.ru_utime.tv_sec = -1};
    int status = -1;
    const pid_t whom = w->any ? -1 : w->own_group ? 0 : w->child;
    const long n =
        syscall(SYS_wait4, whom, w->no_info ? NULL : &status, options, w->no_info ? NULL : &usage);

    CHECK(n == w->child, "%s: %ld, not %d: %m", w->name, n, w->child);
    if (w->no_info)
        return;
    check_status(w, status);
    check_usage(w, &usage);
}

static void wait_by_id(const struct waiter *w, int options)
{
    static const struct {
        int code, status;
    } told[] = {[EXITS] = {CLD_EXITED, EXIT_STATUS},
                [DIES] = {CLD_KILLED, SIGKILL},
                [STOPS] = {CLD_STOPPED, SIGSTOP},
                [CONTINUES] = {CLD_CONTINUED, SIGCONT}};
    struct rusage usage = {.ru_utime.tv_sec = -1};
    siginfo_t info = {0};
    const int id = w->which == P_PIDFD_ ? w->pidfd : w->child;
    const long n = syscall(SYS_waitid, w->which, id, w->no_info ? NULL : &info, options,
                           w->no_info ? NULL : &usage);

    CHECK(n == 0, "%s: %ld: %m", w->name, n);
    if (w->no_info)
        return;
    CHECK(info.si_signo == SIGCHLD && info.si_pid == w->child && info.si_uid == getuid() &&
              info.si_code == told[w->act].code && info.si_status == told[w->act].status,
          "%s: signal %d of %d, code %d, status %d", w->name, info.si_signo, info.si_pid,
          info.si_code, info.si_status);
    check_usage(w, &usage);
}

static void wait_once(const struct waiter *w, int options)
{
    (w->by_id ? wait_by_id : wait_by_pid)(w, options);
}

// What was looked at is still there, until it is taken.
static void check_rest(const struct waiter *w)
{
    int options = w->options;
    siginfo_t info = {.si_pid = -1};

    if (options & WNOWAIT) {
        options &= ~WNOWAIT;
        wait_once(w, options | WNOHANG | WNOWAIT);
        wait_once(w, options | WNOHANG);
    }
    if (w->act == EXITS || w->act == DIES) {
        CHECK(syscall(SYS_wait4, w->child, NULL, WNOHANG | __WALL, NULL) == -1 && errno == ECHILD,
              "%s: there is more to be told: %m", w->name);
        return;
    }
    CHECK(syscall(SYS_waitid, P_PID, w->child, &info, WSTOPPED | WCONTINUED | WEXITED | WNOHANG,
                  NULL) == 0 &&
              info.si_pid == 0,
          "%s: it is told twice, of %d: %m", w->name, info.si_pid);
}

static void *wait_for_child(void *arg)
{
    struct waiter *w = arg;

    make_child(w);
    w->nr = w->by_id ? SYS_waitid : SYS_wait4;
    __atomic_store_n(&w->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    wait_once(w, w->options);
    __atomic_store_n(&w->done, true, __ATOMIC_SEQ_CST);
    check_rest(w);
    return NULL;
}

static void act_on(const struct waiter *w)
{
    static const int signals[] = {
        [EXITS] = SIGTERM, [DIES] = SIGKILL, [STOPS] = SIGSTOP, [CONTINUES] = SIGCONT};

    CHECK(!__atomic_load_n(&w->done, __ATOMIC_SEQ_CST), "%s: is over too early", w->name);
    MUST(kill(w->child, signals[w->act]) == 0);
}

static void end_child(const struct waiter *w)
{
    if (w->act != STOPS && w->act != CONTINUES)
        return;
    MUST(kill(w->child, SIGKILL) == 0);
    MUST(waitpid(w->child, NULL, __WALL) == w->child);
}

/* ---- parents that do not want to know ---- */

static struct indifferent {
    const char *name;
    int flags; // of the action; 0: it is SIG_IGN
    pid_t parent, child;
    int told; // end of a pipe
} indifferents[] = {{.name = "SIG_IGN"}, {.name = "SA_NOCLDWAIT", .flags = SA_NOCLDWAIT}};
#define N_INDIFFERENTS (sizeof indifferents / sizeof indifferents[0])

// Its wait ends when the last child has, and finds none.
static _Noreturn void ignore(const struct indifferent *f, int tell)
{
    const struct sigaction action = {.sa_handler = f->flags ? SIG_DFL : SIG_IGN,
                                     .sa_flags = f->flags};
    pid_t pid;

    MUST(sigaction(SIGCHLD, &action, NULL) == 0);
    MUST((pid = fork()) >= 0);
    if (pid == 0)
        child();
    MUST(write(tell, &pid, sizeof pid) == sizeof pid);
    const long n = syscall(SYS_wait4, -1, NULL, 0, NULL);
    _exit(n == -1 && errno == ECHILD ? EXIT_STATUS : 1);
}

static void make_indifferent(struct indifferent *f)
{
    int ends[2];

    MUST(pipe(ends) == 0);
    MUST((f->parent = fork()) >= 0);
    if (f->parent == 0)
        ignore(f, ends[1]);
    MUST(read(ends[0], &f->child, sizeof f->child) == sizeof f->child);
    close(ends[0]);
    close(ends[1]);
}

static void check_indifferent(const struct indifferent *f)
{
    int status;

    CHECK(waitpid(f->parent, NULL, WNOHANG) == 0, "%s: its wait is over too early", f->name);
    MUST(kill(f->child, SIGTERM) == 0);
    MUST(waitpid(f->parent, &status, 0) == f->parent);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_STATUS, "%s: status %#x", f->name,
          (unsigned)status);
}

int main(int argc, char **argv)
{
    sigset_t term;

    subject_begin(argc, argv);
    // Waits for a child to have its handler.
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    MUST(sigprocmask(SIG_BLOCK, &term, NULL) == 0);
    for (size_t i = 0; i < N_INDIFFERENTS; i++)
        make_indifferent(&indifferents[i]);
    for (size_t i = 0; i < N_WAITERS; i++)
        MUST(pthread_create(&waiters[i].thread, NULL, wait_for_child, &waiters[i]) == 0);
    for (size_t i = 0; i < N_WAITERS; i++) {
        AWAIT(__atomic_load_n(&waiters[i].tid, __ATOMIC_SEQ_CST), "a waiter does not begin");
        subject_await_call(waiters[i].tid, waiters[i].nr);
    }
    subject_ready();
    if (subject.sabotage)
        waiters[0].act = DIES;
    while (!subject_asked())
        subject_sleep_ms(5);
    if (subject.sabotage)
        MUST(kill(waiters[0].child, SIGTERM) == 0);
    for (size_t i = subject.sabotage; i < N_WAITERS; i++)
        act_on(&waiters[i]);
    for (size_t i = 0; i < N_WAITERS; i++) {
        MUST(pthread_join(waiters[i].thread, NULL) == 0);
        end_child(&waiters[i]);
    }
    for (size_t i = 0; i < N_INDIFFERENTS; i++)
        check_indifferent(&indifferents[i]);
    CHECK(wait(NULL) == -1 && errno == ECHILD, "there are more children: %m");
    subject_pass();
}
