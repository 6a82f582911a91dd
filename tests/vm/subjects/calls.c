// SPDX-License-Identifier: GPL-2.0-or-later
// Threads that are blocked in one call each with known values in all registers, and what of them is
// there when the call returns: all but what the call itself changes.
//
// Ends each call as it ends by itself (argument: stops: after the process was stopped and
// continued), or (argument: signals) by a signal whose handler has, or has not, SA_RESTART: then
// the call fails with EINTR or goes on, as signal(7) has it for that call.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "calls.h"
#include "subject.h"

#define PATIENCE_S 60
#define STOP_MS    40
#define ALT_BYTES  (64 * 1024)

static struct worker *workers; // one for each call
static size_t n_workers;
static unsigned round_now;
static bool over, with_stops;
static bool was_stopped; // in this round
static __thread struct worker *self;

/* ---- a worker ---- */

// Of what a handler finds: where the call is when it is over, or begins again.
static void check_context(const struct worker *w, int signo, const ucontext_t *context)
{
#ifdef __x86_64__
    const greg_t *regs = context->uc_mcontext.gregs;
    const unsigned long behind = (unsigned long)calls_behind, at = (unsigned long)regs[REG_RIP];
    const bool again =
        w->call->interrupted == GOES_ON || (w->call->interrupted == RESTARTS && signo == SIGUSR2);

    if (w->call->elsewhere)
        return;
    CHECK(at == (again ? behind - 2 : behind), "%s: a handler finds it at %+ld", w->call->name,
          (long)(at - behind));
    CHECK((unsigned long)regs[REG_RAX] == (again ? w->regs.in[RAX] : -(unsigned long)EINTR),
          "%s: a handler finds the result %lld", w->call->name, regs[REG_RAX]);
    CHECK((unsigned long)regs[REG_RDI] == w->regs.in[RDI] &&
              (unsigned long)regs[REG_RSI] == w->regs.in[RSI] &&
              (unsigned long)regs[REG_RDX] == w->regs.in[RDX] &&
              (unsigned long)regs[REG_R10] == w->regs.in[R10],
          "%s: a handler finds other arguments", w->call->name);
#endif
}

static void on_signal(int signo, siginfo_t *info, void *context)
{
    const ucontext_t *c = context;
    struct worker *w = self;
    char here;

    CHECK(w, "a signal for nobody");
    CHECK(&here >= w->stack && &here < w->stack + ALT_BYTES, "%s: a handler on another stack",
          w->call->name);
    CHECK(memcmp(&c->uc_sigmask, &w->mask, CALLS_SIGSET) == 0, "%s: a handler finds another mask",
          w->call->name);
    check_context(w, signo, c);
    __atomic_fetch_add(&w->handled, 1, __ATOMIC_SEQ_CST);
}

static void check_registers(const struct worker *w)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8",
                                        "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

    for (int i = 1; i < N_REGS; i++) {
        const bool clobbered = N_REGS > 7 && (i == RCX || i == 10);
        CHECK(clobbered || w->regs.in[i] == w->regs.out[i], "%s: %s is %#lx, not %#lx",
              w->call->name, names[i], w->regs.out[i], w->regs.in[i]);
    }
}

static void check_left(const struct worker *w)
{
    const uint64_t left = (uint64_t)w->left.tv_sec * NS_PER_S + (uint64_t)w->left.tv_nsec;
    const uint64_t passed = subject_now(CLOCK_MONOTONIC) - w->begin_ns;

    CHECK(left <= calls_timeout_ns() && left + passed + 20 * NS_PER_MS >= calls_timeout_ns(),
          "%s: %lu ms are left after %lu ms", w->call->name, (unsigned long)(left / NS_PER_MS),
          (unsigned long)(passed / NS_PER_MS));
}

