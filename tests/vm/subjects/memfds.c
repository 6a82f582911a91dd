// SPDX-License-Identifier: GPL-2.0-or-later
// Memory without a path: memfds with every kind of seal, mapped in every way, sparse, of odd sizes;
// shared anonymous memory between processes. Argument "huge": of huge pages, "pkeys": under
// protection keys.
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smaps.h"
#include "subject.h"

#define PAGE  4096ul
#define WORDS (PAGE / 8)
#define HUGE  (2ul << 20)

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif

static struct memfd {
    const char *name;
    unsigned flags;
    size_t bytes;
    int seals;
    // Set up:
    int fd, readonly;
    uint64_t *shared, *private, *view; // writable, before the seals; private; read only, after them
    struct stat st;
} memfds[] = {
    {.name = "plain", .bytes = 5 * PAGE},
    {.name = "no seals allowed", .bytes = 2 * PAGE},
    {.name = "sizes",
     .flags = MFD_ALLOW_SEALING,
     .bytes = 3 * PAGE + 100,
     .seals = F_SEAL_SHRINK | F_SEAL_GROW},
    {.name = "written", .flags = MFD_ALLOW_SEALING, .bytes = 2 * PAGE, .seals = F_SEAL_WRITE},
    {.name = "future", .flags = MFD_ALLOW_SEALING, .bytes = 2 * PAGE, .seals = F_SEAL_FUTURE_WRITE},
    {.name = "all",
     .flags = MFD_ALLOW_SEALING,
     .bytes = PAGE,
     .seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL},
    {.name = "noexec", .flags = MFD_NOEXEC_SEAL, .bytes = PAGE},
    {.name = "sparse", .bytes = 1ul << 30},
    {.name = "empty", .bytes = 0},
};
#define N_MEMFDS (sizeof memfds / sizeof memfds[0])

static bool huge;

static uint64_t word(size_t i, size_t n)
{
    return subject_mix(i << 40 | n);
}

// Bytes that are looked at; of the sparse one, two pages far from each other.
static size_t mapped_bytes(const struct memfd *m)
{
    return m->bytes == 0 || m->bytes > 64 * PAGE + 4 * HUGE ? 0 : m->bytes;
}

static void *map(int fd, size_t bytes, int prot, int flags)
{
    void *at = bytes ? mmap(NULL, bytes, prot, flags, fd, 0) : NULL;

    return at == MAP_FAILED ? NULL : at;
}

