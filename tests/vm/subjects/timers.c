// SPDX-License-Identifier: GPL-2.0-or-later
// Timers of timer_create and setitimer: ids, what is left, overruns, pending signals, CPU time.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "subject.h"

#define HOUR_NS      (3600 * NS_PER_S)
#define PERIOD_NS    (7 * NS_PER_MS)
#define SLACK_NS     (2 * NS_PER_S) // a busy machine; what is compared is an hour
#define SIG_LATE     (SIGRTMIN + 1) // blocked, with an overrun that grows
#define SIG_TICK     (SIGRTMIN + 2) // handled
#define SIG_ORDER    (SIGRTMIN + 3) // blocked, among others of the same number
#define SIG_THREAD   (SIGRTMIN + 4) // for one thread
#define SIG_NEVER    (SIGRTMIN + 5)
#define N_FOREIGN_ID 3 // ids between ours that were given and taken back

// The C library's timer_t hides the kernel's id.
static int timer_new(clockid_t clock, int notify, int signo, int value, pid_t tid)
{
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = signo};
    int id;

    event.sigev_value.sival_int = value;
    event._sigev_un._tid = tid;
    MUST(syscall(SYS_timer_create, clock, &event, &id) == 0);
    return id;
}

static void timer_set(int id, int flags, uint64_t value_ns, uint64_t interval_ns)
{
    const struct itimerspec spec = {
        {(time_t)(interval_ns / NS_PER_S), (long)(interval_ns % NS_PER_S)},
        {(time_t)(value_ns / NS_PER_S), (long)(value_ns % NS_PER_S)}};

    MUST(syscall(SYS_timer_settime, id, flags, &spec, NULL) == 0);
}

static uint64_t timer_left(int id, uint64_t *ret_interval)
{
    struct itimerspec spec;

    CHECK(syscall(SYS_timer_gettime, id, &spec) == 0, "timer %d: %m", id);
    if (ret_interval)
        *ret_interval =
            (uint64_t)spec.it_interval.tv_sec * NS_PER_S + (uint64_t)spec.it_interval.tv_nsec;
    return (uint64_t)spec.it_value.tv_sec * NS_PER_S + (uint64_t)spec.it_value.tv_nsec;
}

/* ---- timers that are far off: what is left of them by their own clock ---- */

static struct far {
    const char *name;
    clockid_t clock;     // of the timer
    clockid_t counts_by; // what is left goes with this clock
    int notify, flags;
    uint64_t interval_ns;
    int id;
    struct subject_end due; // by counts_by
} fars[] = {
    {"monotonic", CLOCK_MONOTONIC, CLOCK_MONOTONIC, SIGEV_SIGNAL, 0, 0, 0, {0, 0}},
    {"monotonic, absolute",
     CLOCK_MONOTONIC,
     CLOCK_MONOTONIC,
     SIGEV_SIGNAL,
     TIMER_ABSTIME,
     123456789,
     0,
     {0, 0}},
    {"realtime", CLOCK_REALTIME, CLOCK_MONOTONIC, SIGEV_SIGNAL, 0, NS_PER_S, 0, {0, 0}},
    {"realtime, absolute",
     CLOCK_REALTIME,
     CLOCK_REALTIME,
     SIGEV_SIGNAL,
     TIMER_ABSTIME,
     0,
     0,
     {0, 0}},
    {"boottime", CLOCK_BOOTTIME, CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, 0, {0, 0}},
    {"nobody is told", CLOCK_MONOTONIC, CLOCK_MONOTONIC, SIGEV_NONE, 0, 5 * NS_PER_S, 0, {0, 0}},
};
#define N_FARS (sizeof fars / sizeof *fars)

static void start_fars(void)
{
    for (unsigned i = 0; i < N_FARS; i++) {
        struct far *f = &fars[i];

        f->id = timer_new(f->clock, f->notify, SIG_NEVER, (int)i, 0);
        f->due.earliest = subject_now(f->counts_by) + HOUR_NS;
        timer_set(f->id, f->flags, f->flags ? f->due.earliest : HOUR_NS, f->interval_ns);
        f->due.latest = f->flags ? f->due.earliest : subject_now(f->counts_by) + HOUR_NS;
    }
}

