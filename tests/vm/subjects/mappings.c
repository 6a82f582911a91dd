// SPDX-License-Identifier: GPL-2.0-or-later
// Every property of a mapping: advice, protection, locks, what a fork does with it, files that end
// too early, names; as /proc/self/smaps shows it and as the program feels it.
// Arguments: "mdwe", "merge", "guard", "swap", "uffd", "hugetlbfs": that alone.
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smaps.h"
#include "subject.h"

#define PAGE       4096ul
#define WORDS      (PAGE / 8)
#define MAX_AREAS  64
#define FILE_BYTES (PAGE + 1000)

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#define MSEAL         462
#define GUARD_INSTALL 102

// Pages with contents, between two that are not mapped to anything.
static struct area {
    const char *name;
    uint8_t *at;
    size_t n_pages, n_filled;
    bool closed; // may not be read until open_all()
} areas[MAX_AREAS];
static size_t n_areas;

static uint8_t *grown, *short_private, *short_shared, *readonly, *split;
static struct area *dontfork, *wipeonfork, *sealed;
static int path_fd;

static uint64_t word(size_t area, size_t i)
{
    return subject_mix(area << 32 | i);
}

static void fill(struct area *a, size_t n_filled)
{
    uint64_t *words = (uint64_t *)a->at;

    a->n_filled = n_filled;
    for (size_t i = 0; i < n_filled * WORDS; i++)
        words[i] = word((size_t)(a - areas), i);
}

static struct area *area_of(const char *name, size_t n_pages, int prot, int flags, int fd, off_t at)
{
    struct area *a = &areas[n_areas++];
    uint8_t *hole = mmap(NULL, (n_pages + 2) * PAGE, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    MUST(n_areas <= MAX_AREAS && hole != MAP_FAILED);
    *a = (struct area){name, hole + PAGE, n_pages, 0, false};
    MUST(mmap(a->at, n_pages * PAGE, prot, flags | MAP_FIXED, fd, at) == a->at);
    return a;
}

static struct area *anonymous(const char *name, size_t n_pages, int more_flags)
{
    struct area *a = area_of(name, n_pages, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | more_flags, -1, 0);

    fill(a, n_pages - 1);
    return a;
}

static void check_area(const struct area *a)
{
    const uint64_t *words = (const uint64_t *)a->at;

    for (size_t i = 0; !a->closed && i < a->n_pages * WORDS; i++) {
        const uint64_t expected = i < a->n_filled * WORDS ? word((size_t)(a - areas), i) : 0;

        CHECK(words[i] == expected, "%s: word %zu is %lx, not %lx", a->name, i, words[i], expected);
    }
}

/* ---- what is made ---- */

static struct area *advised(const char *name, int advice, bool hint)
{
    struct area *a = anonymous(name, 5, 0);

