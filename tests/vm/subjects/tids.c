// SPDX-License-Identifier: GPL-2.0-or-later
// What kernel and C library share for each thread: tid address, robust list, rseq area.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#define N 3

static pthread_mutex_t robust, go = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gone = PTHREAD_COND_INITIALIZER;
static volatile bool leave;
static volatile unsigned n_set_up;

struct facts {
    pid_t tid;
    void *robust_list;
    size_t robust_bytes;
};

static struct facts look(void)
{
    struct facts f = {.tid = (pid_t)syscall(SYS_gettid)};

    MUST(syscall(SYS_get_robust_list, 0, &f.robust_list, &f.robust_bytes) == 0);
    return f;
}

static void compare(const struct facts *old)
{
    const struct facts now = look();

    CHECK(now.tid == old->tid, "tid is %d, not %d", now.tid, old->tid);
    CHECK(now.robust_list == old->robust_list && now.robust_bytes == old->robust_bytes,
          "thread %d: robust list at %p, not %p", now.tid, now.robust_list, old->robust_list);
}

// The kernel writes the CPU into the area each time the thread gets one.
static void check_rseq(void)
{
    volatile struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    cpu_set_t all, one;
    unsigned cpu;

    CHECK(__rseq_size > 0, "the C library has not registered rseq");
    MUST(sched_getaffinity(0, sizeof all, &all) == 0);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &all))
            continue;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        MUST(sched_setaffinity(0, sizeof one, &one) == 0);
        MUST(syscall(SYS_getcpu, &cpu, NULL, NULL) == 0);
        CHECK(area->cpu_id == cpu && area->cpu_id_start == cpu, "CPU %u, rseq says %u", cpu,
              area->cpu_id);
        CHECK(area->rseq_cs == 0, "a critical section is left over");
    }
    MUST(sched_setaffinity(0, sizeof all, &all) == 0);
}

// Waits, checks itself, and ends holding the robust mutex where it is thread 0.
static void *work(void *arg)
{
    const struct facts facts = look();
    const bool holder = arg == NULL;

    if (holder)
        MUST(pthread_mutex_lock(&robust) == 0);
    __atomic_add_fetch(&n_set_up, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&go);
    while (!leave) {
        const struct timespec never = {.tv_sec =
                                           (time_t)(subject_now(CLOCK_REALTIME) / NS_PER_S) + 3600};

        pthread_cond_timedwait(&gone, &go, &never);
    }
    pthread_mutex_unlock(&go);
    compare(&facts);
    check_rseq();
    return (void *)(intptr_t)facts.tid;
}

int main(int argc, char **argv)
{
    pthread_mutexattr_t attributes;
    const struct facts facts = look();
    pthread_t threads[N];

    subject_begin(argc, argv);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    for (uintptr_t i = 0; i < N; i++)
        MUST(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    while (n_set_up < N)
        sched_yield();
    subject_ready();
    do {
        compare(&facts);
        check_rseq();
        CHECK(pthread_mutex_trylock(&robust) == EBUSY, "the held mutex can be had");
        if (subject.sabotage)
            MUST(syscall(SYS_set_robust_list, (char *)facts.robust_list + 8, facts.robust_bytes) ==
                 0);
    } while (!subject_asked());
    compare(&facts);
    pthread_mutex_lock(&go);
    leave = true;
    pthread_cond_broadcast(&gone);
    pthread_mutex_unlock(&go);
    for (unsigned i = 0; i < N; i++) {
        void *tid = NULL;

        CHECK(pthread_join(threads[i], &tid) == 0 && (intptr_t)tid > facts.tid,
              "join of %u gives %d", i, (int)(intptr_t)tid);
    }
    // Its holder is dead, which the kernel alone knows.
    CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD, "the dead holder was not noticed");
    subject_pass();
}
