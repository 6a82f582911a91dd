// SPDX-License-Identifier: GPL-2.0-or-later
// Handlers, an alternate stack, pending signals with their values, waits for signals, a timer.
// Argument cpu-timer: a timer of consumed CPU time as well.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "subject.h"

#define QUEUED    5
#define ALT_BYTES (64 << 10)
#define TIMER_MS  20
#define RESTORER  0x04000000 // SA_RESTORER, of which the C library does not speak

static uint8_t alternate[ALT_BYTES];
static volatile struct {
    int signo, code, value;
    pid_t pid;
    bool on_alternate;
} got[64];
static volatile unsigned n_got, n_alarms, n_profiles, n_waiter;
static bool cpu_timer;

static void record(int signo, siginfo_t *info, void *context)
{
    const uint8_t here = 0;
    const unsigned i = n_got % 64;

    got[i].signo = signo;
    got[i].code = info->si_code;
    got[i].value = info->si_value.sival_int;
    got[i].pid = info->si_pid;
    got[i].on_alternate = &here >= alternate && &here < alternate + ALT_BYTES;
    n_got++;
}

static void on_alarm(int signo)
{
    n_alarms++;
}

static void on_profile(int signo)
{
    n_profiles++;
}

static void on_waiter(int signo)
{
    n_waiter++;
}

static void handle(int signo, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_flags = flags};

    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGHUP);
    MUST(sigaction(signo, &action, NULL) == 0);
}

static void set_up_handlers(void)
{
    const stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    struct sigaction action = {.sa_sigaction = record,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

    MUST(sigaltstack(&stack, NULL) == 0);
    sigfillset(&action.sa_mask);
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    MUST(sigaction(SIGRTMIN + 1, &action, NULL) == 0);
    MUST(sigaction(SIGRTMIN + 2, &action, NULL) == 0);
    handle(SIGALRM, on_alarm, SA_RESTART);
    handle(SIGPROF, on_profile, 0);
    handle(SIGUSR2, on_waiter, 0);
    signal(SIGPIPE, SIG_IGN);
}

static void check_actions(void)
{
    struct sigaction action;
    stack_t stack;

    MUST(sigaction(SIGUSR1, NULL, &action) == 0);
    CHECK(action.sa_sigaction == record &&
              (action.sa_flags & ~RESTORER) == (SA_SIGINFO | SA_ONSTACK | SA_RESTART) &&
              sigismember(&action.sa_mask, SIGTERM),
          "action of SIGUSR1 is another");
    MUST(sigaction(SIGPROF, NULL, &action) == 0);
    CHECK(action.sa_handler == on_profile && (action.sa_flags & ~RESTORER) == 0 &&
              sigismember(&action.sa_mask, SIGHUP) && !sigismember(&action.sa_mask, SIGTERM),
          "action of SIGPROF is another");
    MUST(sigaction(SIGPIPE, NULL, &action) == 0);
    CHECK(action.sa_handler == SIG_IGN, "SIGPIPE is not ignored");
    MUST(sigaction(SIGTERM, NULL, &action) == 0);
    CHECK(action.sa_handler == SIG_DFL, "SIGTERM has a handler");
    MUST(sigaltstack(NULL, &stack) == 0);
    CHECK(stack.ss_sp == alternate && stack.ss_size == ALT_BYTES && stack.ss_flags == 0,
          "the alternate stack is another");
}

static const int pending_signals[] = {SIGUSR1, 0, 0}; // 0: SIGRTMIN + index

static int pending_signal(unsigned i)
{
    return pending_signals[i] ? pending_signals[i] : SIGRTMIN + (int)i;
}

static void mask(int how)
{
    sigset_t set;

    sigemptyset(&set);
    for (unsigned i = 0; i < 3; i++)
        sigaddset(&set, pending_signal(i));
    MUST(pthread_sigmask(how, &set, NULL) == 0);
}

static void queue_pending(void)
{
    siginfo_t info;

    MUST(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 4242}) == 0);
    for (int i = 0; i < QUEUED; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 100 + i}) == 0);
    // For this thread alone.
    memset(&info, 0, sizeof info);
    info.si_signo = SIGRTMIN + 2;
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_value.sival_int = 777;
    MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGRTMIN + 2, &info) == 0);
}

static void check_pending(void)
{
    sigset_t set;

    MUST(sigpending(&set) == 0);
    for (unsigned i = 0; i < 3; i++)
        CHECK(sigismember(&set, pending_signal(i)), "signal %d is not pending any more",
              pending_signal(i));
    CHECK(!sigismember(&set, SIGTERM), "SIGTERM is pending");
    CHECK(n_got == 0, "blocked signals came through");
}