    MUST(madvise(a->at, a->n_pages * PAGE, advice) == 0 || (hint && errno == EINVAL));
    return a;
}

static void make_advised(void)
{
    dontfork = advised("MADV_DONTFORK", MADV_DONTFORK, false);
    wipeonfork = advised("MADV_WIPEONFORK", MADV_WIPEONFORK, false);
    advised("MADV_DONTDUMP", MADV_DONTDUMP, false);
    advised("MADV_MERGEABLE", MADV_MERGEABLE, true);
    advised("MADV_HUGEPAGE", MADV_HUGEPAGE, true);
    advised("MADV_NOHUGEPAGE", MADV_NOHUGEPAGE, true);
    advised("MADV_SEQUENTIAL", MADV_SEQUENTIAL, false);
    advised("MADV_RANDOM", MADV_RANDOM, false);
    // Taken back again.
    struct area *a = advised("MADV_DODUMP", MADV_DONTDUMP, false);
    MUST(madvise(a->at, a->n_pages * PAGE, MADV_DODUMP) == 0);
}

static const int protections[] = {PROT_READ,
                                  PROT_READ | PROT_WRITE,
                                  PROT_NONE,
                                  PROT_READ | PROT_EXEC,
                                  PROT_READ | PROT_WRITE | PROT_EXEC,
                                  PROT_WRITE};
#define N_PROTECTIONS (sizeof protections / sizeof protections[0])

static void make_split(void)
{
    struct area *a = anonymous("split by mprotect", N_PROTECTIONS, 0);

    a->closed = true;
    split = a->at;
    for (size_t i = 0; i < N_PROTECTIONS; i++)
        MUST(mprotect(split + i * PAGE, PAGE, protections[i]) == 0);
    // Never writable: nothing was set aside for them.
    area_of("never written", 2, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area_of("reserved", 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)->closed = true;
    anonymous("MAP_NORESERVE", 3, MAP_NORESERVE);
    a = anonymous("PROT_NONE with contents", 4, 0);
    MUST(mprotect(a->at, a->n_pages * PAGE, PROT_NONE) == 0);
    a->closed = true;
}

static void make_locked(void)
{
    struct area *a = anonymous("mlock", 3, 0);

    MUST(mlock(a->at, 3 * PAGE) == 0);
    a = anonymous("mlock2(ONFAULT)", 3, 0);
    MUST(syscall(SYS_mlock2, a->at, 3 * PAGE, 1 /* MLOCK_ONFAULT */) == 0);
    a = anonymous("locked and closed", 3, 0);
    MUST(mlock(a->at, 3 * PAGE) == 0 && mprotect(a->at, 3 * PAGE, PROT_NONE) == 0);
    a->closed = true;
}

// Grows by three pages, with room for more.
static void make_growing(void)
{
    uint8_t *room =
        mmap(NULL, 1024 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    MUST(room != MAP_FAILED && munmap(room, 1024 * PAGE) == 0);
    grown = mmap(room + 1020 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    MUST(grown == room + 1020 * PAGE);
    for (int i = 3; i >= -3; i--)
        memset(grown + i * (long)PAGE, 0x60 + i, PAGE);
}

static void path_of(char path[256])
{
    snprintf(path, 256, "%s/short", subject.workdir);
}

static void prepare(void)
{
    const struct timespec times[2] = {{.tv_sec = 1700000000}, {.tv_sec = 1700000000}};
    char path[256], data[FILE_BYTES];
    int fd;

    path_of(path);
    memset(data, 0x33, sizeof data);
    MUST((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)) >= 0);
    MUST(write(fd, data, sizeof data) == (ssize_t)sizeof data && futimens(fd, times) == 0);
    close(fd);
}

// Mapped for longer than they are.
static void make_short(void)
{
    char path[256];
    int fd;

    path_of(path);
    MUST((path_fd = open(path, O_RDWR)) >= 0 && (fd = open(path, O_RDONLY)) >= 0);
    short_private = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, path_fd, 0);
    short_shared = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, path_fd, 0);
    readonly = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    MUST(short_private != MAP_FAILED && short_shared != MAP_FAILED && readonly != MAP_FAILED);
    short_private[PAGE + 2000] = 0x44; // of a page that the file has, behind its end
    close(fd);
}

static void make_dev_zero(void)
{
    const int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);

    MUST(fd >= 0);
    fill(area_of("/dev/zero", 4, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), 3);
    fill(area_of("/dev/zero shared", 4, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), 3);
    close(fd);
}

static void make_named(void)
{
    struct area *a = anonymous("PR_SET_VMA", 2, 0);

    prctl(0x53564d41, 0, a->at, 2 * PAGE, "a name of ours"); // since 5.17
    a = area_of("PR_SET_VMA shared", 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fill(a, 1);
    prctl(0x53564d41, 0, a->at, 2 * PAGE, "a shared name"); // since 6.2
}

static void make_new(void)
{
    uint8_t *at = mmap(NULL, PAGE, PROT_READ, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);

    if (at != MAP_FAILED && munmap(at, PAGE) == 0)
        fill(area_of("MAP_DROPPABLE", 3, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1,
                     0),
             2);
    if (syscall(MSEAL, 0, 0, 0) == 0) {
        sealed = anonymous("mseal", 3, 0);
        MUST(syscall(MSEAL, sealed->at, 3 * PAGE, 0) == 0);
    }
}

static void make_process_wide(void)
{
    int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);

    MUST(fd >= 0 && write(fd, "0x17", 4) == 4);
    close(fd);
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
}

/* ---- what is felt ---- */

static sigjmp_buf escape;
static int caught;

static void on_fault(int signo)
{
    caught = signo;
    siglongjmp(escape, 1);
}

// The signal that reading (or writing) there gives, 0 for none.
static int fault(volatile uint8_t *at, bool writing)
{
    caught = 0;
    if (sigsetjmp(escape, 1) == 0) {
        if (writing)
            *at = *at;
        else
            (void)*at;
    }
    return caught;
}

