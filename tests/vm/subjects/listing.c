// SPDX-License-Identifier: GPL-2.0-or-later
// Directories that are being read, and files of /proc that speak of the program itself.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define N_NAMES 60

struct entry {
    uint64_t ino;
    int64_t next;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

// A directory that has been read in part: which names have come.
struct reader {
    int fd;
    bool seen[N_NAMES], dot, dot_dot;
    unsigned n;
};

static struct reader fresh, begun, middle, last, done, removed, shared;
static int status_fd, maps_fd, environ_fd, mem_fd, self_fd, task_fd, fds_fd, child_fd, place_fd;
static int described_fd, closed_fd, thread_fd;
static pid_t child;
static pid_t thread; // not listed in /proc, and there all the same
static uint64_t watched = 1;

static void prepare(void)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/names", subject.workdir);
    MUST(mkdir(path, 0755) == 0);
    for (unsigned i = 0; i < N_NAMES; i++) {
        snprintf(path, sizeof path, "%s/names/%03u-a-name-that-takes-some-room", subject.workdir,
                 i * 7 % N_NAMES);
        const int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
        MUST(fd >= 0 && close(fd) == 0);
    }
}

static void *sleep_on(void *named)
{
    MUST(prctl(PR_SET_NAME, "the thread") == 0);
    thread = (pid_t)syscall(SYS_gettid);
    pthread_barrier_wait(named);
    for (;;)
        pause();
}

static void start_thread(void)
{
    static pthread_barrier_t named;
    pthread_t id;

    MUST(pthread_barrier_init(&named, NULL, 2) == 0);
    MUST(pthread_create(&id, NULL, sleep_on, &named) == 0);
    pthread_barrier_wait(&named);
}

// About one name for each 64 bytes; 0 at the end.
static unsigned read_on(struct reader *r, size_t bytes)
{
    _Alignas(struct entry) char data[8192];
    const long n = syscall(SYS_getdents64, r->fd, data, bytes);
    unsigned count = 0;

    MUST(n >= 0);
    for (long at = 0; at < n; count++) {
        const struct entry *entry = (const struct entry *)(data + at);
        char *end;
        const unsigned long i = strtoul(entry->name, &end, 10);

        at += entry->reclen;
        r->n++;
        if (strcmp(entry->name, ".") == 0 && !r->dot)
            r->dot = true;
        else if (strcmp(entry->name, "..") == 0 && !r->dot_dot)
            r->dot_dot = true;
        else {
            CHECK(end == entry->name + 3 && i < N_NAMES, "a name %s", entry->name);
            CHECK(!r->seen[i], "%s comes twice", entry->name);
            r->seen[i] = true;
        }
    }
    return count;
}

static void open_names(struct reader *r)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/names", subject.workdir);
    MUST((r->fd = open(path, O_RDONLY | O_DIRECTORY)) >= 0);
}

static void finish(struct reader *r, const char *what)
{
    while (read_on(r, 200))
        ;
    CHECK(r->n == N_NAMES + 2 && r->dot && r->dot_dot, "%s: %u names in all", what, r->n);
    CHECK(read_on(r, 8192) == 0, "%s: more at the end", what);
    MUST(lseek(r->fd, 0, SEEK_SET) == 0);
    memset(r->seen, 0, sizeof r->seen);
    r->dot = r->dot_dot = false;
    r->n = 0;
}

static int open_proc(const char *format, int pid, int flags)
{
    char path[64];
    int fd;

    snprintf(path, sizeof path, format, pid);
    MUST((fd = open(path, flags)) >= 0);
    return fd;
}

static void set_up(void)
{
    char path[PATH_MAX];
    int fd, named[2];

    open_names(&fresh);
    open_names(&begun);
    open_names(&middle);
    open_names(&last);
    open_names(&done);
    open_names(&shared);
    CHECK(read_on(&begun, 64) > 0, "nothing was read");
    while (middle.n < N_NAMES / 2)
        read_on(&middle, 80);
    while (shared.n < N_NAMES / 3)
        read_on(&shared, 80);
    while (last.n < N_NAMES + 1)
        read_on(&last, 72);
    while (read_on(&done, 8192))
        ;
    snprintf(path, sizeof path, "%s/removed", subject.workdir);
    MUST(mkdir(path, 0700) == 0 && (removed.fd = open(path, O_RDONLY | O_DIRECTORY)) >= 0);
    CHECK(read_on(&removed, 8192) == 2, "names in an empty directory");
    MUST(rmdir(path) == 0);

    MUST(pipe(named) == 0 && (child = fork()) >= 0);
    if (child == 0) {
        MUST(prctl(PR_SET_NAME, "the child") == 0 && write(named[1], "", 1) == 1);
        MUST(close(named[0]) == 0 && close(named[1]) == 0);
        for (;;)
            pause();
    }
    MUST(read(named[0], &(char){0}, 1) == 1 && close(named[0]) == 0 && close(named[1]) == 0);
    const int self = getpid();
    status_fd = open_proc("/proc/self/status", self, O_RDONLY);
    maps_fd = open_proc("/proc/%d/maps", self, O_RDONLY | O_CLOEXEC);
    environ_fd = open_proc("/proc/%d/environ", self, O_RDONLY);
    mem_fd = open_proc("/proc/%d/mem", self, O_RDWR);
    self_fd = open_proc("/proc/%d", self, O_RDONLY | O_DIRECTORY);
    task_fd = open_proc("/proc/self/task/%d/comm", self, O_RDWR);
    fds_fd = open_proc("/proc/%d/fd", self, O_RDONLY | O_DIRECTORY);
    place_fd = open_proc("/proc/%d/root", child, O_PATH | O_NOFOLLOW);
    child_fd = open_proc("/proc/%d/comm", child, O_RDONLY);
    start_thread();
    thread_fd = open_proc("/proc/%d/comm", thread, O_RDONLY);
    // What follows gets the lowest number, which is taken later.
    MUST((fd = dup2(maps_fd, 90)) == 90);
    described_fd = open_proc("/proc/%d/fdinfo/90", self, O_RDONLY);
    MUST(dup2(maps_fd, 91) == 91);
    closed_fd = open_proc("/proc/self/fdinfo/91", self, O_RDONLY);
    MUST(close(91) == 0);
    MUST(read(environ_fd, path, 5) >= 0);
}

