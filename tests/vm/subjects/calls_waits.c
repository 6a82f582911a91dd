// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that wait for time, futexes, queues and signals: what each is made with, and what ends it.
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"
#include "subject.h"

/* ---- sleeps ---- */

static void do_nanosleep(struct worker *w)
{
    w->left = (struct timespec){0, 0};
    CALL(w, SYS_nanosleep, AT(calls_timeout(w)), AT(&w->left));
}

static void do_clock_nanosleep(struct worker *w)
{
    w->left = (struct timespec){0, 0};
    CALL(w, SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, AT(calls_timeout(w)), AT(&w->left));
}

static void do_sleep_until(struct worker *w)
{
    CALL(w, SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME,
         AT(calls_deadline(w, CLOCK_MONOTONIC, calls_timeout_ns())), 0);
}

/* ---- futexes ---- */

static long futex(uint32_t *word, int op, uint32_t value, const void *timeout, uint32_t *second)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, timeout, second, 0);
}

static void do_futex(struct worker *w)
{
    w->words[0] = 3;
    CALL(w, SYS_futex, AT(w->words), FUTEX_WAIT_PRIVATE, 3, 0);
}

// After a stop or a move it takes a thread a moment to be in its call again: until then there is
// nobody to be woken, or to be moved.
static bool try_wake(uint32_t *word)
{
    return futex(word, FUTEX_WAKE, 1, NULL, NULL) == 1;
}

static void wake(struct worker *w)
{
    for (int i = 0; !try_wake(w->words); i++) {
        CHECK(i < 2000, "%s: nobody waits", w->call->name);
        subject_sleep_ms(5);
    }
}

static void do_futex_for(struct worker *w)
{
    w->words[0] = 4;
    CALL(w, SYS_futex, AT(w->words), FUTEX_WAIT_PRIVATE, 4, AT(calls_timeout(w)));
}

static void do_futex_until(struct worker *w)
{
    w->words[0] = 5;
    CALL(w, SYS_futex, AT(w->words), FUTEX_WAIT_BITSET_PRIVATE, 5,
         AT(calls_deadline(w, CLOCK_MONOTONIC, calls_timeout_ns())), AT(w->bytes),
         FUTEX_BITSET_MATCH_ANY);
}

// Moved to the second word as soon as it sleeps, which has another value.
static void do_futex_moved(struct worker *w)
{
    w->words[0] = 6;
    w->words[1] = 7;
    CALL(w, SYS_futex, AT(w->words), FUTEX_WAIT_PRIVATE, 6, 0);
}

static void do_futex_moved_until(struct worker *w)
{
    w->words[0] = 6;
    w->words[1] = 7;
    CALL(w, SYS_futex, AT(w->words), FUTEX_WAIT_BITSET_PRIVATE, 6,
         AT(calls_deadline(w, CLOCK_MONOTONIC, CALLS_LONG_NS)), 0, FUTEX_BITSET_MATCH_ANY);
}

static void requeue(struct worker *w)
{
    long n;

    while ((n = syscall(SYS_futex, w->words, FUTEX_CMP_REQUEUE_PRIVATE, 0, 1, &w->words[1], 6)) ==
           0)
        subject_sleep_ms(1);
    MUST(n == 1);
}

// A handler or a stop takes it back to the first, and so does a move just after it was moved.
static void wake_there(struct worker *w)
{
    for (int i = 0; !try_wake(&w->words[1]); i++) {
        if ((calls_interrupted || i > 200) && try_wake(w->words))
            return;
        CHECK(i < 2000, "%s: nobody waits where it was moved to", w->call->name);
        subject_sleep_ms(5);
    }
}

static void do_lock_pi(struct worker *w)
{
    w->words[0] = (uint32_t)getpid();
    CALL(w, SYS_futex, AT(w->words), FUTEX_LOCK_PI_PRIVATE, 0, 0);
}