static void check_fars(void)
{
    for (unsigned i = 0; i < N_FARS; i++) {
        const struct far *f = &fars[i];
        uint64_t before, left, interval, after;
        int64_t wall;

        do { // by one wall clock
            wall = subject_wall();
            before = subject_now(f->counts_by);
            left = timer_left(f->id, &interval);
            after = subject_now(f->counts_by);
        } while (f->counts_by == CLOCK_REALTIME && !subject_wall_is(wall));
        const int64_t off = subject_end_off(f->due, left, before, after);

        CHECK(interval == f->interval_ns, "%s: interval is %lu ns", f->name, interval);
        CHECK(off > -(int64_t)SLACK_NS && off < (int64_t)SLACK_NS, "%s: due %ld ns off", f->name,
              off);
    }
}

/* ---- one that ticks: each period is told of, alone or as an overrun ---- */

static int tick_id;
static uint64_t tick_start_ns;
static _Atomic uint64_t n_ticks;

static void on_tick(int signo, siginfo_t *info, void *context)
{
    if (info->si_code != SI_TIMER || info->si_timerid != tick_id || info->si_value.sival_int != 77)
        subject_fail("tick with code %d of timer %d and value %d", info->si_code, info->si_timerid,
                     info->si_value.sival_int);
    n_ticks += 1 + (uint64_t)info->si_overrun;
}

static void start_ticks(void)
{
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};

    MUST(sigaction(SIG_TICK, &action, NULL) == 0);
    tick_id = timer_new(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIG_TICK, 77, 0);
    tick_start_ns = subject_now(CLOCK_MONOTONIC) + NS_PER_MS;
    timer_set(tick_id, TIMER_ABSTIME, tick_start_ns, PERIOD_NS);
}

// Everything up to now has been told of; what is under way is waited for.
static void check_ticks(void)
{
    const uint64_t now = subject_now(CLOCK_MONOTONIC);
    const uint64_t want = now < tick_start_ns ? 0 : (now - tick_start_ns) / PERIOD_NS + 1;

    AWAIT(n_ticks >= want, "%lu ticks, not %lu", n_ticks, want);
    const uint64_t got = n_ticks; // before the look at the clock: the next tick comes any moment
    const uint64_t most = (subject_now(CLOCK_MONOTONIC) - tick_start_ns) / PERIOD_NS + 1;
    CHECK(got <= most, "%lu ticks in %lu periods", got, most);
}

/* ---- blocked ones: a pending signal's overrun, and its place in the queue ---- */

static int late_id, once_id;
static uint64_t late_start_ns;

static void start_blocked(void)
{
    late_id = timer_new(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIG_LATE, -5, 0);
    late_start_ns = subject_now(CLOCK_BOOTTIME);
    timer_set(late_id, TIMER_ABSTIME, late_start_ns, PERIOD_NS);
    once_id = timer_new(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIG_ORDER, 2, 0);
    MUST(sigqueue(getpid(), SIG_ORDER, (union sigval){.sival_int = 1}) == 0);
    timer_set(once_id, 0, 1, 0);
    while (timer_left(once_id, NULL))
        ;
    MUST(sigqueue(getpid(), SIG_ORDER, (union sigval){.sival_int = 3}) == 0);
}

static siginfo_t take(int signo)
{
    const struct timespec now = {0};
    siginfo_t info;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signo);
    CHECK(sigtimedwait(&set, &info, &now) == signo, "signal %d is not pending: %m", signo);
    return info;
}

static void check_late(void)
{
    const uint64_t least = (subject_now(CLOCK_BOOTTIME) - late_start_ns) / PERIOD_NS;
    const siginfo_t info = take(SIG_LATE);
    const uint64_t most = (subject_now(CLOCK_BOOTTIME) - late_start_ns) / PERIOD_NS;
    const uint64_t got = (uint64_t)info.si_overrun;

    CHECK(info.si_code == SI_TIMER && info.si_timerid == late_id && info.si_value.sival_int == -5,
          "late: code %d timer %d value %d", info.si_code, info.si_timerid,
          info.si_value.sival_int);
    CHECK(got >= least && got <= most, "late: overrun %lu, not %lu to %lu", got, least, most);
    CHECK(syscall(SYS_timer_getoverrun, late_id) == (long)got, "timer_getoverrun");
    const uint64_t left = timer_left(late_id, NULL);
    CHECK(left > 0 && left <= PERIOD_NS, "late: next in %lu ns", left);
}

