// SPDX-License-Identifier: GPL-2.0-or-later
// Patterned memory of all kinds: 4 KiB and huge pages, zero, untouched, forbidden, shared.
// Argument: MiB in all (default 64).
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "subject.h"

#define PAGE       4096ul
#define WORDS      (PAGE / 8)
#define HUGE_BYTES (2ul << 20)

enum content { UNTOUCHED, ZEROED, PATTERN, DROPPED, N_CONTENTS };

static uint8_t *memory; // `n_pages` pages, of which the first half asks for huge pages
static uint8_t *pages;  // per page: generation << 2 | enum content
static size_t n_pages;
static uint64_t *shared; // anonymous, MAP_SHARED
static uint8_t *forbidden;
static uint64_t seed = 42;

static uint64_t word(size_t page, size_t i)
{
    return (page * WORDS + i + 1) * 0x9e3779b97f4a7c15 + pages[page];
}

static void write_page(size_t page)
{
    uint64_t *words = (uint64_t *)(memory + page * PAGE);

    for (size_t i = 0; i < WORDS; i++)
        words[i] = word(page, i);
}

static void check_page(size_t page)
{
    const uint64_t *words = (const uint64_t *)(memory + page * PAGE);
    const bool pattern = (pages[page] & 3) == PATTERN;

    for (size_t i = 0; i < WORDS; i++)
        CHECK(words[i] == (pattern ? word(page, i) : 0), "page %zu, word %zu is %lx, not %lx", page,
              i, words[i], pattern ? word(page, i) : 0);
}

static void fill(void)
{
    for (size_t page = 0; page < n_pages; page++) {
        uint64_t dice = subject_random(&seed) % 16;

        // Seven in eight pages of the huge part have contents, or nothing would stay huge.
        pages[page] = dice < 2 ? (uint8_t)(dice * 3) : PATTERN;
        if (page >= n_pages / 2 && dice < 6)
            pages[page] = (uint8_t)(dice % N_CONTENTS);
        if ((pages[page] & 3) == UNTOUCHED)
            continue;
        write_page(page);
        if ((pages[page] & 3) == ZEROED)
            memset(memory + page * PAGE, 0, PAGE);
        else if ((pages[page] & 3) == DROPPED)
            MUST(madvise(memory + page * PAGE, PAGE, MADV_DONTNEED) == 0);
    }
}

static void allocate(size_t bytes)
{
    uint8_t *raw;

    // Ends of areas that differ in nothing but advice must not be taken for one.
    raw =
        mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(raw != MAP_FAILED);
    memory = (uint8_t *)(((uintptr_t)raw + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1));
    n_pages = bytes / PAGE;
    MUST(madvise(memory, bytes / 2, MADV_HUGEPAGE) == 0);
    MUST(madvise(memory + bytes / 2, bytes / 2, MADV_NOHUGEPAGE) == 0);
    pages = calloc(n_pages, 1);
    MUST(pages);
    shared = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED);
    for (size_t i = 0; i < 8 * WORDS; i++)
        shared[i] = subject_mix(i);
    // Written, then closed to all access; the last page stays readable.
    forbidden = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(forbidden != MAP_FAILED);
    memset(forbidden, 0x5a, 4 * PAGE);
    MUST(mprotect(forbidden, 3 * PAGE, PROT_NONE) == 0);
    MUST(mprotect(forbidden + 3 * PAGE, PAGE, PROT_READ) == 0);
}

// The kernel refuses to read from, or write to, what we may not.
static void check_protection(const int pipe_ends[2])
{
    CHECK(write(pipe_ends[1], forbidden, 1) == -1, "forbidden page can be read");
    CHECK(write(pipe_ends[1], forbidden + 3 * PAGE, 1) == 1, "read-only page cannot be read");
    CHECK(read(pipe_ends[0], forbidden + 3 * PAGE, 1) == -1, "read-only page can be written");
}

static void check_all(void)
{
    int ends[2];

    for (size_t page = 0; page < n_pages; page++)
        check_page(page);
    for (size_t i = 0; i < 16 * WORDS; i++)
        CHECK(shared[i] == (i < 8 * WORDS ? subject_mix(i) : 0), "shared word %zu is %lx", i,
              shared[i]);
    MUST(pipe2(ends, O_NONBLOCK) == 0);
    check_protection(ends);
    close(ends[0]);
    close(ends[1]);
    MUST(mprotect(forbidden, 3 * PAGE, PROT_READ) == 0);
    for (size_t i = 0; i < 4 * PAGE; i++)
        CHECK(forbidden[i] == 0x5a, "forbidden byte %zu is %02x", i, forbidden[i]);
}

int main(int argc, char **argv)
{
    size_t mib;

    subject_begin(argc, argv);
    mib = subject.argument ? strtoul(subject.argument, NULL, 10) : 64;
    allocate(mib << 20);
    fill();
    subject_ready();
    if (subject.sabotage)
        memory[(n_pages - 1) * PAGE + 77] ^= 0x10;
    do {
        for (unsigned i = 0; i < 500; i++) {
            const size_t page = subject_random(&seed) % n_pages;

            check_page(page);
            if ((pages[page] & 3) == PATTERN) {
                pages[page] = (uint8_t)(pages[page] + 4);
                write_page(page);
            }
        }
    } while (!subject_asked());
    check_all();
    subject_pass();
}