static void unlock_pi(struct worker *w)
{
    MUST(futex(w->words, FUTEX_UNLOCK_PI, 0, NULL, NULL) == 0);
}

#ifdef __x86_64__
static void do_futex_waitv(struct worker *w)
{
    w->words[0] = 8;
    w->wait.value = 8;
    w->wait.address = AT(w->words);
    w->wait.flags = 2 | FUTEX_PRIVATE_FLAG; // 32 bits
    calls_deadline(w, CLOCK_MONOTONIC, CALLS_LONG_NS);
    CALL(w, SYS_futex_waitv, AT(&w->wait), 1, 0, AT(&w->ts), CLOCK_MONOTONIC);
}
#endif

/* ---- System V, queues ---- */

#ifdef __x86_64__
static int own_semaphore(struct worker *w)
{
    if (!w->made) {
        w->made = true;
        MUST((w->fds[0] = semget(IPC_PRIVATE, 1, 0600)) >= 0);
    }
    return w->fds[0];
}

static struct sembuf down = {0, -1, 0};

static void do_semtimedop(struct worker *w)
{
    const int id = own_semaphore(w);

    CALL(w, SYS_semtimedop, (unsigned long)id, AT(&down), 1, AT(calls_timeout(w)));
}

static void do_semop(struct worker *w)
{
    const int id = own_semaphore(w);

    CALL(w, SYS_semop, (unsigned long)id, AT(&down), 1);
}

static void up(struct worker *w)
{
    struct sembuf one = {0, 1, 0};

    MUST(semop(w->fds[0], &one, 1) == 0);
}
#endif

static void do_msgrcv(struct worker *w)
{
    if (!w->made)
        MUST((w->fds[0] = msgget(IPC_PRIVATE, 0600)) >= 0);
    w->made = true;
    CALL(w, SYS_msgrcv, (unsigned long)w->fds[0], AT(w->bytes), 8, 0, 0);
}

static void give_message(struct worker *w)
{
    const struct {
        long type;
        char text[4];
    } message = {1, "hey"};

    MUST(msgsnd(w->fds[0], &message, sizeof message.text, 0) == 0);
}

#ifdef __x86_64__
static void remove_semaphore(struct worker *w)
{
    MUST(semctl(w->fds[0], 0, IPC_RMID) == 0);
}
#endif

static void remove_messages(struct worker *w)
{
    MUST(msgctl(w->fds[0], IPC_RMID, NULL) == 0);
}

static void do_mq(struct worker *w)
{
    struct mq_attr attr = {.mq_maxmsg = 2, .mq_msgsize = 16};
    char name[32];

    if (!w->made) {
        snprintf(name, sizeof name, "/calls.%d.%d", getpid(), w->tid);
        MUST((w->fds[0] = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attr)) >= 0);
        MUST(mq_unlink(name) == 0);
    }
    w->made = true;
    CALL(w, SYS_mq_timedreceive, (unsigned long)w->fds[0], AT(w->bytes), 16, 0,
         AT(calls_deadline(w, CLOCK_REALTIME, CALLS_LONG_NS)));
}

static void give_mq(struct worker *w)
{
    MUST(mq_send(w->fds[0], "hello", 6, 0) == 0);
}

/* ---- signals ---- */

static void do_pause(struct worker *w)
{
    CALL(w, SYS_pause, 0);
}

static void do_sigsuspend(struct worker *w)
{
    CALL(w, SYS_rt_sigsuspend, AT(&w->let), CALLS_SIGSET);
}

static void send_to(struct worker *w, int signo)
{
    MUST(syscall(SYS_tgkill, getpid(), w->tid, signo) == 0);
}

static void send_signal(struct worker *w)
{
    send_to(w, SIGUSR1);
}

