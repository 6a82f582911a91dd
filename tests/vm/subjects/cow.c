// SPDX-License-Identifier: GPL-2.0-or-later
// Pages that a tree of processes shares since its forks: what each finds in them, and that the same
// ones share the same frames again.
// Arguments: "huge": with transparent huge pages, "big": much memory, many children.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smaps.h"
#include "subject.h"

#define PAGE      4096ul
#define HUGE      (2ul << 20)
#define WORDS     (PAGE / 8)
#define MAX_PAGES (100ul << 8)
#define MAX_PROCS 16
#define KIB_SLACK 2048

// Of the program's file: private once it has been written.
static uint8_t of_file[512 * 4096] = {1};

static struct region {
    uint8_t *at;
    size_t n_pages;
    uint8_t version[MAX_PAGES]; // 0: untouched
} regions[3];
#define N_REGIONS (sizeof regions / sizeof regions[0])

// Memory that all of them share.
static struct common {
    pid_t pids[MAX_PROCS];
    atomic_uint n_ready, n_done, n_checked;
    atomic_bool quit;
} * common;
static unsigned self; // index among the processes

static uint64_t word(size_t region, size_t page, unsigned version, size_t i)
{
    return (subject_mix(region << 40 | page << 8 | version) + i) * (version != 0);
}

static void fill(size_t region, size_t page, unsigned version)
{
    struct region *r = &regions[region];
    uint64_t *words = (uint64_t *)(r->at + page * PAGE);

    r->version[page] = version;
    for (size_t i = 0; i < WORDS; i++)
        words[i] = word(region, page, version, i);
}

// Every n-th page from `first` on.
static void fill_some(size_t region, size_t first, size_t n, unsigned version)
{
    for (size_t page = first; page < regions[region].n_pages; page += n)
        fill(region, page, version);
}

static bool is_filled(size_t region, size_t page)
{
    const struct region *r = &regions[region];
    const uint64_t *words = (const uint64_t *)(r->at + page * PAGE);
    const unsigned version = r->version[page];

    // What nobody has written to is read as well: that gives it no frame of its own.
    for (size_t i = 0; i < WORDS; i++)
        if (words[i] != word(region, page, version, i))
            return false;
    return true;
}

static void check_pages(size_t step, size_t from)
{
    for (size_t i = 0; i < N_REGIONS; i++)
        for (size_t page = from % step; page < regions[i].n_pages; page += step)
            CHECK(!regions[i].version[page] || is_filled(i, page),
                  "process %u: page %zu of region %zu is not version %u", self, page, i,
                  regions[i].version[page]);
}

/* ---- the processes ---- */

static void *toil(void *unused)
{
    (void)unused;
    for (;;)
        pause();
    return NULL;
}

static void add_thread(void)
{
    pthread_t thread;

    MUST(pthread_create(&thread, NULL, toil, NULL) == 0);
}

static _Noreturn void live(void)
{
    smaps_remember();
    atomic_fetch_add(&common->n_ready, 1);
    for (size_t i = 0; !atomic_load(&common->quit); i++) {
        check_pages(256, i);
        subject_sleep_ms(10);
    }
    smaps_check();
    check_pages(1, 0);
    for (size_t i = 0; i < N_REGIONS; i++)
        for (size_t page = 0; page < regions[i].n_pages; page++)
            CHECK(is_filled(i, page), "process %u: page %zu of region %zu", self, page, i);
    MUST(mprotect(regions[0].at, regions[0].n_pages * PAGE, PROT_READ | PROT_WRITE) == 0);
    // Nobody sees what one of them writes.
    atomic_fetch_add(&common->n_checked, 1);
    while (atomic_load(&common->n_checked) < atomic_load(&common->n_ready))
        subject_sleep_ms(2);
    fill_some(0, 0, 5, 200 + self);
    fill_some(1, 1, 5, 200 + self);
    atomic_fetch_add(&common->n_done, 1);
    while (atomic_load(&common->n_done) < atomic_load(&common->n_ready))
        subject_sleep_ms(2);
    check_pages(1, 0);
    _exit(0);
}

// Returns true in the child.
static bool bear(unsigned index)
{
    const pid_t pid = fork();

    MUST(pid >= 0);
    if (pid == 0)
        self = index;
    else
        common->pids[index] = pid;
    return pid == 0;
}

static void await(atomic_uint *count, unsigned n)
{
    while (atomic_load(count) < n)
        subject_sleep_ms(2);
}

