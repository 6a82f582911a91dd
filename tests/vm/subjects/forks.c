// SPDX-License-Identifier: GPL-2.0-or-later
// A tree of processes that do to inherited memory what they happen to do: each must find in it what
// it knows to be there. The argument is where the chances begin.
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define PAGE      4096ul
#define WORDS     (PAGE / 8)
#define N_REGIONS 6
#define N_PAGES   96u
#define MAX_PROCS 16
#define N_DEEDS   24
#define ELSEWHERE 0x200000000000ul // far from all that the kernel chooses
#define NOTHING   UINT16_MAX       // version of a page that is not mapped
#define OF_FILE   255              // version of one that is the file's

enum on_fork { COPIED, LEFT, WIPED };

// What a process knows of its own memory.
struct page {
    uint16_t version; // 0: zeros
    uint8_t prot, on_fork;
};

static struct region {
    uint8_t *at;
    uint16_t base; // version of what nobody has written to
    struct page pages[N_PAGES];
} regions[N_REGIONS];

// Memory that all of them share.
static struct common {
    atomic_uint n_born, n_ready, n_left, n_checked, n_done;
    atomic_bool quit;
} * common;
static unsigned self, n_versions;
static unsigned long n_moves; // of its ancestors, too
static uint64_t chance;

static unsigned one_of(unsigned n)
{
    chance = subject_mix(chance + 1);
    return (unsigned)(chance >> 33) % n;
}

static uint64_t word(unsigned region, unsigned page, unsigned version, size_t i)
{
    return version ? subject_mix((uint64_t)region << 40 | (uint64_t)page << 20 | version) + i : 0;
}

/* ---- deeds ---- */

struct run {
    unsigned region, first, n;
};

static struct run some_pages(void)
{
    const struct run run = {one_of(N_REGIONS), one_of(N_PAGES), 1 + one_of(12)};

    return (struct run){run.region, run.first, run.n < N_PAGES - run.first ? run.n : 1};
}

static void *address(const struct run *run)
{
    return regions[run->region].at + run->first * PAGE;
}

static bool is_mapped(const struct run *run)
{
    for (unsigned i = run->first; i < run->first + run->n; i++)
        if (regions[run->region].pages[i].version == NOTHING)
            return false;
    return true;
}

static void protect(const struct run *run, uint8_t prot)
{
    MUST(mprotect(address(run), run->n * PAGE, prot) == 0);
    for (unsigned i = run->first; i < run->first + run->n; i++)
        regions[run->region].pages[i].prot = prot;
}

static void fill(const struct run *run, unsigned version)
{
    protect(run, PROT_READ | PROT_WRITE);
    for (unsigned i = run->first; i < run->first + run->n; i++) {
        uint64_t *words = (uint64_t *)(regions[run->region].at + i * PAGE);

        for (size_t j = 0; j < WORDS; j++)
            words[j] = word(run->region, i, version, j);
        regions[run->region].pages[i].version = version;
    }
}

static void forget(const struct run *run, uint16_t version)
{
    for (unsigned i = run->first; i < run->first + run->n; i++)
        regions[run->region].pages[i].version = version;
}

static void do_fill(const struct run *run)
{
    fill(run, self << 8 | ++n_versions);
}

static void do_clear(const struct run *run)
{
    fill(run, 0);
}

static void do_drop(const struct run *run)
{
    for (unsigned i = 0; i < run->n; i++) {
        const struct run one = {run->region, run->first + i, 1};

        if (madvise(address(&one), PAGE, MADV_DONTNEED) == 0) // unless it is locked
            forget(&one, regions[run->region].base);
    }
}

static void do_unmap(const struct run *run)
{
    MUST(munmap(address(run), run->n * PAGE) == 0);
    forget(run, NOTHING);
}

static void do_protect(const struct run *run)
{
    static const uint8_t prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_EXEC,
                                    PROT_READ | PROT_WRITE};

    protect(run, prots[one_of(4)]);
}

static void do_lock(const struct run *run)
{
    mlock(address(run), run->n * PAGE); // of what is PROT_NONE nothing is read in
}