static void check_one(unsigned i, int signo, int value)
{
    CHECK(got[i].signo == signo && got[i].value == value && got[i].code == SI_QUEUE &&
              got[i].pid == getpid() && got[i].on_alternate,
          "signal %u: number %d value %d code %d pid %d%s, expected %d with %d", i, got[i].signo,
          got[i].value, got[i].code, got[i].pid, got[i].on_alternate ? "" : " on the plain stack",
          signo, value);
}

static void check_delivery(void)
{
    unsigned thread = 0, usr1 = 0, first = 0;

    mask(SIG_UNBLOCK);
    CHECK(n_got == QUEUED + 2, "%u signals were delivered", n_got);
    // Between different numbers the kernel chooses; queues keep their order.
    for (unsigned i = 0, next = 0; i < n_got; i++) {
        if (got[i].signo == SIGUSR1)
            usr1 = i;
        else if (got[i].signo == SIGRTMIN + 2)
            thread = i;
        else
            check_one(i, SIGRTMIN + 1, 100 + (int)next++);
        first = next;
    }
    CHECK(first == QUEUED, "%u signals of the queue", first);
    check_one(usr1, SIGUSR1, 4242);
    check_one(thread, SIGRTMIN + 2, 777);
}

static atomic_uint n_set_up; // threads that take no signal but theirs

static void *suspend(void *arg)
{
    sigset_t all, none_but;

    sigfillset(&all);
    MUST(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
    none_but = all;
    sigdelset(&none_but, SIGUSR2);
    n_set_up++;
    CHECK(sigsuspend(&none_but) == -1 && errno == EINTR, "sigsuspend: %m");
    CHECK(n_waiter == 1, "sigsuspend ended by no handler");
    MUST(pthread_sigmask(SIG_SETMASK, NULL, &none_but) == 0);
    CHECK(sigismember(&none_but, SIGUSR2), "sigsuspend did not put the mask back");
    return arg;
}

static void *wait_timed(void *arg)
{
    const struct timespec hour = {.tv_sec = 3600};
    siginfo_t info;
    sigset_t set;
    int signo;

    sigfillset(&set);
    MUST(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
    n_set_up++;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    signo = sigtimedwait(&set, &info, &hour);
    CHECK(signo == SIGRTMIN + 5 && info.si_code == SI_USER, "sigtimedwait gave %d: %m", signo);
    return arg;
}

static void start_timers(void)
{
    const struct itimerval often = {{0, TIMER_MS * 1000}, {0, TIMER_MS * 1000}};
    const struct itimerval consumed = {{0, 40000}, {0, 40000}};

    MUST(setitimer(ITIMER_REAL, &often, NULL) == 0);
    cpu_timer = subject.argument && strcmp(subject.argument, "cpu-timer") == 0;
    MUST(!cpu_timer || setitimer(ITIMER_PROF, &consumed, NULL) == 0);
}

// The timers must still fire, at their interval.
static void check_timers(void)
{
    const unsigned alarms = n_alarms, profiles = n_profiles;
    struct itimerval now;

    MUST(getitimer(ITIMER_REAL, &now) == 0);
    CHECK(now.it_interval.tv_sec == 0 && now.it_interval.tv_usec == TIMER_MS * 1000,
          "the timer's interval is %ld us", now.it_interval.tv_usec);
    for (uint64_t begin = subject_now(CLOCK_MONOTONIC);
         n_alarms < alarms + 3 || (cpu_timer && n_profiles < profiles + 2);)
        CHECK(subject_now(CLOCK_MONOTONIC) - begin < PATIENCE_NS,
              "%u alarms and %u profiles in a minute", n_alarms - alarms, n_profiles - profiles);
}

int main(int argc, char **argv)
{
    pthread_t threads[2];

    subject_begin(argc, argv);
    set_up_handlers();
    mask(SIG_BLOCK);
    queue_pending();
    MUST(pthread_create(&threads[0], NULL, suspend, NULL) == 0);
    MUST(pthread_create(&threads[1], NULL, wait_timed, NULL) == 0);
    while (n_set_up < 2)
        subject_sleep_ms(1);
    start_timers();
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        signal(SIGPIPE, SIG_DFL);
    do {
        check_actions();
        check_pending();
        subject_sleep_ms(5);
    } while (!subject_asked());
    check_timers();
    check_delivery();
    MUST(pthread_kill(threads[0], SIGUSR2) == 0);
    MUST(pthread_kill(threads[1], SIGRTMIN + 5) == 0);
    for (unsigned i = 0; i < 2; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    subject_pass();
}
