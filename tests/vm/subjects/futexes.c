// SPDX-License-Identifier: GPL-2.0-or-later
// Threads that wait for futexes of every kind, and are woken by who should wake them alone.
//
// Waiters that nothing wakes must go on waiting; one that was moved to another futex is woken there
// and not where it began.
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#ifndef FUTEX_LOCK_PI2
#define FUTEX_LOCK_PI2 13
#endif

static long futex(uint32_t *word, int op, uint32_t value, const void *timeout, uint32_t *second,
                  uint32_t third)
{
    return syscall(SYS_futex, word, op, value, timeout, second, third);
}

static bool woken[16];
static uint32_t *shared;    // two words of shared memory
static uint32_t private[2]; // a waiter is moved from the first to the second

/* ---- waits, and waiters that are moved ---- */

static void *wait_moved(void *arg)
{
    uint32_t *from = arg;
    const long n = futex(from, from == shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);

    CHECK(n == 0, "a waiter that was moved: %ld: %m", n);
    __atomic_store_n(&woken[from == shared], true, __ATOMIC_SEQ_CST);
    return NULL;
}

static void *wait_plain(void *arg)
{
    static uint32_t word;
    const long n = futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 4);

    // Nobody wakes it but a signal.
    CHECK(n == -1 && errno == EINTR, "a plain waiter: %ld: %m", n);
    __atomic_store_n(&woken[2], true, __ATOMIC_SEQ_CST);
    return NULL;
}

static void until(const bool *what, const char *name)
{
    AWAIT(__atomic_load_n(what, __ATOMIC_SEQ_CST), "%s does not wake up", name);
}

static void move(uint32_t *words, int flag)
{
    long n;

    // Moved as soon as it waits; the value of the first is another from then on, as it is where
    // conditions are signalled.
    do {
        subject_sleep_ms(1);
        n = futex(&words[0], FUTEX_CMP_REQUEUE | flag, 0, (void *)1, &words[1], 0);
    } while (n == 0);
    CHECK(n == 1, "%ld waiters are moved: %m", n);
}

static void check_moved(uint32_t *words, int flag, int which, const char *name)
{
    CHECK(!woken[which], "%s: woken too early", name);
    CHECK(futex(&words[0], FUTEX_WAKE | flag, 9, NULL, NULL, 0) == 0, "%s: waits where it began",
          name);
    // After a freeze it may be back for its first futex, as after any stop, or have been told. Just
    // moved, it may have to enter the call again first.
    long n = 0;
    AWAIT((n = futex(&words[1], FUTEX_WAKE | flag, 9, NULL, NULL, 0)) != 0, "%s: waits nowhere",
          name);
    CHECK(n == 1, "%s: %ld wait: %m", name, n);
    until(&woken[which], name);
}

/* ---- locks that inherit priorities ---- */

static struct lock {
    int wait_op;
    uint32_t word;
    uint32_t counter;
} locks[] = {
    {.wait_op = FUTEX_LOCK_PI_PRIVATE}, {.wait_op = FUTEX_LOCK_PI}, {.wait_op = FUTEX_LOCK_PI2}};
#define N_LOCKS   (sizeof locks / sizeof locks[0])
#define N_LOCKERS 2

static uint32_t own_tid(void)
{
    return (uint32_t)syscall(SYS_gettid);
}

static void unlock(struct lock *l)
{
    const int op = l->wait_op == FUTEX_LOCK_PI_PRIVATE ? FUTEX_UNLOCK_PI_PRIVATE : FUTEX_UNLOCK_PI;
    uint32_t own = own_tid();

    if (__atomic_compare_exchange_n(&l->word, &own, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return;
    CHECK((own & FUTEX_TID_MASK) == own_tid(), "the lock is %#x, its owner %#x", own, own_tid());
    CHECK(futex(&l->word, op, 0, NULL, NULL, 0) == 0, "FUTEX_UNLOCK_PI: %m");
}

static void *locker(void *arg)
{
    struct lock *l = arg;
    long n = futex(&l->word, l->wait_op, 0, NULL, NULL, 0);

    if (n == -1 && errno == ENOSYS) // before Linux 5.14
        n = futex(&l->word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    CHECK(n == 0, "FUTEX_LOCK_PI: %m");
    CHECK((__atomic_load_n(&l->word, __ATOMIC_SEQ_CST) & FUTEX_TID_MASK) == own_tid(),
          "the lock is not its own");
    l->counter++;
    unlock(l);
    return NULL;
}

/* ---- pthreads that use them ---- */

static pthread_mutex_t mutex;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int turn;

static void *wait_for_turn(void *arg)
{
    MUST(pthread_mutex_lock(&mutex) == 0);
    while (!turn)
        MUST(pthread_cond_wait(&condition, &mutex) == 0);
    turn++;
    MUST(pthread_mutex_unlock(&mutex) == 0);
    return NULL;
}

static void make_mutex(void)
{
    pthread_mutexattr_t attr;

    MUST(pthread_mutexattr_init(&attr) == 0);
    MUST(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT) == 0);
    MUST(pthread_mutex_init(&mutex, &attr) == 0);
}

static void nothing(int signo)
{
}

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = nothing};
    pthread_t lockers[N_LOCKS][N_LOCKERS], moved[2], plain, turns[2];

    subject_begin(argc, argv);
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED);
    make_mutex();
    for (size_t i = 0; i < N_LOCKS; i++) {
        locks[i].word = own_tid();
        for (size_t j = 0; j < N_LOCKERS; j++)
            MUST(pthread_create(&lockers[i][j], NULL, locker, &locks[i]) == 0);
    }
    MUST(pthread_create(&plain, NULL, wait_plain, NULL) == 0);
    for (size_t i = 0; i < 2; i++)
        MUST(pthread_create(&turns[i], NULL, wait_for_turn, NULL) == 0);
    if (!subject.argument) {
        MUST(pthread_create(&moved[0], NULL, wait_moved, private) == 0);
        move(private, FUTEX_PRIVATE_FLAG);
        MUST(pthread_create(&moved[1], NULL, wait_moved, shared) == 0);
        move(shared, 0);
    }
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        locks[0].word = 1;
    while (!subject_asked())
        subject_sleep_ms(5);

    for (size_t i = 0; i < N_LOCKS; i++) {
        CHECK(locks[i].counter == 0, "lock %zu was taken from its owner", i);
        unlock(&locks[i]);
        for (size_t j = 0; j < N_LOCKERS; j++)
            pthread_join(lockers[i][j], NULL);
        CHECK(locks[i].counter == N_LOCKERS && locks[i].word == 0, "lock %zu: %#x after %u", i,
              locks[i].word, locks[i].counter);
    }
    if (!subject.argument) {
        check_moved(private, FUTEX_PRIVATE_FLAG, 0, "a private waiter");
        check_moved(shared, 0, 1, "a shared waiter");
    }
    CHECK(!woken[2], "a plain waiter was woken");
    // A signal that comes before it waits again does not end the wait.
    AWAIT(__atomic_load_n(&woken[2], __ATOMIC_SEQ_CST) || pthread_kill(plain, SIGUSR1) != 0,
          "the plain waiter does not wake up");
    MUST(pthread_mutex_lock(&mutex) == 0);
    turn = 1;
    MUST(pthread_cond_broadcast(&condition) == 0);
    MUST(pthread_mutex_unlock(&mutex) == 0);
    for (size_t i = 0; i < 2; i++)
        pthread_join(turns[i], NULL);
    CHECK(turn == 3, "%d had their turn", turn - 1);
    subject_pass();
}