static void make(struct memfd *m, size_t n)
{
    const unsigned more = huge ? MFD_HUGETLB : 0;
    const size_t bytes = mapped_bytes(m);
    char path[64];

    m->fd = memfd_create(m->name, MFD_CLOEXEC | m->flags | more);
    if (m->fd < 0 && errno == EINVAL) { // a kernel before 6.3
        m->flags = 0;
        m->fd = memfd_create(m->name, MFD_CLOEXEC | more);
    }
    MUST(m->fd >= 0 && ftruncate(m->fd, (off_t)m->bytes) == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", m->fd);
    MUST((m->readonly = open(path, O_RDONLY | O_CLOEXEC)) >= 0);
    uint64_t *at = map(m->fd, bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
    MUST(at || !bytes);
    // To the end of the last page: what lies behind the end of the file is seen here alone.
    for (size_t i = 0; i < bytes / 8; i++)
        at[i] = word(n, i);
    m->shared = m->seals & F_SEAL_WRITE ? NULL : at;
    if (at && !m->shared)
        MUST(munmap(at, bytes) == 0);
    if (m->seals)
        MUST(fcntl(m->fd, F_ADD_SEALS, m->seals) == 0);
    m->seals = fcntl(m->fd, F_GET_SEALS);
    m->private = map(m->fd, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    MUST(m->private || !bytes);
    if (bytes)
        m->private[WORDS / 2] = 77;
    m->view = map(n % 2 ? m->readonly : m->fd, bytes, PROT_READ, MAP_SHARED); // may be forbidden
    if (!bytes && m->bytes)
        MUST(pwrite(m->fd, "far", 3, (off_t)(m->bytes / 2 + 7)) == 3);
    MUST(fstat(m->fd, &m->st) == 0);
    MUST(huge || lseek(m->fd, (off_t)n, SEEK_SET) == (off_t)n);
}

static void check_words(const struct memfd *m, size_t n, const uint64_t *at, const char *what)
{
    for (size_t i = 0; at && i < m->bytes / 8; i++) {
        const uint64_t expected = at == m->private && i == WORDS / 2 ? 77 : word(n, i);

        CHECK(at[i] == expected, "%s, %s: word %zu is %lx, not %lx", m->name, what, i, at[i],
              expected);
    }
}

static void check(const struct memfd *m, size_t n)
{
    char text[4] = "";

    check_words(m, n, m->shared, "shared");
    check_words(m, n, m->private, "private");
    check_words(m, n, m->view, "read only");
    if (!mapped_bytes(m) && m->bytes)
        CHECK(pread(m->fd, text, 3, (off_t)(m->bytes / 2 + 7)) == 3 && !strcmp(text, "far"),
              "%s: reads %s", m->name, text);
}

static void check_rights(const struct memfd *m, size_t n)
{
    const size_t bytes = mapped_bytes(m);
    struct stat st;

    CHECK(fcntl(m->fd, F_GET_SEALS) == m->seals, "%s: seals %x, not %x", m->name,
          fcntl(m->fd, F_GET_SEALS), m->seals);
    MUST(fstat(m->fd, &st) == 0);
    CHECK(st.st_size == m->st.st_size && st.st_mode == m->st.st_mode && st.st_nlink == 0 &&
              st.st_blksize == m->st.st_blksize,
          "%s: size %ld, mode %o", m->name, st.st_size, st.st_mode);
    // Memory is not made of holes.
    CHECK(m->bytes < 1 << 30 || st.st_blocks < 1000, "%s: %ld blocks", m->name, st.st_blocks);
    CHECK(huge || lseek(m->fd, 0, SEEK_CUR) == (off_t)n, "%s: position", m->name);
    CHECK(fcntl(m->fd, F_GETFD) == FD_CLOEXEC &&
              fcntl(m->fd, F_ADD_SEALS, 0) == (m->seals & F_SEAL_SEAL ? -1 : 0),
          "%s: flags", m->name);
    if (m->view)
        CHECK(mprotect(m->view, bytes, PROT_READ | PROT_WRITE) ==
                  (n % 2 || m->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) ? -1 : 0),
              "%s: the right to write to a mapping", m->name);
    CHECK(huge || pwrite(m->readonly, "x", 1, 0) < 0, "%s: written through a read-only file",
          m->name);
    CHECK(huge || m->bytes == 0 ||
              (pwrite(m->fd, &(uint64_t){word(n, 0)}, bytes ? 8 : 0, 0) < 0) ==
                  !!(m->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)),
          "%s: writing", m->name);
    CHECK((ftruncate(m->fd, (off_t)(m->bytes + HUGE)) < 0) == !!(m->seals & F_SEAL_GROW),
          "%s: growing", m->name);
}

// All mappings of the same file show the same.
static void check_sharing(const struct memfd *m, size_t n)
{
    uint64_t value;

    if (!m->shared)
        return;
    m->shared[1] = 12345;
    CHECK(pread(m->fd, &value, 8, 8) == 8 && value == 12345, "%s: not shared with the file",
          m->name);
    CHECK(!m->view || m->view[1] == 12345, "%s: not shared with the view", m->name);
    CHECK(m->private[1] == word(n, 1), "%s: shared with the private mapping", m->name);
}

/* ---- between processes ---- */

static struct common {
    _Atomic uint64_t counter, ask, answer;
} * common;
static pid_t child;

static void child_main(void)
{
    for (;;) {
        const uint64_t asked = common->ask;

        common->counter++; // after it was asked, before it answers
        common->answer = asked;
        subject_sleep_ms(1);
    }
}

static void start_child(void)
{
    const int more = huge ? MAP_HUGETLB : 0;

    common = mmap(NULL, huge ? HUGE : 3 * PAGE, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | more, -1, 0);
    MUST(common != MAP_FAILED);
    MUST((child = fork()) >= 0);
    if (child == 0)
        child_main();
}

static void check_child(void)
{
    static uint64_t asked;
    const uint64_t counter = common->counter;

    common->ask = ++asked;
    AWAIT(common->answer == asked, "the child does not answer");
    CHECK(common->counter > counter, "the child does not count");
}

/* ---- huge pages: private, and of System V ---- */

static uint64_t *huge_private, *huge_closed, *huge_segment;
static int segment;

static void make_huge(void)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;

    for (size_t i = 0; i < N_MEMFDS; i++)
        memfds[i].bytes = i == 0 || i == 4 ? HUGE : 0; // two of them are enough
    huge_private = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    huge_closed = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, -1, 0);
    MUST(huge_private != MAP_FAILED && huge_closed != MAP_FAILED);
    for (size_t i = 0; i < HUGE / 8; i++)
        huge_private[i] = word(99, i);
    huge_closed[5] = 55;
    MUST(mprotect(huge_closed, HUGE, PROT_NONE) == 0);

    segment = shmget(IPC_PRIVATE, HUGE + 5, IPC_CREAT | 0600 | SHM_HUGETLB);
    MUST(segment >= 0 && (huge_segment = shmat(segment, NULL, 0)) != (void *)-1);
    MUST(shmctl(segment, IPC_RMID, NULL) == 0);
    for (size_t i = 0; i < HUGE / 8 + PAGE; i++)
        huge_segment[i] = word(98, i);
}

