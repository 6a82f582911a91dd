// SPDX-License-Identifier: GPL-2.0-or-later
// A file mapped private with pages of its own, read only, with a hole in protection, and shared.
// The file is in both guests with the same contents.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "subject.h"

#define PAGE    4096u
#define N_PAGES 64u
#define TAIL    1000u // bytes of the file's last page
#define BYTES   ((N_PAGES - 1) * PAGE + TAIL)
#define MTIME   1700000000

static uint8_t *private, *readonly, *shared;
static int fd;
static uint64_t generation[N_PAGES]; // of the private mapping; 0: as in the file

static uint8_t byte_at(size_t n, uint64_t of)
{
    return (uint8_t)(subject_mix(n / 8 + (of << 32)) >> (n % 8 * 8));
}

static void path_of(char path[256])
{
    snprintf(path, 256, "%s/data", subject.workdir);
}

static void prepare(void)
{
    const struct timespec times[2] = {{.tv_sec = MTIME}, {.tv_sec = MTIME}};
    uint8_t data[PAGE];
    char path[256];

    path_of(path);
    MUST((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)) >= 0);
    for (size_t n = 0; n < BYTES; n += sizeof data) {
        const size_t part = BYTES - n < sizeof data ? BYTES - n : sizeof data;

        for (size_t i = 0; i < part; i++)
            data[i] = byte_at(n + i, 0);
        MUST(write(fd, data, part) == (ssize_t)part);
    }
    MUST(futimens(fd, times) == 0);
}

static void check_page(const uint8_t *map, size_t page, uint64_t of, const char *what)
{
    for (size_t n = page * PAGE; n < (page + 1) * PAGE; n++) {
        const uint8_t expected = n < BYTES || of ? byte_at(n, of) : 0;

        CHECK(map[n] == expected, "%s: byte %zu is %02x, not %02x", what, n, map[n], expected);
    }
}

static void write_private(size_t page)
{
    generation[page]++;
    for (size_t n = page * PAGE; n < (page + 1) * PAGE; n++)
    private[n] = byte_at(n, generation[page]);
}

static void set_up(void)
{
    char path[256];

    path_of(path);
    MUST((fd = open(path, O_RDWR)) >= 0);
    private = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    readonly = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(private != MAP_FAILED && readonly != MAP_FAILED && shared != MAP_FAILED);
    for (size_t page = 0; page < N_PAGES; page += 3)
        write_private(page);
    write_private(N_PAGES - 1); // behind the end of the file as well
    // Pages of our own below a hole, and one that is only readable.
    MUST(mprotect(private + 6 * PAGE, 3 * PAGE, PROT_NONE) == 0);
    MUST(mprotect(private + 12 * PAGE, PAGE, PROT_READ) == 0);
    // Dirty, yet the same as before.
    for (size_t page = 0; page < N_PAGES; page += 5)
        *(volatile uint8_t *)(shared + page * PAGE) = shared[page * PAGE];
    MUST(lseek(fd, 12345, SEEK_SET) == 12345);
}

static bool closed(size_t page)
{
    return page >= 6 && page < 9;
}

// What one sees through a shared mapping, all must see.
static void check_sharing(void)
{
    uint8_t byte, before;

    before = shared[7 * PAGE];
    shared[7 * PAGE] = (uint8_t)~before;
    CHECK(pread(fd, &byte, 1, 7 * PAGE) == 1 && byte == shared[7 * PAGE] && byte != before,
          "the file does not change");
    CHECK(readonly[7 * PAGE] == byte, "the read-only mapping does not change");
    shared[7 * PAGE] = before;
    CHECK(readonly[7 * PAGE] == before, "the read-only mapping does not change back");
}

int main(int argc, char **argv)
{
    uint64_t seed = 7;
    uint8_t byte;

    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    set_up();
    subject_ready();
    if (subject.sabotage)
    private[20 * PAGE] ^= 1;
    do {
        for (unsigned i = 0; i < 50; i++) {
            const size_t page = subject_random(&seed) % N_PAGES;

            if (closed(page))
                continue;
            check_page(private, page, generation[page], "private");
            check_page(readonly, page, 0, "read-only");
            check_page(shared, page, 0, "shared");
            if (generation[page] && page != 12)
                write_private(page);
        }
    } while (!subject_asked());
    MUST(mprotect(private + 6 * PAGE, 3 * PAGE, PROT_READ) == 0);
    for (size_t page = 0; page < N_PAGES; page++) {
        check_page(private, page, generation[page], "private");
        check_page(shared, page, 0, "shared");
    }
    CHECK(lseek(fd, 0, SEEK_CUR) == 12345, "position is %ld", lseek(fd, 0, SEEK_CUR));
    CHECK(read(fd, &byte, 1) == 1 && byte == byte_at(12345, 0), "the file reads %02x", byte);
    check_sharing();
    subject_pass();
}
