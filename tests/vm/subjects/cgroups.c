// SPDX-License-Identifier: GPL-2.0-or-later
// Cgroups (version 2), which both guests have: of a process, of a child in another, and of threads
// that have been put apart in threaded ones.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define MOUNT "/sys/fs/cgroup"
#define TOP   "/vmgraft-subject"

enum { N_THREADS = 3 };

// Threads come by turns to these; the main thread is in the domain itself.
static const char *const threaded[] = {TOP "/domain/left", TOP "/domain/right",
                                       TOP "/domain/left/below"};

static pid_t child;
static _Atomic pid_t *threads; // shared: the child has such, too
static pthread_t handles[N_THREADS];

static void write_file(const char *cgroup, const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, MOUNT "%s/%s", cgroup, name);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);

    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s: %m", path,
          text);
    close(fd);
}

static void enter(const char *cgroup, const char *name, pid_t id)
{
    char text[16];

    snprintf(text, sizeof text, "%d", (int)id);
    write_file(cgroup, name, text);
}

static void make(const char *cgroup)
{
    char path[256];

    snprintf(path, sizeof path, MOUNT "%s", cgroup);
    CHECK(mkdir(path, 0755) == 0 || errno == EEXIST, "%s: %m", path);
}

static void prepare(void)
{
    static const char *const plain[] = {TOP, TOP "/one", TOP "/two", TOP "/domain"};

    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        make(plain[i]);
    for (size_t i = 0; i < N_THREADS; i++) {
        make(threaded[i]);
        write_file(threaded[i], "cgroup.type", "threaded");
    }
}

static void check_cgroup(pid_t pid, pid_t tid, const char *cgroup)
{
    char path[64], text[512], line[256];

    snprintf(path, sizeof path, "/proc/%d/task/%d/cgroup", (int)pid, (int)tid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    CHECK(n > 0, "%s: %m", path);
    close(fd);
    text[n] = 0;
    // Hierarchies of version 1 have lines of their own.
    snprintf(line, sizeof line, "0::%s\n", cgroup);
    CHECK(strstr(text, line), "%s: not %s, but %s", path, cgroup, text);
}

static _Noreturn void *sleep_on(void *where)
{
    *(_Atomic pid_t *)where = (pid_t)syscall(SYS_gettid);
    for (;;)
        pause();
}

static void start_threads(void)
{
    for (unsigned i = 0; i < N_THREADS; i++) {
        MUST(pthread_create(&handles[i], NULL, sleep_on, (void *)&threads[i]) == 0);
        AWAIT(threads[i], "a thread that does not start");
        enter(threaded[i], "cgroup.threads", threads[i]);
    }
}

// It has its own threads, each of which is in a cgroup of the domain.
static _Noreturn void be_child(int ready)
{
    enter(TOP "/domain", "cgroup.procs", getpid());
    start_threads();
    MUST(write(ready, "x", 1) == 1);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    int ready[2];
    char byte;

    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    threads = mmap(NULL, N_THREADS * sizeof *threads, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(threads != MAP_FAILED && pipe(ready) == 0);
    MUST((child = fork()) >= 0);
    if (child == 0)
        be_child(ready[1]);
    const pid_t other = fork();

    MUST(other >= 0);
    if (other == 0)
        for (;;)
            pause();
    enter(TOP "/one", "cgroup.procs", getpid());
    enter(TOP "/two", "cgroup.procs", other);
    MUST(read(ready[0], &byte, 1) == 1);
    subject_ready();
    if (subject.sabotage)
        enter(threaded[0], "cgroup.threads", threads[1]);
    while (!subject_asked()) {
        check_cgroup(getpid(), getpid(), TOP "/one");
        check_cgroup(other, other, TOP "/two");
        check_cgroup(child, child, TOP "/domain");
        for (unsigned i = 0; i < N_THREADS; i++)
            check_cgroup(child, threads[i], threaded[i]);
        subject_sleep_ms(2);
    }
    MUST(kill(child, SIGKILL) == 0 && kill(other, SIGKILL) == 0);
    MUST(waitpid(child, NULL, 0) == child && waitpid(other, NULL, 0) == other);
    subject_pass();
}
