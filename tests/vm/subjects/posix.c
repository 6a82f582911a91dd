// SPDX-License-Identifier: GPL-2.0-or-later
// POSIX shared memory and named semaphores, with names and without, between two processes.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define PAGE  4096u
#define BYTES (3u << 20) // more than is carried without being asked for
#define STEP  37u        // pages from one that is written to the next
#define VALUE 5

// At the start of the shared memory.
struct shared {
    pthread_mutex_t lock;
    uint64_t turns, child_turns;
    bool stop;
};

static char shm_name[64], ping_name[64], pong_name[64], counter_name[64];
static struct shared *shared, *again;
static uint8_t *unlinked;
static sem_t *ping, *pong, *counter, *nameless;
static int shm_fd;
static pid_t child;

static const char *name_it(char name[64], const char *what)
{
    snprintf(name, 64, "/vmgraft-%d-%s", getpid(), what);
    return name;
}

static uint8_t *filled(int fd, uint64_t seed)
{
    MUST(ftruncate(fd, BYTES) == 0);
    uint8_t *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    MUST(at != MAP_FAILED);
    for (size_t n = PAGE; n < BYTES; n += STEP * PAGE)
        memset(at + n, (int)(subject_mix(seed + n) | 1), PAGE);
    return at;
}

static void check_filled(const uint8_t *at, uint64_t seed)
{
    for (size_t n = PAGE; n < BYTES; n += PAGE) {
        const bool written = (n - PAGE) % (STEP * PAGE) == 0;
        const uint8_t want = written ? (uint8_t)(subject_mix(seed + n) | 1) : 0;

        CHECK(at[n] == want && at[n + PAGE - 1] == want, "byte %zu is %u, not %u", n, at[n], want);
    }
}

static sem_t *new_semaphore(char name[64], const char *what, unsigned value)
{
    sem_t *sem = sem_open(name_it(name, what), O_CREAT | O_EXCL, 0640, value);

    MUST(sem != SEM_FAILED);
    return sem;
}

static void set_up_memory(void)
{
    pthread_mutexattr_t attr;
    char name[64];
    int fd;

    MUST((shm_fd = shm_open(name_it(shm_name, "shm"), O_RDWR | O_CREAT | O_EXCL, 0640)) >= 0);
    shared = (struct shared *)filled(shm_fd, 1);
    MUST((again = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, shm_fd, 0)) != MAP_FAILED);
    MUST(pthread_mutexattr_init(&attr) == 0 && pthread_mutexattr_setpshared(&attr, 1) == 0);
    MUST(pthread_mutex_init(&shared->lock, &attr) == 0);

    MUST((fd = shm_open(name_it(name, "gone"), O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0);
    unlinked = filled(fd, 2);
    MUST(shm_unlink(name) == 0 && close(fd) == 0);
}

static _Noreturn void answer(void)
{
    bool stop;

    do {
        while (sem_wait(ping) < 0)
            ;
        pthread_mutex_lock(&shared->lock);
        shared->child_turns++;
        stop = shared->stop; // of this turn: it may be set for the next as soon as this one ends
        pthread_mutex_unlock(&shared->lock);
        sem_post(pong);
    } while (!stop);
    _exit(0);
}

static void turn(void)
{
    pthread_mutex_lock(&shared->lock);
    shared->turns++;
    pthread_mutex_unlock(&shared->lock);
    MUST(sem_post(ping) == 0);
    while (sem_wait(pong) < 0)
        MUST(errno == EINTR);
    CHECK(shared->child_turns == shared->turns && again->turns == shared->turns,
          "turn %lu is the child's %lu and %lu by the other mapping", shared->turns,
          shared->child_turns, again->turns);
}

// The name leads to the very object that is in use.
static void check_name(const char *name, int fd)
{
    struct stat by_name, by_fd;

    CHECK(stat(name, &by_name) == 0, "%s: %m", name);
    MUST(fstat(fd, &by_fd) == 0);
    CHECK(by_name.st_ino == by_fd.st_ino && by_name.st_dev == by_fd.st_dev, "%s is another", name);
    CHECK(by_fd.st_mode == (S_IFREG | 0640) && by_fd.st_nlink == 1 && by_fd.st_size == BYTES,
          "%s: mode %o, %lu links, %lld bytes", name, by_fd.st_mode, (unsigned long)by_fd.st_nlink,
          (long long)by_fd.st_size);
}

static void check_memory(void)
{
    char path[96];
    int fd;

    check_filled((uint8_t *)shared, 1);
    check_filled(unlinked, 2);
    snprintf(path, sizeof path, "/dev/shm%s", shm_name);
    check_name(path, shm_fd);
    MUST((fd = shm_open(shm_name, O_RDWR, 0)) >= 0);
    struct shared *opened = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

    MUST(opened != MAP_FAILED);
    turn();
    CHECK(opened->turns == shared->turns, "by its name it is other memory");
}

static void check_semaphores(void)
{
    sem_t *opened = sem_open(counter_name, 0);
    int value = -1;

    CHECK(opened != SEM_FAILED, "%s: %m", counter_name);
    MUST(sem_post(opened) == 0 && sem_getvalue(counter, &value) == 0);
    CHECK(value == VALUE + 1, "the semaphore is %d after one post by its name", value);
    MUST(sem_getvalue(nameless, &value) == 0);
    CHECK(value == VALUE + 2, "the semaphore without a name is %d", value);
    MUST(sem_unlink(counter_name) == 0 && sem_unlink(ping_name) == 0 && sem_unlink(pong_name) == 0);
    MUST(sem_trywait(counter) == 0);
}

int main(int argc, char **argv)
{
    char name[64];
    int status;

    subject_begin(argc, argv);
    umask(0);
    if (subject.prepare) {
        MUST(mkdir("/dev/shm", 01777) == 0 || errno == EEXIST);
        return 0;
    }
    set_up_memory();
    ping = new_semaphore(ping_name, "ping", 0);
    pong = new_semaphore(pong_name, "pong", 0);
    counter = new_semaphore(counter_name, "counter", VALUE);
    nameless = new_semaphore(name, "nameless", VALUE + 2);
    MUST(sem_unlink(name) == 0);
    MUST((child = fork()) >= 0);
    if (child == 0)
        answer();
    subject_ready();
    if (subject.sabotage)
        ((uint8_t *)shared)[PAGE + 5 * STEP * PAGE] ^= 0x10;
    while (!subject_asked()) {
        turn();
        subject_sleep_ms(1);
    }
    check_memory();
    shared->stop = true;
    turn();
    check_semaphores();
    MUST(waitpid(child, &status, 0) == child && status == 0 && shm_unlink(shm_name) == 0);
    subject_pass();
}
