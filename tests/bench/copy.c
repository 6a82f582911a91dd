// SPDX-License-Identifier: GPL-2.0-or-later
// How long one memcpy of so many MiB takes: copy MIB
//
// Prints milliseconds: into memory that has been touched before, and into memory that has not (each
// page then costs a fault). The median of several. The source has been touched in either case.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define TIMES 5

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static uint8_t *map(size_t bytes)
{
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        exit(1);
    return at;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

// The median time of copying to a new mapping each time.
static double copy_ms(const uint8_t *from, size_t bytes, int touched)
{
    double took[TIMES];

    for (int i = 0; i < TIMES; i++) {
        uint8_t *to = map(bytes);
        double begin;

        if (touched)
            memset(to, 1, bytes);
        begin = now_ms();
        memcpy(to, from, bytes);
        __asm__ volatile("" ::"r"(to) : "memory");
        took[i] = now_ms() - begin;
        munmap(to, bytes);
    }
    qsort(took, TIMES, sizeof took[0], compare);
    return took[TIMES / 2];
}

int main(int argc, char **argv)
{
    const size_t bytes = argc == 2 ? strtoul(argv[1], NULL, 10) << 20 : 0;
    uint8_t *from;

    if (bytes == 0) {
        fprintf(stderr, "usage: %s MIB\n", argv[0]);
        return 2;
    }
    from = map(bytes);
    memset(from, 0x5a, bytes);
    printf("%.3f %.3f\n", copy_ms(from, bytes, 1), copy_ms(from, bytes, 0));
    return 0;
}