static void check_call(struct worker *w)
{
    const long result = (long)w->regs.out[RAX];
    const bool interrupted = w->signo && !w->ended;
    uint64_t mask = 0;

    if (w->call->optional && result == -ENOSYS) {
        w->lacks = true;
        return;
    }
    check_registers(w);
    if (was_stopped && w->call->stops && result == -EINTR)
        ; // as signal(7) has it for these
    else if (interrupted)
        CHECK(result == -EINTR, "%s: %ld after a signal", w->call->name, result);
    else
        CHECK(w->wanted == CALLS_ANY ? result >= 0 : result == w->wanted, "%s: %ld", w->call->name,
              result);
    if (interrupted && w->call->tells_left)
        check_left(w);
    MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, CALLS_SIGSET) == 0);
    CHECK(mask == w->mask, "%s: the mask is %#lx, not %#lx", w->call->name, (unsigned long)mask,
          (unsigned long)w->mask);
}

static void dress(struct worker *w)
{
    stack_t stack = {.ss_size = ALT_BYTES};

    self = w;
    w->tid = (pid_t)syscall(SYS_gettid);
    MUST((w->stack = stack.ss_sp = malloc(ALT_BYTES)));
    MUST(sigaltstack(&stack, NULL) == 0);
    w->mask = calls_bit(CALLS_SIGWAITED) | (subject_mix((uint64_t)(w - workers)) & 0xff)
                                               << (SIGRTMIN + 6);
    w->let = calls_bit(SIGHUP);
    if (w->call->masks)
        w->mask |= calls_bit(SIGUSR1) | calls_bit(SIGUSR2);
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &w->mask, NULL, CALLS_SIGSET) == 0);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t next_round = PTHREAD_COND_INITIALIZER;

static bool wait_for_round(unsigned n)
{
    pthread_mutex_lock(&mutex);
    while (round_now < n && !over)
        pthread_cond_wait(&next_round, &mutex);
    pthread_mutex_unlock(&mutex);
    return !over;
}