static ssize_t text_of(int fd, char *text, size_t size)
{
    const ssize_t n = pread(fd, text, size - 1, 0);

    MUST(n >= 0);
    text[n] = 0;
    return n;
}

static void check_name(int fd, const char *format, int pid)
{
    char link[64], shown[PATH_MAX] = "", expected[64];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    snprintf(expected, sizeof expected, format, pid);
    MUST(readlink(link, shown, sizeof shown - 1) > 0);
    CHECK(strcmp(shown, expected) == 0, "%s shows as %s", expected, shown);
}

static void check_proc(void)
{
    static char text[65536];
    char expected[64];
    const int self = getpid();
    struct stat st;

    text_of(status_fd, text, sizeof text);
    snprintf(expected, sizeof expected, "\nPid:\t%d\n", self);
    CHECK(strstr(text, expected), "status is of somebody else: %.100s", text);
    MUST(lseek(maps_fd, 0, SEEK_SET) == 0 && lseek(90, 0, SEEK_CUR) == 0);
    CHECK(read(maps_fd, text, 100) == 100 && lseek(90, 0, SEEK_CUR) == 100,
          "a copy of the descriptor has a position of its own");
    CHECK(fcntl(maps_fd, F_GETFD) == FD_CLOEXEC && fcntl(90, F_GETFD) == 0, "flags are lost");
    CHECK(pread(mem_fd, &text, sizeof watched, (off_t)(uintptr_t)&watched) == sizeof watched &&
              memcmp(text, &watched, sizeof watched) == 0,
          "mem shows other memory");
    watched++;
    MUST(fstatat(self_fd, "task", &st, 0) == 0);
    CHECK(write(task_fd, "listing", 7) == 7, "comm cannot be written: %m");
    text_of(described_fd, text, sizeof text);
    CHECK(strstr(text, "pos:\t100\n"), "fdinfo of descriptor 90: %s", text);
    CHECK(pread(closed_fd, text, 1, 0) < 0 && errno == ENOENT, "fdinfo of a closed one: %m");
    CHECK(faccessat(fds_fd, "90", F_OK, AT_SYMLINK_NOFOLLOW) == 0, "no descriptor 90");
    text_of(child_fd, text, sizeof text);
    CHECK(strcmp(text, "the child\n") == 0, "the child is called %s", text);
    text_of(thread_fd, text, sizeof text);
    CHECK(strcmp(text, "the thread\n") == 0, "the thread is called %s", text);
    check_name(thread_fd, "/proc/%d/comm", thread);
    check_name(status_fd, "/proc/%d/status", self);
    check_name(maps_fd, "/proc/%d/maps", self);
    check_name(self_fd, "/proc/%d", self);
    check_name(child_fd, "/proc/%d/comm", child);
    check_name(place_fd, "/proc/%d/root", child);
    CHECK(lseek(environ_fd, 0, SEEK_CUR) <= 5, "the position in environ is %ld",
          lseek(environ_fd, 0, SEEK_CUR));
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    set_up();
    subject_ready();
    if (subject.sabotage)
        read_on(&middle, 80), middle.n--;
    do {
        check_proc();
        subject_sleep_ms(2);
    } while (!subject_asked());
    finish(&fresh, "not begun");
    finish(&begun, "begun");
    finish(&middle, "in the middle");
    finish(&shared, "a third");
    finish(&last, "at the last name");
    CHECK(read_on(&done, 8192) == 0, "names behind the end");
    finish(&done, "at the end");
    finish(&middle, "once more");
    CHECK(syscall(SYS_getdents64, removed.fd, &(char[64]){0}, 64) < 0 && errno == ENOENT,
          "a deleted directory can be read: %m");
    kill(child, SIGKILL);
    MUST(waitpid(child, NULL, 0) == child);
    errno = 0;
    CHECK(pread(child_fd, &(char){0}, 1, 0) < 0 && errno == ESRCH, "a dead child has a name");
    subject_pass();
}