// Blocked for as long as the call lasts, whenever it comes.
static void do_sigsuspend_most(struct worker *w)
{
    w->let = calls_interrupted ? calls_bit(SIGHUP) : ~calls_bit(SIGUSR1);
    __atomic_store_n(&w->ended, false, __ATOMIC_SEQ_CST);
    CALL(w, SYS_rt_sigsuspend, AT(&w->let), CALLS_SIGSET);
}

static void send_other_soon(struct worker *w)
{
    if (!calls_interrupted)
        calls_signal_soon(w, SIGUSR2);
}

static void send_last(struct worker *w)
{
    if (!calls_interrupted)
        MUST(timer_delete(w->timer) == 0);
    __atomic_store_n(&w->ended, true, __ATOMIC_SEQ_CST);
    send_signal(w);
}

static void check_was_last(struct worker *w)
{
    CHECK(calls_with_signals || __atomic_load_n(&w->ended, __ATOMIC_SEQ_CST),
          "%s: ended by a signal that it blocks", w->call->name);
}

static void do_sigtimedwait(struct worker *w)
{
    w->let = calls_bit(CALLS_SIGWAITED);
    CALL(w, SYS_rt_sigtimedwait, AT(&w->let), 0, AT(calls_timeout(w)), CALLS_SIGSET);
}

static void do_sigwait(struct worker *w)
{
    w->let = calls_bit(CALLS_SIGWAITED);
    w->wanted = CALLS_SIGWAITED;
    CALL(w, SYS_rt_sigtimedwait, AT(&w->let), AT(&w->info), 0, CALLS_SIGSET);
}

static void send_waited(struct worker *w)
{
    send_to(w, CALLS_SIGWAITED);
}

/* ---- the table ---- */

// clang-format off
const struct call calls_waits[] = {
    ROW("nanosleep", do_nanosleep, NULL, FAILS, 0, .tells_left = true),
    ROW("clock_nanosleep", do_clock_nanosleep, NULL, FAILS, 0, .tells_left = true),
    ROW("clock_nanosleep until", do_sleep_until, NULL, FAILS, 0),
    ROW("futex", do_futex, wake, RESTARTS, 0),
    ROW("futex for", do_futex_for, NULL, FAILS, -ETIMEDOUT),
    ROW("futex until", do_futex_until, NULL, FAILS, -ETIMEDOUT),
    ROW("futex moved", do_futex_moved, wake_there, RESTARTS, 0, .move = requeue, .elsewhere = true),
    ROW("futex moved until", do_futex_moved_until, wake_there, FAILS, 0, .move = requeue,
     .elsewhere = true),
    ROW("futex of a lock", do_lock_pi, unlock_pi, GOES_ON, 0),
    ROW("msgrcv", do_msgrcv, give_message, FAILS, 4, .last = remove_messages),
    ROW("mq_timedreceive", do_mq, give_mq, RESTARTS, 6),
    ROW("pause", do_pause, send_signal, FAILS, -EINTR),
    ROW("rt_sigsuspend", do_sigsuspend, send_signal, FAILS, -EINTR, .masks = true),
    ROW("rt_sigsuspend of most", do_sigsuspend_most, send_last, FAILS, -EINTR,
        .move = send_other_soon, .after = check_was_last, .elsewhere = true),
    ROW("rt_sigtimedwait", do_sigtimedwait, NULL, FAILS, -EAGAIN, .stops = true),
    ROW("rt_sigtimedwait for ever", do_sigwait, send_waited, FAILS, CALLS_ANY, .stops = true),
#ifdef __x86_64__ // those of i386 take 64 bits or are wrapped in others
    ROW("futex_waitv", do_futex_waitv, wake, RESTARTS, 0, .optional = true),
    ROW("semtimedop", do_semtimedop, NULL, FAILS, -EAGAIN, .last = remove_semaphore, .stops = true),
    ROW("semop", do_semop, up, FAILS, 0, .last = remove_semaphore, .stops = true),
#endif
};
// clang-format on
const size_t n_calls_waits = sizeof calls_waits / sizeof calls_waits[0];
