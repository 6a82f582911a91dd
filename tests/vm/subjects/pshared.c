// SPDX-License-Identifier: GPL-2.0-or-later
// What processes share of pthreads: mutexes, conditions, barriers, locks, semaphores in shared
// memory, each with somebody who waits for it; and robust mutexes whose owners die holding them.
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define EXIT_STATUS 7
#define AN_HOUR_S   3600

/* ---- mutexes ---- */

enum traits { PLAIN = 0, INHERITS = 1, ROBUST = 2, PRIVATE = 4 };

static void make_mutex(pthread_mutex_t *mutex, int traits)
{
    pthread_mutexattr_t attr;

    MUST(pthread_mutexattr_init(&attr) == 0);
    MUST(pthread_mutexattr_setpshared(&attr, !(traits & PRIVATE)) == 0);
    if (traits & ROBUST)
        MUST(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0);
    if (traits & INHERITS)
        MUST(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT) == 0);
    MUST(pthread_mutex_init(mutex, &attr) == 0);
}

/* ---- what there is to wait for, all of it shared and held by this process ---- */

static struct shared {
    pthread_mutex_t mutex, inheriting, of_condition;
    pthread_cond_t condition;
    int turn, turns;
    pthread_barrier_t barrier;
    pthread_rwlock_t written, read;
    sem_t semaphore;
} * shared;

static struct timespec in_an_hour(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_sec += AN_HOUR_S;
    return ts;
}

static int wait_mutex(void)
{
    return pthread_mutex_lock(&shared->mutex) || pthread_mutex_unlock(&shared->mutex);
}

static int wait_mutex_timed(void)
{
    const struct timespec ts = in_an_hour();

    return pthread_mutex_clocklock(&shared->mutex, CLOCK_MONOTONIC, &ts) ||
           pthread_mutex_unlock(&shared->mutex);
}

static int wait_inheriting(void)
{
    return pthread_mutex_lock(&shared->inheriting) || pthread_mutex_unlock(&shared->inheriting);
}

static int wait_turn(void)
{
    int error = pthread_mutex_lock(&shared->of_condition);

    while (!error && !shared->turn)
        error = pthread_cond_wait(&shared->condition, &shared->of_condition);
    shared->turns++;
    return error || pthread_mutex_unlock(&shared->of_condition);
}

static int wait_turn_timed(void)
{
    const struct timespec ts = in_an_hour();
    int error = pthread_mutex_lock(&shared->of_condition);

    while (!error && !shared->turn)
        error = pthread_cond_timedwait(&shared->condition, &shared->of_condition, &ts);
    shared->turns++;
    return error || pthread_mutex_unlock(&shared->of_condition);
}

static int wait_barrier(void)
{
    const int result = pthread_barrier_wait(&shared->barrier);

    return result != 0 && result != PTHREAD_BARRIER_SERIAL_THREAD;
}

static int wait_to_read(void)
{
    return pthread_rwlock_rdlock(&shared->written) || pthread_rwlock_unlock(&shared->written);
}

static int wait_to_write(void)
{
    return pthread_rwlock_wrlock(&shared->read) || pthread_rwlock_unlock(&shared->read);
}

static int wait_semaphore(void)
{
    return sem_wait(&shared->semaphore);
}

static int wait_semaphore_timed(void)
{
    const struct timespec ts = in_an_hour();

    return sem_clockwait(&shared->semaphore, CLOCK_MONOTONIC, &ts);
}

static struct waiter {
    const char *name;
    int (*wait)(void);
    pid_t pid;
} waiters[] = {
    {.name = "a mutex", .wait = wait_mutex},
    {.name = "a mutex, for an hour", .wait = wait_mutex_timed},
    {.name = "a mutex that inherits priorities", .wait = wait_inheriting},
    {.name = "a condition", .wait = wait_turn},
    {.name = "a condition, for an hour", .wait = wait_turn_timed},
    {.name = "a barrier", .wait = wait_barrier},
    {.name = "a barrier, too", .wait = wait_barrier},
    {.name = "a lock, to read", .wait = wait_to_read},
    {.name = "a lock, to write", .wait = wait_to_write},
    {.name = "a semaphore", .wait = wait_semaphore},
    {.name = "a semaphore, for an hour", .wait = wait_semaphore_timed},
};
#define N_WAITERS (sizeof waiters / sizeof waiters[0])
#define N_BARRIER 3 // two of them and this process
#define N_TURNS   2
#define N_POSTS   2

static void *map_shared(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    MUST(memory != MAP_FAILED);
    return memory;
}