static void do_merge(const struct run *run)
{
    madvise(address(run), run->n * PAGE, MADV_MERGEABLE);
}

static void do_on_fork(const struct run *run)
{
    static const int advices[] = {MADV_DOFORK, MADV_DONTFORK, MADV_WIPEONFORK};
    const enum on_fork on_fork = one_of(regions[run->region].base ? 2 : 3);

    // Each undoes itself alone, and files cannot be wiped.
    MUST(
        madvise(address(run), run->n * PAGE, MADV_DOFORK) == 0 &&
        (regions[run->region].base || madvise(address(run), run->n * PAGE, MADV_KEEPONFORK) == 0) &&
        madvise(address(run), run->n * PAGE, advices[on_fork]) == 0);
    for (unsigned i = run->first; i < run->first + run->n; i++)
        regions[run->region].pages[i].on_fork = on_fork;
}

// Its pages one by one, as they may be different mappings. To where nothing else comes to be: the
// kernel would choose what has been unmapped, which is to stay so.
static void do_move(const struct run *run)
{
    struct region *r = &regions[run->region];
    void *free_place = (void *)(ELSEWHERE + n_moves++ * 2 * N_PAGES * PAGE);
    uint8_t *to = mmap(free_place, N_PAGES * PAGE, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

    MUST(to == free_place);
    for (unsigned i = 0; i < N_PAGES; i++) {
        if (r->pages[i].version == NOTHING)
            MUST(munmap(to + i * PAGE, PAGE) == 0);
        else
            MUST(mremap(r->at + i * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                        to + i * PAGE) == to + i * PAGE);
    }
    r->at = to;
}

static void live(void);

static void do_fork(const struct run *run)
{
    const unsigned index = atomic_fetch_add(&common->n_born, 1);
    pid_t pid;

    (void)run;
    if (index >= MAX_PROCS) {
        atomic_fetch_sub(&common->n_born, 1);
        return;
    }
    MUST((pid = fork()) >= 0);
    if (pid != 0)
        return;
    self = index;
    n_versions = 0;
    chance += index;
    for (unsigned i = 0; i < N_REGIONS; i++) {
        for (unsigned j = 0; j < N_PAGES; j++) {
            struct page *page = &regions[i].pages[j];

            page->version = page->on_fork == LEFT    ? NOTHING
                            : page->on_fork == WIPED ? (page->version == NOTHING ? NOTHING : 0)
                                                     : page->version;
            page->on_fork = page->on_fork == LEFT ? COPIED : page->on_fork;
        }
    }
    live();
}

static const struct {
    unsigned times;
    void (*deed)(const struct run *run);
} deeds[] = {{10, do_fill}, {2, do_clear}, {3, do_drop},    {2, do_unmap}, {4, do_protect},
             {1, do_lock},  {1, do_merge}, {2, do_on_fork}, {1, do_move},  {5, do_fork}};

static void act(void)
{
    unsigned sum = 0;

    for (size_t i = 0; i < sizeof deeds / sizeof deeds[0]; i++)
        sum += deeds[i].times;
    for (unsigned i = 0; i < N_DEEDS; i++) {
        const struct run run = some_pages();
        unsigned which = one_of(sum);
        size_t at = 0;

        while (which >= deeds[at].times)
            which -= deeds[at++].times;
        if (is_mapped(&run))
            deeds[at].deed(&run);
    }
}

/* ---- what they find ---- */

static void check_page(unsigned region, unsigned page)
{
    const struct page *known = &regions[region].pages[page];
    const uint64_t *words = (const uint64_t *)(regions[region].at + page * PAGE);

    if (known->version == NOTHING || !(known->prot & PROT_READ))
        return;
    for (size_t i = 0; i < WORDS; i++)
        CHECK(words[i] == word(region, page, known->version, i),
              "process %u: page %u of region %u is not version %x", self, page, region,
              known->version);
}

static void check_pages(unsigned step, size_t from)
{
    for (unsigned i = 0; i < N_REGIONS; i++)
        for (unsigned j = from % step; j < N_PAGES; j += step)
            check_page(i, j);
}

// What is not mapped says so, and what cannot be read is what it was when it can.
static void check_all(void)
{
    for (unsigned i = 0; i < N_REGIONS; i++) {
        for (unsigned j = 0; j < N_PAGES; j++) {
            const struct run one = {i, j, 1};
            unsigned char core;

            if (regions[i].pages[j].version == NOTHING)
                CHECK(mincore(address(&one), PAGE, &core) < 0, "process %u: page %u of region %u",
                      self, j, i);
            else
                protect(&one, PROT_READ | PROT_WRITE);
        }
    }
    check_pages(1, 0);
}

static void await(atomic_uint *count)
{
    // In this order: what happens between the looks makes it wait.
    for (;;) {
        const unsigned there = atomic_load(count), left = atomic_load(&common->n_left);

        if (there + left >= atomic_load(&common->n_born))
            return;
        subject_sleep_ms(2);
    }
}

// Nobody sees what another writes.
static void check_apart(void)
{
    check_all();
    atomic_fetch_add(&common->n_checked, 1);
    await(&common->n_checked);
    for (unsigned i = 0; i < 40; i++) {
        const struct run run = some_pages();

        if (is_mapped(&run))
            do_fill(&run);
    }
    atomic_fetch_add(&common->n_done, 1);
    await(&common->n_done);
    check_pages(1, 0);
}

// Some end early, and their children have no parent but the root.
static void live(void)
{
    act();
    if (one_of(4) == 0) {
        atomic_fetch_add(&common->n_left, 1);
        _exit(0);
    }
    atomic_fetch_add(&common->n_ready, 1);
    for (size_t i = 0; !atomic_load(&common->quit); i++) {
        check_pages(N_PAGES, i);
        subject_sleep_ms(10);
    }
    check_apart();
    _exit(0);
}

// Anonymous, of a deleted file, of a memfd.
static void map(unsigned region)
{
    struct region *r = &regions[region];
    char path[256];
    int fd = -1;

    snprintf(path, sizeof path, "%s/file", subject.workdir);
    if (region == N_REGIONS - 1)
        MUST((fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0 && unlink(path) == 0);
    else if (region == N_REGIONS - 2)
        MUST((fd = memfd_create("forks", MFD_CLOEXEC)) >= 0);
    for (unsigned i = 0; i < N_PAGES; i++) {
        uint64_t words[WORDS];

        for (size_t j = 0; j < WORDS; j++)
            words[j] = word(region, i, OF_FILE, j);
        MUST(fd < 0 || write(fd, words, PAGE) == (ssize_t)PAGE);
    }
    r->base = fd < 0 ? 0 : OF_FILE;
    r->at = mmap(NULL, N_PAGES * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    MUST(r->at != MAP_FAILED && (fd < 0 || close(fd) == 0));
    for (unsigned i = 0; i < N_PAGES; i++)
        r->pages[i] = (struct page){r->base, PROT_READ | PROT_WRITE, COPIED};
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    chance = subject.argument ? strtoull(subject.argument, NULL, 10) : 1;
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(common != MAP_FAILED && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    MUST(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
    atomic_store(&common->n_born, 1);
    for (unsigned i = 0; i < N_REGIONS; i++) {
        map(i);
        if (i < N_REGIONS / 2)
            fill(&(struct run){i, 0, N_PAGES}, ++n_versions);
    }
    do {
        act();
    } while (atomic_load(&common->n_born) < MAX_PROCS / 2);
    atomic_fetch_add(&common->n_ready, 1);
    await(&common->n_ready);
    subject_ready();
    if (subject.sabotage)
        for (unsigned j = 0; j < N_PAGES; j++)
            if (regions[0].pages[j].version != NOTHING && regions[0].pages[j].prot & PROT_WRITE)
                regions[0].at[j * PAGE + 5] ^= 1;
    for (size_t i = 0; !subject_asked(); i++) {
        check_pages(16, i);
        subject_sleep_ms(1);
    }
    atomic_store(&common->quit, true);
    check_apart();
    while (wait(NULL) > 0)
        ;
    CHECK(atomic_load(&common->n_done) ==
              atomic_load(&common->n_born) - atomic_load(&common->n_left),
          "only %u are done", atomic_load(&common->n_done));
    subject_pass();
}