static void check_huge(void)
{
    for (size_t i = 0; i < HUGE / 8; i++)
        CHECK(huge_private[i] == word(99, i), "huge word %zu is %lx", i, huge_private[i]);
    for (size_t i = 0; i < HUGE / 8 + PAGE; i++)
        CHECK(huge_segment[i] == word(98, i), "segment's word %zu is %lx", i, huge_segment[i]);
}

static void check_huge_closed(void)
{
    MUST(mprotect(huge_closed, HUGE, PROT_READ) == 0);
    CHECK(huge_closed[5] == 55 && huge_closed[6] == 0, "closed huge page");
    CHECK(huge_private[HUGE / 8 + 3] == 0, "second huge page");

    struct shmid_ds state;
    MUST(shmctl(segment, IPC_STAT, &state) == 0);
    CHECK(state.shm_segsz == HUGE + 5, "segment of %zu bytes", state.shm_segsz);
    huge_segment[2 * HUGE / 8 - 1] = 1;
}

static void reserve_huge(void)
{
    const int fd = open("/proc/sys/vm/nr_hugepages", O_WRONLY);

    MUST(fd >= 0 && write(fd, "16", 2) == 2);
    close(fd);
}

/* ---- protection keys ---- */

static bool have_keys;
static int keys[4];
static uint64_t *guarded, *execute_only;
static volatile sig_atomic_t faults;

static void on_fault(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)context;
    CHECK(info->si_code == SEGV_PKUERR, "fault of code %d at %p", info->si_code, info->si_addr);
    faults++;
    // The rights that are restored with the registers forbid it: allow it in the mapping.
    MUST(pkey_mprotect(guarded, PAGE, PROT_READ | PROT_WRITE, 0) == 0);
}

static void make_keys(void)
{
    guarded = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    execute_only = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(guarded != MAP_FAILED && execute_only != MAP_FAILED);
    guarded[0] = 0x1234;
    guarded[2 * WORDS] = 0x5678;
    keys[0] = pkey_alloc(0, 0);
    if (!(have_keys = keys[0] >= 0))
        return;
    for (int i = 1; i < 4; i++)
        MUST((keys[i] = pkey_alloc(0, i == 2 ? PKEY_DISABLE_ACCESS : 0)) > 0);
    MUST(pkey_free(keys[1]) == 0);
    MUST(pkey_mprotect(guarded, PAGE, PROT_READ | PROT_WRITE, keys[2]) == 0);
    MUST(pkey_mprotect(guarded + 2 * WORDS, PAGE, PROT_READ, keys[3]) == 0);
    MUST(mprotect(execute_only, PAGE, PROT_EXEC) == 0);
}

static void check_keys(void)
{
    const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

    if (!have_keys)
        return;
    CHECK(pkey_get(keys[2]) == PKEY_DISABLE_ACCESS && pkey_get(keys[3]) == 0, "rights of the keys");
    MUST(sigaction(SIGSEGV, &action, NULL) == 0);
    CHECK(*(volatile uint64_t *)guarded == 0x1234 && faults == 1, "%d faults", faults);
    CHECK(guarded[2 * WORDS] == 0x5678, "word under a key");
    // The next execute-only mapping has the key of the first, not one of its own.
    uint8_t *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(at != MAP_FAILED && mprotect(at, PAGE, PROT_EXEC) == 0);
    const int next = pkey_alloc(0, 0);
    CHECK(next > 0 && next != keys[0] && next != keys[2] && next != keys[3], "key %d twice", next);
}

/* ---- */

static void set_up(const char *what)
{
    huge = what && !strcmp(what, "huge");
    if (what && !strcmp(what, "pkeys")) {
        make_keys();
        return;
    }
    if (huge)
        make_huge();
    for (size_t n = 0; n < N_MEMFDS; n++)
        make(&memfds[n], n);
    start_child();
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    if (subject.prepare) {
        reserve_huge();
        return 0;
    }
    set_up(subject.argument);
    smaps_remember();
    subject_ready();
    if (subject.sabotage && !guarded)
        memfds[0].private[3] ^= 1;
    else if (subject.sabotage)
        guarded[2 * WORDS - 1] = 1, munmap(guarded, 3 * PAGE);
    do {
        for (size_t n = 0; common && n < N_MEMFDS; n++)
            check(&memfds[n], n);
        if (huge)
            check_huge();
        if (common)
            check_child();
    } while (!subject_asked());
    smaps_check();
    for (size_t n = 0; common && n < N_MEMFDS; n++) {
        check_rights(&memfds[n], n);
        check_sharing(&memfds[n], n);
    }
    if (huge)
        check_huge_closed();
    if (guarded)
        check_keys();
    if (child > 0)
        kill(child, SIGKILL);
    subject_pass();
}