static void check_split(void)
{
    for (size_t i = 0; i < N_PROTECTIONS; i++) {
        const bool readable = protections[i] & (PROT_READ | PROT_WRITE); // as x86 has it
        uint8_t *at = split + i * PAGE;

        CHECK(fault(at, false) == (readable ? 0 : SIGSEGV), "reading page %zu gives %d", i, caught);
        CHECK(fault(at, true) == (protections[i] & PROT_WRITE ? 0 : SIGSEGV),
              "writing page %zu gives %d", i, caught);
    }
}

static void check_short(void)
{
    uint8_t *maps[] = {short_private, short_shared};

    for (size_t i = 0; i < 2; i++) {
        CHECK(maps[i][PAGE + 999] == 0x33 && maps[i][PAGE + 1000] == 0, "end of the file");
        CHECK(fault(maps[i] + 2 * PAGE, false) == SIGBUS, "behind the file: signal %d", caught);
        CHECK(fault(maps[i] + 4 * PAGE, true) == SIGBUS, "far behind it: signal %d", caught);
    }
    CHECK(short_private[PAGE + 2000] == 0x44 && short_shared[PAGE + 2000] == 0, "private bytes");
    CHECK(mprotect(readonly, PAGE, PROT_WRITE) < 0 && errno == EACCES,
          "a mapping of a file open for reading can be written");
    // A longer file is seen at once.
    MUST(ftruncate(path_fd, 3 * PAGE) == 0);
    CHECK(fault(short_shared + 2 * PAGE, false) == 0 && short_shared[2 * PAGE] == 0, "grown file");
    MUST(ftruncate(path_fd, FILE_BYTES) == 0);
    CHECK(fault(short_shared + 2 * PAGE, false) == SIGBUS, "shortened file: %d", caught);
}

static void check_growing(void)
{
    for (int i = 3; i >= -3; i--)
        for (size_t j = 0; j < PAGE; j++)
            CHECK(grown[i * (long)PAGE + (long)j] == 0x60 + i, "page %d of a stack", i);
    CHECK(fault(grown - 4 * PAGE, true) == 0, "the stack does not grow: %d", caught);
    CHECK(fault(grown - 9 * PAGE, true) == 0, "the stack does not grow further: %d", caught);
}

// In a child: exit status 0 or what is wrong.
static int fork_effects(void)
{
    unsigned char there[8];

    if (mincore(dontfork->at, dontfork->n_pages * PAGE, there) == 0 || errno != ENOMEM)
        return 1;
    for (size_t i = 0; i < wipeonfork->n_pages * PAGE; i++)
        if (wipeonfork->at[i])
            return 2;
    return 0;
}

static void check_fork(void)
{
    int status;
    const pid_t pid = fork();

    MUST(pid >= 0);
    if (pid == 0)
        _exit(fork_effects());
    MUST(waitpid(pid, &status, 0) == pid);
    CHECK(status == 0, "after a fork: %x", status);
}

static void check_process_wide(void)
{
    char text[16] = "";
    const int fd = open("/proc/self/coredump_filter", O_RDONLY | O_CLOEXEC);

    MUST(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    CHECK(strncmp(text, "00000017", 8) == 0, "coredump_filter is %s", text);
    CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1, "THP are no longer disabled");
}

static void open_all(void)
{
    for (size_t i = 0; i < n_areas; i++) {
        if (areas[i].closed)
            MUST(mprotect(areas[i].at, areas[i].n_pages * PAGE, PROT_READ) == 0);
        areas[i].closed = false;
        check_area(&areas[i]);
    }
}

static void make_all(void)
{
    make_advised();
    make_split();
    make_locked();
    make_short();
    make_dev_zero();
    make_named();
    make_new();
    make_process_wide();
    make_growing(); // what is mapped later could be in its way
}

static void check_all(void)
{
    smaps_check();
    check_split();
    check_short();
    check_growing();
    check_process_wide();
    check_fork();
    CHECK(!sealed || (munmap(sealed->at, PAGE) < 0 && errno == EPERM), "a seal is gone");
    open_all();
}

/* ---- what goes alone ---- */

static bool denying; // since 6.3

static void make_mdwe(void)
{
    anonymous("memory", 3, 0);
    denying = prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0) == 0;
    MUST(denying || errno == EINVAL);
}

static void check_mdwe(void)
{
    const int mdwe = prctl(66 /* PR_GET_MDWE */, 0, 0, 0, 0);

    CHECK(denying ? mdwe == 1 : mdwe <= 0, "PR_GET_MDWE says %d", mdwe);
    CHECK(mprotect(areas[0].at, PAGE, PROT_READ | PROT_EXEC) == (denying ? -1 : 0),
          "memory that was writable and becomes executable");
}

