// SPDX-License-Identifier: GPL-2.0-or-later
// Four threads that hand a turn round by mutex and condition, and meet at a barrier.
#include <inttypes.h>
#include <pthread.h>

#include "subject.h"

#define N       4
#define A_ROUND 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static unsigned turn;
static uint64_t turns, taken[N], rounds[N];
static bool stop;
static __thread uint64_t own_turns;

// Some work between the turns, or hardly a moment would find all threads outside of the kernel.
static void work_a_little(void)
{
    static __thread uint64_t state = 1;

    for (unsigned i = 0; i < 20000; i++)
        subject_random(&state);
    CHECK(state == 1 + own_turns * 20000 * 0x9e3779b97f4a7c15, "a thread lost what it computed");
}

static void take_turn(unsigned me)
{
    pthread_mutex_lock(&lock);
    while (turn != me)
        pthread_cond_wait(&turned, &lock);
    CHECK(turns % N == me, "turn %" PRIu64 " is not thread %u's", turns, me);
    turns++;
    taken[me]++;
    own_turns++;
    turn = (turn + 1) % N;
    pthread_cond_broadcast(&turned);
    pthread_mutex_unlock(&lock);
}

static void *work(void *arg)
{
    const unsigned me = (unsigned)(uintptr_t)arg;
    bool last;

    do {
        for (unsigned i = 0; i < A_ROUND; i++) {
            take_turn(me);
            work_a_little();
        }
        CHECK(own_turns == taken[me],
              "thread %u took %" PRIu64 " turns, and %" PRIu64 " by its own count", me, taken[me],
              own_turns);
        rounds[me]++;
        pthread_barrier_wait(&barrier);
        // Here all stand still: everyone may look at everything.
        for (unsigned i = 0; i < N; i++)
            CHECK(rounds[i] == rounds[me],
                  "thread %u is in round %" PRIu64 ", thread %u in %" PRIu64 "", i, rounds[i], me,
                  rounds[me]);
        last = stop;
        pthread_barrier_wait(&barrier);
        if (me == 0)
            __atomic_store_n(&stop, subject_asked(), __ATOMIC_SEQ_CST);
        pthread_barrier_wait(&barrier);
    } while (!last);
    return arg;
}

int main(int argc, char **argv)
{
    pthread_t threads[N];

    subject_begin(argc, argv);
    pthread_barrier_init(&barrier, NULL, N);
    for (uintptr_t i = 0; i < N; i++)
        MUST(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    subject_ready();
    if (subject.sabotage) {
        pthread_mutex_lock(&lock);
        taken[2]++;
        pthread_mutex_unlock(&lock);
    }
    for (uintptr_t i = 0; i < N; i++) {
        void *result;

        CHECK(pthread_join(threads[i], &result) == 0 && result == (void *)i,
              "thread %zu ended wrongly", (size_t)i);
    }
    CHECK(turns == taken[0] + taken[1] + taken[2] + taken[3], "%" PRIu64 " turns in all", turns);
    subject_pass();
}