static unsigned make_tree(void)
{
    for (size_t i = 0; i < N_REGIONS; i++)
        fill_some(i, 0, i == 2 ? 3 : 1, 1); // the last is sparse
    if (bear(1)) {                          // as it was, with a generation below
        fill_some(0, 1, 8, 10);
        if (bear(2)) {
            fill_some(0, 2, 8, 20);
            if (bear(3))
                live();
            add_thread();
            live();
        }
        await(&common->n_ready, 2);
        live();
    }
    await(&common->n_ready, 3);
    if (bear(4)) // looks on
        live();
    await(&common->n_ready, 4);
    fill_some(0, 3, 8, 2);
    fill_some(0, 4, 8, 2);
    fill_some(1, 0, 2, 2);
    if (bear(5)) { // after the parent has written; protects a part
        MUST(mprotect(regions[0].at + 16 * PAGE, 8 * PAGE, PROT_READ) == 0);
        live();
    }
    await(&common->n_ready, 5);
    fill_some(0, 4, 8, 3);
    if (bear(6)) { // elsewhere
        struct region *r = &regions[0];
        uint8_t *to = mmap(NULL, r->n_pages * PAGE, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        MUST(to != MAP_FAILED && mremap(r->at, r->n_pages * PAGE, r->n_pages * PAGE,
                                        MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
        r->at = to;
        live();
    }
    await(&common->n_ready, 6);
    fill_some(0, 7, 16, 4); // nobody else has these
    return 6;
}

static unsigned make_many(void)
{
    fill_some(0, 0, 1, 1);
    for (unsigned i = 1; i <= 10; i++) {
        if (bear(i)) {
            fill_some(0, i, 64, 100 + i);
            live();
        }
        await(&common->n_ready, i);
    }
    return 10;
}

/* ---- who has which frame ---- */

#define PRESENT (1ull << 63) // of an entry of pagemap
#define SWAPPED (1ull << 62) // or just being moved to another frame
#define FRAME   ((1ull << 55) - 1)

static uint64_t entries[2][MAX_PROCS][MAX_PAGES];

static void read_entries(unsigned n, const struct region *r, uint64_t (*ret)[MAX_PAGES])
{
    const size_t bytes = r->n_pages * sizeof **ret;
    char path[40];

    for (unsigned p = 0; p <= n; p++) {
        snprintf(path, sizeof path, "/proc/%d/pagemap", common->pids[p]);
        const int fd = open(path, O_RDONLY | O_CLOEXEC);

        MUST(fd >= 0);
        for (size_t done = 0; done < bytes;) {
            const ssize_t some = pread(fd, (uint8_t *)ret[p] + done, bytes - done,
                                       (off_t)((uintptr_t)r->at / PAGE * sizeof **ret + done));

            MUST(some > 0);
            done += some;
        }
        close(fd);
    }
}

static bool is_settled(unsigned n, size_t n_pages)
{
    for (unsigned p = 0; p <= n; p++)
        for (size_t page = 0; page < n_pages; page++)
            if ((entries[0][p][page] ^ entries[1][p][page]) & (PRESENT | FRAME) ||
                entries[1][p][page] & SWAPPED)
                return false;
    return true;
}

// The kernel may move a page to another frame while one after the other is asked for it.
static void read_frames(unsigned n, const struct region *r)
{
    do {
        read_entries(n, r, entries[0]);
        read_entries(n, r, entries[1]);
    } while (!is_settled(n, r->n_pages));
}

static uint64_t frame_of(unsigned process, size_t page)
{
    const uint64_t entry = entries[1][process][page];

    return entry & PRESENT ? entry & FRAME : 0;
}

// For each page and process the first one that has the same frame.
static uint8_t sharing[N_REGIONS][MAX_PAGES][MAX_PROCS];

static void look(unsigned n, bool compare)
{
    for (size_t i = 0; i < N_REGIONS; i++) {
        read_frames(n, &regions[i]);
        for (size_t page = 0; page < regions[i].n_pages; page++) {
            uint64_t frames[MAX_PROCS];

            for (unsigned p = 0; regions[i].version[page] && p <= n; p++) {
                unsigned first = 0;

                frames[p] = frame_of(p, page);
                while (frames[first] != frames[p])
                    first++;
                // One has it elsewhere.
                if (frames[p] == 0)
                    first = MAX_PROCS;
                CHECK(!compare || first == sharing[i][page][p],
                      "page %zu of region %zu: process %u shares it with %u, not with %u", page, i,
                      p, first, sharing[i][page][p]);
                sharing[i][page][p] = first;
            }
        }
    }
}

static unsigned long memory_kib(unsigned n)
{
    unsigned long sum = 0, kib;

    for (unsigned i = 0; i <= n; i++) {
        char path[40], line[200];
        bool rollup_has_it = false;

        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", common->pids[i]);
        FILE *f = fopen(path, "re");
        MUST(f);
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "Pss_Anon: %lu", &kib) == 1) {
                sum += kib;
                rollup_has_it = true;
            }
        MUST(rollup_has_it);
        fclose(f);
    }
    return sum;
}

static uint8_t *map(size_t bytes, int advice)
{
    uint8_t *at =
        mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    MUST(at != MAP_FAILED);
    at += HUGE - (uintptr_t)at % HUGE;
    madvise(at, bytes, advice);
    return at;
}

/* ---- pages that lie far apart where huge ones may be ---- */

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

static uint8_t *sparse;
enum { N_SPARSE = 4 };

// In a guest with little memory they are off. Nobody is to fill what lies between pages.
static void prepare(void)
{
    char enabled[64] = "";
    const int fd = open(THP_DIR "enabled", O_RDWR | O_CLOEXEC);
    const int collapse = open(THP_DIR "khugepaged/max_ptes_none", O_WRONLY | O_CLOEXEC);

    MUST(fd >= 0 && read(fd, enabled, sizeof enabled - 1) > 0);
    MUST(!strstr(enabled, "[never]") || write(fd, "madvise", 7) == 7);
    MUST(collapse >= 0 && write(collapse, "0", 1) == 1);
}

static unsigned count_sparse(void)
{
    static uint64_t present[N_SPARSE * HUGE / PAGE];
    const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    unsigned n = 0;

    MUST(fd >= 0 && pread(fd, present, sizeof present,
                          (off_t)((uintptr_t)sparse / PAGE * sizeof present[0])) == sizeof present);
    close(fd);
    for (size_t i = 0; i < sizeof present / sizeof present[0]; i++)
        n += present[i] >> 63;
    return n;
}

static void make_sparse(void)
{
    sparse = map(N_SPARSE * HUGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < N_SPARSE; i++)
        sparse[i * HUGE] = 1;
    MUST(madvise(sparse, N_SPARSE * HUGE, MADV_HUGEPAGE) == 0);
}

int main(int argc, char **argv)
{
    unsigned long kib, kib_now;
    unsigned n;

    subject_begin(argc, argv);
    const bool huge = subject.argument && strcmp(subject.argument, "huge") == 0;
    const bool big = subject.argument && strcmp(subject.argument, "big") == 0;

    if (subject.prepare) {
        prepare();
        return 0;
    }
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(common != MAP_FAILED);
    common->pids[0] = getpid();
    regions[0].n_pages = big ? MAX_PAGES : 4 * HUGE / PAGE;
    regions[0].at = map(regions[0].n_pages * PAGE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    if (!big) {
        regions[1].at = of_file + (PAGE - (uintptr_t)of_file % PAGE) % PAGE;
        regions[1].n_pages = sizeof of_file / PAGE - 1;
        regions[2].n_pages = 200;
        regions[2].at = map(200 * PAGE, MADV_NOHUGEPAGE);
    }
    n = big ? make_many() : make_tree();
    add_thread();
    if (huge)
        make_sparse();
    look(n, false);
    kib = memory_kib(n);
    smaps_remember();
    subject_ready();
    if (subject.sabotage)
        regions[0].at[17 * PAGE + 100] ^= 1;
    for (size_t i = 0; !subject_asked(); i++)
        check_pages(64, i);
    check_pages(1, 0);
    smaps_check();
    CHECK(!huge || count_sparse() == N_SPARSE, "%u pages, where there were %d", count_sparse(),
          N_SPARSE);
    look(n, true);
    kib_now = memory_kib(n);
    // One process has moved the first region, and so has it for itself.
    kib += big ? 0 : regions[0].n_pages * PAGE / 1024;
    CHECK(kib_now < kib + kib / 20 + KIB_SLACK, "the tree has %lu KiB, it had %lu", kib_now, kib);
    atomic_store(&common->quit, true);
    for (int status; wait(&status) > 0;)
        CHECK(status == 0, "a child says %x", status);
    CHECK(atomic_load(&common->n_done) == n, "only %u are done", atomic_load(&common->n_done));
    subject_pass();
}