static void make_shared(void)
{
    pthread_condattr_t condition;
    pthread_barrierattr_t barrier;
    pthread_rwlockattr_t lock;

    shared = map_shared(sizeof *shared);
    make_mutex(&shared->mutex, PLAIN);
    make_mutex(&shared->inheriting, INHERITS);
    make_mutex(&shared->of_condition, PLAIN);
    MUST(pthread_condattr_init(&condition) == 0);
    MUST(pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED) == 0);
    MUST(pthread_condattr_setclock(&condition, CLOCK_MONOTONIC) == 0);
    MUST(pthread_cond_init(&shared->condition, &condition) == 0);
    MUST(pthread_barrierattr_init(&barrier) == 0);
    MUST(pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED) == 0);
    MUST(pthread_barrier_init(&shared->barrier, &barrier, N_BARRIER) == 0);
    MUST(pthread_rwlockattr_init(&lock) == 0);
    MUST(pthread_rwlockattr_setpshared(&lock, PTHREAD_PROCESS_SHARED) == 0);
    MUST(pthread_rwlock_init(&shared->written, &lock) == 0);
    MUST(pthread_rwlock_init(&shared->read, &lock) == 0);
    MUST(sem_init(&shared->semaphore, 1, 0) == 0);

    MUST(pthread_mutex_lock(&shared->mutex) == 0 && pthread_mutex_lock(&shared->inheriting) == 0);
    MUST(pthread_rwlock_wrlock(&shared->written) == 0 && pthread_rwlock_rdlock(&shared->read) == 0);
}

static void make_waiter(struct waiter *w)
{
    MUST((w->pid = fork()) >= 0);
    if (w->pid == 0)
        _exit(w->wait() ? 1 : EXIT_STATUS);
}

static void release_all(void)
{
    MUST(pthread_mutex_unlock(&shared->mutex) == 0);
    MUST(pthread_mutex_unlock(&shared->inheriting) == 0);
    MUST(pthread_mutex_lock(&shared->of_condition) == 0);
    shared->turn = 1;
    MUST(pthread_cond_broadcast(&shared->condition) == 0);
    MUST(pthread_mutex_unlock(&shared->of_condition) == 0);
    MUST(wait_barrier() == 0);
    MUST(pthread_rwlock_unlock(&shared->written) == 0);
    MUST(pthread_rwlock_unlock(&shared->read) == 0);
    for (int i = 0; i < N_POSTS; i++)
        MUST(sem_post(&shared->semaphore) == 0);
}

static void check_ended(const char *name, pid_t pid)
{
    int status;

    AWAIT(waitpid(pid, &status, WNOHANG) == pid, "%s: the wait does not end", name);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_STATUS, "%s: status %#x", name,
          (unsigned)status);
}

/* ---- robust mutexes ---- */

// When its owner dies: with its process or alone, before the move or after it. Each owner holds
// two.
static struct robust {
    const char *name;
    int traits;
    bool by_process, before;
    pthread_mutex_t *mutexes; // two, shared
    pthread_t owner, heir;
    pid_t process, heir_tid;
    bool taken;
} robusts[] = {
    {.name = "a thread's mutex", .traits = ROBUST | PRIVATE},
    {.name = "a thread's mutex that inherits priorities", .traits = ROBUST | PRIVATE | INHERITS},
    {.name = "a thread's shared mutex", .traits = ROBUST},
    {.name = "a process's mutex", .traits = ROBUST, .by_process = true},
    {.name = "a process's mutex that inherits priorities",
     .traits = ROBUST | INHERITS,
     .by_process = true},
    {.name = "a dead thread's mutex", .traits = ROBUST | PRIVATE, .before = true},
    {.name = "a dead process's mutex", .traits = ROBUST, .by_process = true, .before = true},
    {.name = "a dead process's mutex that inherits priorities",
     .traits = ROBUST | INHERITS,
     .by_process = true,
     .before = true},
};
#define N_ROBUSTS (sizeof robusts / sizeof robusts[0])

static bool *owners_end;         // shared
static pthread_mutex_t hopeless; // its owner died, and who came next did not repair it

static void take_both(const struct robust *r)
{
    for (int i = 0; i < 2; i++)
        MUST(pthread_mutex_lock(&r->mutexes[i]) == 0);
}

static bool is_held(pthread_mutex_t *mutex)
{
    const int error = pthread_mutex_trylock(mutex);

    if (error == 0)
        MUST(pthread_mutex_unlock(mutex) == 0);
    return error == EBUSY;
}

static void *own(void *arg)
{
    const struct robust *r = arg;

    take_both(r);
    while (!r->before && !__atomic_load_n(owners_end, __ATOMIC_SEQ_CST))
        subject_sleep_ms(5);
    return NULL; // and holds them still
}

static void find_dead_owner(const struct robust *r, pthread_mutex_t *mutex)
{
    const int error = pthread_mutex_lock(mutex);

    CHECK(error == EOWNERDEAD, "%s: its heir finds %s", r->name, strerror(error));
    MUST(pthread_mutex_consistent(mutex) == 0 && pthread_mutex_unlock(mutex) == 0);
    MUST(pthread_mutex_lock(mutex) == 0 && pthread_mutex_unlock(mutex) == 0);
}