static void check_order(void)
{
    for (int i = 1; i <= 3; i++) {
        const siginfo_t info = take(SIG_ORDER);

        CHECK(info.si_value.sival_int == i, "value %d where %d belongs", info.si_value.sival_int,
              i);
        CHECK(info.si_code == (i == 2 ? SI_TIMER : SI_QUEUE), "code %d with value %d", info.si_code,
              i);
        CHECK(i != 2 || (info.si_timerid == once_id && info.si_overrun == 0),
              "timer %d with overrun %d", info.si_timerid, info.si_overrun);
    }
    timer_set(once_id, 0, 1, 0); // it can be used again
    AWAIT(!timer_left(once_id, NULL), "it does not fire again");
    CHECK(take(SIG_ORDER).si_value.sival_int == 2, "it fires with another value");
}

/* ---- a thread with a timer of its own ---- */

static int thread_id, thread_cpu_id;
static atomic_bool thread_ready, thread_stop;
static _Atomic unsigned n_thread;
static atomic_bool burn;

static void *own_timer(void *arg)
{
    siginfo_t info;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIG_THREAD);
    thread_cpu_id = timer_new(CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, SIG_NEVER, 0, 0);
    timer_set(thread_cpu_id, 0, HOUR_NS, 0);
    thread_id = timer_new(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIG_THREAD, 99, gettid());
    timer_set(thread_id, 0, PERIOD_NS, PERIOD_NS);
    thread_ready = true;
    while (!thread_stop) {
        if (sigwaitinfo(&set, &info) < 0)
            continue; // interrupted by a move's traces alone
        CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 99, "thread: code %d value %d",
              info.si_code, info.si_value.sival_int);
        n_thread += 1 + (unsigned)info.si_overrun;
        while (burn)
            ;
    }
    return arg;
}

// Its timer counts the CPU time of this thread, neither more nor less, whatever others use.
static void check_thread_cpu(pthread_t thread)
{
    const uint64_t begin = timer_left(thread_cpu_id, NULL);
    uint64_t clock[4], left[2];
    clockid_t of_thread;

    CHECK(begin <= HOUR_NS && begin > HOUR_NS - 60 * NS_PER_S, "thread has %lu ns left", begin);
    MUST(pthread_getcpuclockid(thread, &of_thread) == 0);
    clock[0] = subject_now(of_thread);
    left[0] = timer_left(thread_cpu_id, NULL);
    clock[1] = subject_now(of_thread);
    burn = true;
    AWAIT(begin - timer_left(thread_cpu_id, NULL) >= 50 * NS_PER_MS,
          "a thread that works consumes nothing");
    burn = false;
    clock[2] = subject_now(of_thread);
    left[1] = timer_left(thread_cpu_id, NULL);
    clock[3] = subject_now(of_thread);
    const uint64_t used = left[0] - left[1];
    CHECK(used >= clock[2] - clock[1] && used <= clock[3] - clock[0],
          "the timer has counted %lu ns, the thread's clock %lu to %lu", used, clock[2] - clock[1],
          clock[3] - clock[0]);
}

/* ---- CPU time of the process ---- */

static int cpu_id;
static volatile unsigned n_cpu;

static void on_cpu(int signo)
{
    n_cpu++;
}

static uint64_t itimer_left(int which, uint64_t *ret_interval)
{
    struct itimerval value;

    MUST(getitimer(which, &value) == 0);
    *ret_interval =
        (uint64_t)value.it_interval.tv_sec * NS_PER_S + (uint64_t)value.it_interval.tv_usec * 1000;
    return (uint64_t)value.it_value.tv_sec * NS_PER_S + (uint64_t)value.it_value.tv_usec * 1000;
}

static void start_cpu(void)
{
    const struct itimerval far = {{3, 5000}, {3600, 0}}, soon = {{0, 8000}, {0, 8000}};

    cpu_id = timer_new(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIG_NEVER, 0, 0);
    timer_set(cpu_id, 0, HOUR_NS, 2 * NS_PER_S);
    MUST(signal(SIGVTALRM, on_cpu) != SIG_ERR);
    MUST(setitimer(ITIMER_PROF, &far, NULL) == 0);
    MUST(setitimer(ITIMER_VIRTUAL, &soon, NULL) == 0);
}

