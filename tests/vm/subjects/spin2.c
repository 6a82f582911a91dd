// SPDX-License-Identifier: GPL-2.0-or-later
// Two threads that spin in user mode and check each other's count.
#include <pthread.h>

#include "subject.h"

static volatile uint64_t count[2], shadow[2];
static volatile bool stop;

static void *spin(void *arg)
{
    const unsigned me = arg != NULL;
    uint64_t seen = 0;

    while (!stop) {
        const uint64_t next = count[me] + 1;
        uint64_t other;

        // Written in this order, so a reader may find the shadow behind by one, never ahead.
        count[me] = next;
        __asm__ volatile("" ::: "memory");
        shadow[me] = subject_mix(next);
        other = count[!me];
        CHECK(other >= seen, "count of the other went from %lu to %lu", seen, other);
        seen = other;
        CHECK(shadow[me] == subject_mix(count[me]), "count %lu without its shadow", count[me]);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[2];

    subject_begin(argc, argv);
    MUST(pthread_create(&threads[0], NULL, spin, NULL) == 0);
    MUST(pthread_create(&threads[1], NULL, spin, &threads) == 0);
    subject_ready();
    while (!subject_asked()) {
        subject_sleep_ms(20);
        if (subject.sabotage)
            count[1] -= 1000000;
    }
    stop = true;
    for (unsigned i = 0; i < 2; i++) {
        MUST(pthread_join(threads[i], NULL) == 0);
        CHECK(shadow[i] == subject_mix(count[i]), "last count %lu without its shadow", count[i]);
    }
    subject_pass();
}
