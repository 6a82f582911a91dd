// SPDX-License-Identifier: GPL-2.0-or-later
// A process all of whose memory is swapped out, and that knows what it should hold.
//
// swap_subject FILE: an unlinked FILE is part of it, which is to be on a tmpfs. Says "swapped" into
// the FIFO /tmp/state, on SIGUSR2 "read" when some pages have come back with their neighbours, and
// on SIGUSR1 "right" or what is wrong.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096u
#define PAGES 600u
#define ZEROS 50u // of them, in the middle
#define FEW   5u  // in a row are read, of each HEAP
#define HEAP  32u

#define MUST(what)                                                                                 \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            say(#what);                                                                            \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static struct area {
    const char *name;
    uint64_t *at;
} areas[5];
static unsigned n_areas;
static struct timespec *asleep; // in a page of its own
static volatile sig_atomic_t asked;

static void say(const char *words)
{
    int fd = open("/tmp/state", O_WRONLY);

    if (fd < 0 || write(fd, words, strlen(words)) < 0 || close(fd) < 0)
        abort();
}

static uint64_t word(unsigned area, size_t i)
{
    const size_t page = i / (PAGE / 8);

    if (page >= PAGES / 2 && page < PAGES / 2 + ZEROS)
        return 0;
    return (i + 1) * 0x9e3779b97f4a7c15u ^ (uint64_t)(area + 1) << 56;
}

static void add(const char *name, void *at)
{
    MUST(at != MAP_FAILED);
    areas[n_areas] = (struct area){name, at};
    for (size_t i = 0; i < PAGES * PAGE / 8; i++)
        areas[n_areas].at[i] = word(n_areas, i);
    n_areas++;
}

static void *map(int flags, int fd)
{
    return mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
}

static void fill_all(const char *path)
{
    const int memfd = memfd_create("swapped", 0), shm = shmget(IPC_PRIVATE, PAGES * PAGE, 0600);
    const int file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

    MUST(memfd >= 0 && file >= 0 && shm >= 0);
    MUST(ftruncate(memfd, PAGES * PAGE) == 0 && ftruncate(file, PAGES * PAGE) == 0);
    add("private memory", map(MAP_PRIVATE | MAP_ANONYMOUS, -1));
    add("shared memory", map(MAP_SHARED | MAP_ANONYMOUS, -1));
    add("a memfd", map(MAP_SHARED, memfd));
    add("a segment", shmat(shm, NULL, 0));
    add("an unlinked file", map(MAP_SHARED, file));
    MUST(unlink(path) == 0 && shmctl(shm, IPC_RMID, NULL) == 0);
}

static void *sleep_long(void *arg)
{
    struct timespec *left = asleep + 1;
    const int error = clock_nanosleep(CLOCK_MONOTONIC, 0, asleep, left);
    say(error ? "a sleeper is woken with an error" : "a sleeper is woken");
    return arg;
}

// What is dirty goes with the first call, and leaves memory with the next.
static void page_out(void)
{
    for (int i = 0; i < 5; i++) {
        for (unsigned a = 0; a < n_areas; a++)
            MUST(madvise(areas[a].at, PAGES * PAGE, MADV_PAGEOUT) == 0);
        MUST(madvise(asleep, PAGE, MADV_PAGEOUT) == 0);
        usleep(200000);
    }
}

// The kernel reads their neighbours as well, which nobody has mapped.
static void read_some(void)
{
    for (unsigned a = 0; a < n_areas; a++)
        for (size_t page = 0; page < PAGES; page++)
            if (page % HEAP < FEW)
                (void)*(volatile uint64_t *)&areas[a].at[page * (PAGE / 8)];
}

static const char *check_all(void)
{
    for (unsigned a = 0; a < n_areas; a++)
        for (size_t i = 0; i < PAGES * PAGE / 8; i++)
            if (areas[a].at[i] != word(a, i))
                return areas[a].name;
    return asleep->tv_sec != 100000 ? "the sleeper's page" : NULL;
}

static void on_signal(int number)
{
    asked = number;
}

static int be_child(void)
{
    sigset_t none;

    sigemptyset(&none);
    while (!asked)
        sigsuspend(&none);
    return check_all() != NULL;
}

int main(int argc, char **argv)
{
    sigset_t asking, none;
    pthread_t thread;
    int status;

    sigemptyset(&none);
    sigemptyset(&asking);
    sigaddset(&asking, SIGUSR1);
    sigaddset(&asking, SIGUSR2);
    MUST(argc == 2);
    MUST(sigprocmask(SIG_BLOCK, &asking, NULL) == 0);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    asleep = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(asleep != MAP_FAILED);
    *asleep = (struct timespec){100000, 0};
    fill_all(argv[1]);
    page_out(); // no longer possible once somebody shares it
    const pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        return be_child();
    MUST(pthread_create(&thread, NULL, sleep_long, NULL) == 0);
    usleep(500000);
    page_out();
    say("swapped");
    while (asked != SIGUSR1) {
        sigsuspend(&none);
        if (asked == SIGUSR2) {
            asked = 0;
            read_some();
            say("read");
        }
    }
    const char *wrong = check_all();
    MUST(kill(child, SIGUSR1) == 0 && waitpid(child, &status, 0) == child);
    say(wrong ? wrong : status ? "the child's memory is wrong" : "right");
    return wrong || status;
}
