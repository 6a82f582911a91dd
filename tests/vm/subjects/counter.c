// SPDX-License-Identifier: GPL-2.0-or-later
// Counts in user mode; its two accounts of the count must agree.
#include "subject.h"
#include <inttypes.h>

#define STEP 0x9e3779b97f4a7c15u

int main(int argc, char **argv)
{
    static volatile uint64_t in_memory;
    uint64_t count = 0, product = 0;

    subject_begin(argc, argv);
    subject_ready();
    do {
        for (unsigned i = 0; i < 2000000; i++) {
            // Opaque, or the compiler would count in one step.
            __asm__ volatile("" : "+r"(count), "+r"(product));
            count++;
            product += STEP;
            in_memory++;
            CHECK(product == count * STEP, "count %" PRIu64 ", but the sum says %" PRIx64 "", count,
                  product);
        }
        if (subject.sabotage)
            in_memory--;
        CHECK(in_memory == count, "count %" PRIu64 ", %" PRIu64 " in memory", count, in_memory);
    } while (!subject_asked());
    subject_pass();
}