static void *work(void *arg)
{
    struct worker *w = arg;

    dress(w);
    for (unsigned n = 1; wait_for_round(n); n++) {
        w->wanted = w->call->want;
        if (!w->lacks) {
            w->call->prepare(w);
            w->begin_ns = subject_now(CLOCK_MONOTONIC);
            __atomic_store_n(&w->begun, n, __ATOMIC_SEQ_CST);
            calls_enter(&w->regs);
            check_call(w);
            if (w->call->after)
                w->call->after(w);
        }
        __atomic_store_n(&w->done, n, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

/* ---- rounds ---- */

static bool is_done(struct worker *w)
{
    return __atomic_load_n(&w->done, __ATOMIC_SEQ_CST) == round_now;
}

static bool is_asleep(struct worker *w)
{
    char path[64], text[32] = "";

    if (__atomic_load_n(&w->begun, __ATOMIC_SEQ_CST) != round_now)
        return false;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", w->tid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && close(fd) == 0);
    return strtol(text, NULL, 10) == (long)w->regs.in[RAX] ||
           strtol(text, NULL, 10) == SYS_restart_syscall;
}

static bool is_asleep_or_done(struct worker *w)
{
    return is_done(w) || is_asleep(w);
}

static bool is_handled(struct worker *w)
{
    return __atomic_load_n(&w->handled, __ATOMIC_SEQ_CST) || w->lacks;
}

static void until(bool (*is)(struct worker *w), struct worker *w, const char *what)
{
    for (int i = 0; !is(w); i++) {
        CHECK(i < PATIENCE_S * 200, "%s %s", w->call->name, what);
        subject_sleep_ms(5);
    }
}

static void interrupt_soon(struct worker *w, uint64_t *seed)
{
    w->signo = subject_random(seed) % 2 ? SIGUSR1 : SIGUSR2;
    calls_signal_soon(w, w->signo);
}

static void interrupted(struct worker *w)
{
    until(is_handled, w, "is not interrupted");
    MUST(timer_delete(w->timer) == 0);
    if (w->call->interrupted == FAILS || (w->call->interrupted == RESTARTS && w->signo == SIGUSR1))
        return;
    until(is_asleep_or_done, w, "does not go on after a signal");
    CHECK(!is_done(w), "%s: is over after a signal", w->call->name);
    w->ended = true;
    w->call->end(w);
}

// As from a shell: what sleeps goes on by the kernel's restart block, if it has one.
static void stop_for_a_moment(void)
{
    const pid_t own = getpid();

    __atomic_store_n(&was_stopped, true, __ATOMIC_SEQ_CST);
    const pid_t other = fork();
    if (other == 0) {
        kill(own, SIGSTOP);
        subject_sleep_ms(STOP_MS);
        kill(own, SIGCONT);
        _exit(0);
    }
    MUST(other > 0 && waitpid(other, NULL, 0) == other);
}

// Whose ends the process does not care about: no call is to notice.
static void bear_children(unsigned ms)
{
    const uint64_t until_ns = subject_now(CLOCK_MONOTONIC) + ms * NS_PER_MS;

    do {
        const pid_t pid = fork();

        MUST(pid >= 0);
        if (pid == 0)
            _exit(0);
        subject_sleep_ms(2);
        MUST(waitpid(pid, NULL, 0) == pid);
    } while (subject_now(CLOCK_MONOTONIC) < until_ns);
}

static void end(struct worker *w)
{
    if (with_stops)
        until(is_asleep_or_done, w, "does not go on after a stop");
    if (!w->call->stops || !is_done(w))
        w->call->end(w);
}

static void one_round(uint64_t *seed)
{
    for (size_t i = 0; i < n_workers; i++) {
        workers[i].handled = 0;
        workers[i].signo = 0;
        workers[i].ended = false;
    }
    pthread_mutex_lock(&mutex);
    was_stopped = false;
    round_now++;
    pthread_cond_broadcast(&next_round);
    pthread_mutex_unlock(&mutex);
    for (size_t i = 0; i < n_workers; i++) {
        struct worker *w = &workers[i];

        until(is_asleep_or_done, w, "does not sleep");
        if (w->call->move && !is_done(w))
            w->call->move(w);
        if (calls_with_signals && !is_done(w))
            interrupt_soon(w, seed);
    }
    if (round_now == 1)
        subject_ready();
    if (with_stops)
        stop_for_a_moment();
    if (!calls_with_signals)
        bear_children(20 + (unsigned)(subject_random(seed) % 230));
    for (size_t i = 0; i < n_workers; i++) {
        struct worker *w = &workers[i];

        if (calls_with_signals && w->signo)
            interrupted(w);
        else if (w->call->end && !w->lacks)
            end(w);
    }
    for (size_t i = 0; i < n_workers; i++)
        until(is_done, &workers[i], "does not return");
}

static void set_action(int signo, int flags)
{
    const struct sigaction action = {.sa_sigaction = on_signal,
                                     .sa_flags = SA_SIGINFO | SA_ONSTACK | flags};

    MUST(sigaction(signo, &action, NULL) == 0);
}

int main(int argc, char **argv)
{
    uint64_t seed = (uint64_t)getpid();

    subject_begin(argc, argv);
    calls_with_signals = subject.argument && strcmp(subject.argument, "signals") == 0;
    n_workers = n_calls_io + n_calls_waits;
    MUST((workers = calloc(n_workers, sizeof *workers)));
    calls_interrupted = subject.argument;
    with_stops = subject.argument && strcmp(subject.argument, "stops") == 0;
    set_action(SIGUSR1, 0);
    set_action(SIGUSR2, SA_RESTART);
    for (size_t i = 0; i < n_workers; i++) {
        workers[i].call = i < n_calls_io ? &calls_io[i] : &calls_waits[i - n_calls_io];
        workers[i].seed = seed + i;
        MUST(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    do {
        one_round(&seed);
        if (subject.sabotage)
            workers[0].mask ^= calls_bit(SIGHUP);
    } while (!subject_asked());
    pthread_mutex_lock(&mutex);
    over = true;
    pthread_cond_broadcast(&next_round);
    pthread_mutex_unlock(&mutex);
    for (size_t i = 0; i < n_workers; i++) {
        MUST(pthread_join(workers[i].thread, NULL) == 0);
        if (workers[i].call->last)
            workers[i].call->last(&workers[i]);
    }
    subject_pass();
}