// Waits for the first; the second has nobody who waits.
static void *inherit(void *arg)
{
    struct robust *r = arg;

    __atomic_store_n(&r->heir_tid, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    find_dead_owner(r, &r->mutexes[0]);
    __atomic_store_n(&r->taken, true, __ATOMIC_SEQ_CST);
    return NULL;
}

static void end_owner(const struct robust *r)
{
    if (!r->by_process) {
        pthread_join(r->owner, NULL);
        return;
    }
    MUST(kill(r->process, SIGKILL) == 0);
    MUST(waitpid(r->process, NULL, 0) == r->process);
}

static void make_robust(struct robust *r)
{
    r->mutexes = map_shared(2 * sizeof *r->mutexes);
    for (int i = 0; i < 2; i++)
        make_mutex(&r->mutexes[i], r->traits);
    if (!r->by_process) {
        MUST(pthread_create(&r->owner, NULL, own, r) == 0);
    } else if ((r->process = fork()) == 0) {
        take_both(r);
        for (;;)
            pause();
    }
    if (r->by_process || !r->before)
        AWAIT(is_held(&r->mutexes[1]), "%s is not taken", r->name);
    if (r->before)
        end_owner(r);
    else
        MUST(pthread_create(&r->heir, NULL, inherit, r) == 0);
}

static void check_robust(const struct robust *r)
{
    if (r->before) {
        find_dead_owner(r, &r->mutexes[0]);
    } else {
        end_owner(r);
        pthread_join(r->heir, NULL);
    }
    find_dead_owner(r, &r->mutexes[1]);
}

static void *die_holding(void *arg)
{
    MUST(pthread_mutex_lock(arg) == 0);
    return NULL;
}

static void make_hopeless(void)
{
    pthread_t thread;

    make_mutex(&hopeless, ROBUST | PRIVATE);
    MUST(pthread_create(&thread, NULL, die_holding, &hopeless) == 0);
    pthread_join(thread, NULL);
    MUST(pthread_mutex_lock(&hopeless) == EOWNERDEAD && pthread_mutex_unlock(&hopeless) == 0);
}

/* ---- what the kernel knows of their lists ---- */

struct list {
    void *head;
    size_t bytes;
};

static struct list list_of(pid_t tid)
{
    struct list list;

    MUST(syscall(SYS_get_robust_list, tid, &list.head, &list.bytes) == 0);
    return list;
}

static struct list lists[N_ROBUSTS], own_list;

static void check_list(const char *name, pid_t tid, struct list want)
{
    const struct list list = list_of(tid);

    CHECK(list.head == want.head && list.bytes == want.bytes,
          "%s: a list at %p of %zu, not %p of %zu", name, list.head, list.bytes, want.head,
          want.bytes);
}

static pid_t tid_of(const struct robust *r)
{
    return r->by_process ? r->process : r->heir_tid;
}

static void set_up(void)
{
    owners_end = map_shared(1);
    make_shared();
    make_hopeless();
    for (size_t i = 0; i < N_ROBUSTS; i++)
        make_robust(&robusts[i]);
    for (size_t i = 0; i < N_WAITERS; i++)
        make_waiter(&waiters[i]);
    for (size_t i = 0; i < N_WAITERS; i++)
        subject_await_call(waiters[i].pid, SYS_futex);
    own_list = list_of(0);
    for (size_t i = 0; i < N_ROBUSTS; i++) {
        if (robusts[i].before)
            continue;
        AWAIT(__atomic_load_n(&robusts[i].heir_tid, __ATOMIC_SEQ_CST), "no heir");
        subject_await_call(robusts[i].heir_tid, SYS_futex);
        lists[i] = list_of(tid_of(&robusts[i]));
    }
}

static void check_all_wait(void)
{
    check_list("own", 0, own_list);
    for (size_t i = 0; i < N_WAITERS; i++)
        CHECK(waitpid(waiters[i].pid, NULL, WNOHANG) == 0, "%s: the wait is over too early",
              waiters[i].name);
    for (size_t i = 0; i < N_ROBUSTS; i++) {
        if (robusts[i].before)
            continue;
        CHECK(!__atomic_load_n(&robusts[i].taken, __ATOMIC_SEQ_CST), "%s is taken too early",
              robusts[i].name);
        check_list(robusts[i].name, tid_of(&robusts[i]), lists[i]);
    }
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    set_up();
    subject_ready();
    if (subject.sabotage)
        MUST(kill(waiters[0].pid, SIGKILL) == 0);
    while (!subject_asked())
        subject_sleep_ms(5);
    check_all_wait();
    release_all();
    for (size_t i = 0; i < N_WAITERS; i++)
        check_ended(waiters[i].name, waiters[i].pid);
    CHECK(shared->turns == N_TURNS, "%d had their turn", shared->turns);
    __atomic_store_n(owners_end, true, __ATOMIC_SEQ_CST);
    for (size_t i = 0; i < N_ROBUSTS; i++)
        check_robust(&robusts[i]);
    CHECK(pthread_mutex_lock(&hopeless) == ENOTRECOVERABLE, "what was lost can be had");
    CHECK(wait(NULL) == -1 && errno == ECHILD, "there are more children: %m");
    subject_pass();
}