static void check_cpu(uint64_t started_ns)
{
    uint64_t interval, left = timer_left(cpu_id, &interval), prof_interval,
                       prof = itimer_left(ITIMER_PROF, &prof_interval);
    const uint64_t most = 2 * (subject_now(CLOCK_BOOTTIME) - started_ns) + SLACK_NS;

    CHECK(interval == 2 * NS_PER_S, "CPU timer: interval %lu ns", interval);
    CHECK(left <= HOUR_NS && left >= HOUR_NS - most, "CPU timer: %lu ns left", left);
    CHECK(prof_interval == 3 * NS_PER_S + 5 * NS_PER_MS, "ITIMER_PROF: interval %lu ns",
          prof_interval);
    CHECK(prof <= HOUR_NS + 20 * NS_PER_MS && prof >= HOUR_NS - most, "ITIMER_PROF: %lu ns left",
          prof);
    itimer_left(ITIMER_VIRTUAL, &interval);
    CHECK(interval == 8 * NS_PER_MS, "ITIMER_VIRTUAL: interval %lu ns", interval);
}

static void check_cpu_fires(void)
{
    const unsigned fired = n_cpu;
    const uint64_t begin = subject_now(CLOCK_MONOTONIC), left = timer_left(cpu_id, NULL);

    while (n_cpu < fired + 3 || left - timer_left(cpu_id, NULL) < 20 * NS_PER_MS)
        CHECK(subject_now(CLOCK_MONOTONIC) - begin < PATIENCE_NS,
              "ITIMER_VIRTUAL fired %u times in a minute of work", n_cpu - fired);
}

/* ---- all of it ---- */

static int first_id, unused_id;

static void make_gap(void)
{
    int ids[N_FOREIGN_ID];

    for (unsigned i = 0; i < N_FOREIGN_ID; i++)
        ids[i] = timer_new(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    for (unsigned i = 0; i < N_FOREIGN_ID; i++)
        MUST(syscall(SYS_timer_delete, ids[i]) == 0);
}

static void check_ids(void)
{
    struct itimerspec spec;
    int id;

    CHECK(timer_left(first_id, NULL) == 0 && timer_left(unused_id, NULL) == 0,
          "a timer that was never set runs");
    CHECK(syscall(SYS_timer_gettime, first_id + 1, &spec) < 0 && errno == EINVAL,
          "a timer that was deleted is back");
    id = timer_new(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    CHECK(id == unused_id + 1 + N_FOREIGN_ID, "the next timer is %d", id);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    sigset_t set;

    subject_begin(argc, argv);
    sigemptyset(&set);
    for (int i = 0; i < 3; i++)
        sigaddset(&set, ((int[]){SIG_LATE, SIG_ORDER, SIG_THREAD})[i]);
    MUST(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);

    const uint64_t started_ns = subject_now(CLOCK_BOOTTIME);
    first_id = timer_new(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGALRM, 0, 0);
    make_gap();
    start_fars();
    start_blocked();
    sigaddset(&set, SIG_TICK);
    sigaddset(&set, SIGVTALRM);
    MUST(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0); // the thread leaves these to us
    MUST(pthread_create(&thread, NULL, own_timer, NULL) == 0);
    while (!thread_ready)
        subject_sleep_ms(1);
    start_ticks();
    start_cpu();
    sigdelset(&set, SIG_LATE);
    sigdelset(&set, SIG_ORDER);
    sigdelset(&set, SIG_THREAD);
    MUST(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
    unused_id = timer_new(CLOCK_REALTIME, SIGEV_SIGNAL, SIGALRM, 0, 0);
    make_gap();
    subject_ready();
    if (subject.sabotage)
        timer_set(fars[0].id, 0, HOUR_NS / 2, 0);
    do {
        check_fars();
        check_ticks();
        check_cpu(started_ns);
        subject_sleep_ms(5);
    } while (!subject_asked());
    check_late();
    check_order();
    check_thread_cpu(thread);
    check_cpu_fires();
    check_ids();
    const unsigned heard = n_thread;
    AWAIT(n_thread >= heard + 3, "the thread hears nothing");
    thread_stop = true;
    MUST(pthread_join(thread, NULL) == 0);
    check_ticks();
    subject_pass();
}