static int merging;

static void make_merge(void)
{
    struct area *a = anonymous("memory", 3, 0);

    merging = prctl(67 /* PR_SET_MEMORY_MERGE */, 1, 0, 0, 0) == 0; // since 6.4
    MUST(!merging || madvise(a->at, 3 * PAGE, MADV_UNMERGEABLE) == 0);
}

static void check_merge(void)
{
    CHECK(!merging || prctl(68 /* PR_GET_MEMORY_MERGE */, 0, 0, 0, 0) == 1, "no longer merged");
}

static bool guards; // since 6.13

static void make_guard(void)
{
    struct area *a = anonymous("guarded", 9, 0);

    a->closed = true;
    guards = madvise(a->at + 2 * PAGE, 2 * PAGE, GUARD_INSTALL) == 0;
    MUST(!guards || madvise(a->at + 6 * PAGE, PAGE, GUARD_INSTALL) == 0);
}

static void check_guard(void)
{
    uint64_t *words = (uint64_t *)areas[0].at;

    for (size_t page = 0; page < 8; page++) {
        const bool guarded = guards && (page == 2 || page == 3 || page == 6);

        CHECK(fault(areas[0].at + page * PAGE, false) == (guarded ? SIGSEGV : 0), "page %zu: %d",
              page, caught);
        for (size_t i = page * WORDS; !guarded && i < (page + 1) * WORDS; i++)
            CHECK(words[i] == word(0, i), "word %zu is %lx", i, words[i]);
    }
}

// A swap area on a RAM disk, as mkswap makes it.
static const char swap_path[] = "/dev/ram7";

static void make_swapped(void)
{
    static uint32_t header[PAGE / 4];
    struct area *a = anonymous("swapped", 200, 0);

    swapoff(swap_path); // of one that was killed
    const int fd = open(swap_path, O_RDWR | O_CLOEXEC);
    MUST(fd >= 0);
    header[256] = 1;    // version
    header[257] = 1000; // last page
    memcpy((char *)header + PAGE - 10, "SWAPSPACE2", 10);
    MUST(write(fd, header, PAGE) == (ssize_t)PAGE && fsync(fd) == 0);
    close(fd);
    MUST(swapon(swap_path, 0) == 0);
    MUST(madvise(a->at, 200 * PAGE, MADV_PAGEOUT) == 0);
    a->closed = true; // or it would be swapped in again
}

static void check_swapped(void)
{
    MUST(swapoff(swap_path) == 0);
    areas[0].closed = false;
    check_area(&areas[0]);
}

static void make_uffd(void)
{
    struct area *a = anonymous("watched", 4, 0);
    const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.range = {(uintptr_t)a->at, 4 * PAGE},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};

    fill(a, 4); // or it would wait for ever
    MUST(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &reg) == 0);
}

static void make_locked_all(void)
{
    anonymous("memory", 3, 0);
    area_of("closed", 3, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)->closed = true;
    MUST(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
}

static void check_locked_all(void)
{
    uint8_t *at = mmap(NULL, 8 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char there[8] = {0};

    MUST(at != MAP_FAILED && mincore(at, 8 * PAGE, there) == 0);
    CHECK(there[7] & 1, "what is mapped after mlockall is not read in");
}

static void nothing(void)
{
}

static const struct {
    const char *argument;
    void (*make)(void), (*check)(void);
} modes[] = {
    {NULL, make_all, check_all},
    {"mdwe", make_mdwe, check_mdwe},
    {"merge", make_merge, check_merge},
    {"guard", make_guard, check_guard},
    {"swap", make_swapped, check_swapped},
    {"uffd", make_uffd, nothing},
    {"mlockall", make_locked_all, check_locked_all},
};

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = on_fault};
    size_t mode = 0;

    subject_begin(argc, argv);
    while (subject.argument &&
           (!modes[mode].argument || strcmp(modes[mode].argument, subject.argument)))
        MUST(++mode < sizeof modes / sizeof modes[0]);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    MUST(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    modes[mode].make();
    smaps_remember();
    subject_ready();
    if (subject.sabotage)
        areas[0].at[PAGE + 5] ^= 1;
    do {
        for (size_t i = 0; i < n_areas; i++)
            check_area(&areas[i]);
    } while (!subject_asked());
    if (mode)
        smaps_check();
    modes[mode].check();
    subject_pass();
}
