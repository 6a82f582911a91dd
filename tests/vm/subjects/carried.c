// SPDX-License-Identifier: GPL-2.0-or-later
// Small files that the target does not have, and which come along (--carry-files).
// Argument parent-death: one that dies with its parent, which stays behind, as well.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "subject.h"

#define PAGE  4096u
#define BYTES (9 * PAGE + 123)
#define HOLE  4u // the page that was never written
#define MTIME 1500000001

static int file, writer, log_fd, linked, empty, program, deep, watched, events, wd;
static uint8_t *shared, *private;
static uint64_t generation;

static uint8_t byte_at(size_t n)
{
    return n / PAGE == HOLE ? 0 : (uint8_t)subject_mix(n);
}

static int create(const char *name, int flags)
{
    const int fd = open(name, flags | O_CREAT | O_EXCL, 0640);

    MUST(fd >= 0);
    return fd;
}

static void fill(int fd)
{
    uint8_t data[PAGE];

    for (size_t n = 0; n < BYTES; n += PAGE) {
        const size_t part = BYTES - n < PAGE ? BYTES - n : PAGE;

        for (size_t i = 0; i < part; i++)
            data[i] = byte_at(n + i);
        MUST(n / PAGE == HOLE || pwrite(fd, data, part, (off_t)n) == (ssize_t)part);
    }
}

// A file that is watched by a name that nobody has open.
static void watch(void)
{
    watched = create("watched", O_RDWR);
    MUST(link("watched", "watched.2") == 0 && (events = inotify_init1(IN_NONBLOCK)) >= 0);
    MUST((wd = inotify_add_watch(events, "watched.2", IN_MODIFY | IN_ATTRIB)) > 0);
}

static void check_watch(void)
{
    struct inotify_event event = {0};

    CHECK(read(events, &event, sizeof event) < 0 && errno == EAGAIN, "event %x", event.mask);
    MUST(write(watched, "w", 1) == 1);
    CHECK(read(events, &event, sizeof event) == sizeof event, "no event: %m");
    CHECK(event.wd == wd && event.mask == IN_MODIFY, "event %x of %d", event.mask, event.wd);
}

static void set_up(void)
{
    const struct timespec times[2] = {{.tv_sec = MTIME}, {.tv_sec = MTIME, .tv_nsec = 3}};

    MUST(chdir(subject.workdir) == 0);
    writer = create("data", O_RDWR);
    fill(writer);
    MUST((file = open("data", O_RDONLY)) >= 0 && lseek(file, 777, SEEK_SET) == 777);
    shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
    private = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    MUST(shared != MAP_FAILED && private != MAP_FAILED);
    private[PAGE] = 42;
    MUST(fchown(writer, 7, 8) == 0 && link("data", "data.2") == 0);
    MUST((linked = open("data.2", O_RDWR)) >= 0);

    log_fd = create("log", O_WRONLY | O_APPEND);
    MUST(write(log_fd, "one\n", 4) == 4);
    empty = create("empty", O_RDWR);
    MUST(fchmod(empty, 0604) == 0 && futimens(empty, times) == 0);
    program = create("program", O_RDWR);
    MUST(fchmod(program, 04711) == 0);
    MUST(mkdir("above", 0700) == 0 && mkdir("above/it", 0700) == 0);
    deep = create("above/it/deep", O_RDWR);
    MUST(write(deep, "deep", 4) == 4 && chmod("above", 02751) == 0 && chown("above/it", 5, 6) == 0);
    watch();
}

// The name leads to the very file that is open.
static void check_name(const char *name, int fd, mode_t mode, uid_t uid, off_t size, nlink_t links)
{
    struct stat by_name, by_fd;

    CHECK(stat(name, &by_name) == 0, "%s: %m", name);
    MUST(fstat(fd, &by_fd) == 0);
    CHECK(by_name.st_ino == by_fd.st_ino && by_name.st_dev == by_fd.st_dev, "%s is another", name);
    CHECK(by_fd.st_mode == (S_IFREG | mode), "%s: mode %o", name, by_fd.st_mode);
    CHECK(by_fd.st_uid == uid, "%s: owner %u", name, by_fd.st_uid);
    CHECK(by_fd.st_size == size, "%s: %lld bytes", name, (long long)by_fd.st_size);
    CHECK(by_fd.st_nlink == links, "%s: %lu links", name, (unsigned long)by_fd.st_nlink);
}

static void check_data(void)
{
    static uint8_t data[BYTES + 1];

    CHECK(pread(file, data, sizeof data, 0) == BYTES, "data: its length");
    for (size_t n = 8; n < BYTES; n++)
        CHECK(data[n] == byte_at(n), "data: byte %zu", n);
    CHECK(memcmp(data, &generation, 8) == 0, "data lacks what was written by the mapping");
    CHECK(private[PAGE] == 42 && private[PAGE + 1] == byte_at(PAGE + 1), "private mapping");
    CHECK(lseek(file, 0, SEEK_CUR) == 777, "position");
}

static void check(void)
{
    char text[16];
    struct stat st;
    int fd;

    check_name("data", writer, 0640, 7, BYTES, 2);
    check_name("data", file, 0640, 7, BYTES, 2);
    check_name("data.2", linked, 0640, 7, BYTES, 2);
    check_name("log", log_fd, 0640, 0, 4, 1);
    check_name("empty", empty, 0604, 0, 0, 1);
    check_name("program", program, 04711, 0, 0, 1);
    check_name("above/it/deep", deep, 0640, 0, 4, 1);
    CHECK(stat("above", &st) == 0 && st.st_mode == (S_IFDIR | 02751), "above: %o", st.st_mode);
    CHECK(stat("above/it", &st) == 0 && st.st_uid == 5 && st.st_gid == 6, "above/it: its owner");
    check_data();
    MUST(fstat(empty, &st) == 0);
    CHECK(st.st_mtim.tv_sec == MTIME && st.st_mtim.tv_nsec == 3, "time of modification");

    // All ways lead to one file.
    MUST(pwrite(linked, "x", 1, PAGE) == 1);
    CHECK(shared[PAGE] == 'x', "the other name is another file");
    MUST(write(log_fd, "two\n", 4) == 4 && (fd = open("log", O_RDONLY)) >= 0);
    CHECK(read(fd, text, sizeof text) == 8 && memcmp(text, "one\ntwo\n", 8) == 0, "log");
}

int main(int argc, char **argv)
{
    int parent_death;

    subject_begin(argc, argv);
    set_up();
    if (subject.argument)
        MUST(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
    subject_ready();
    if (subject.sabotage)
        MUST(pwrite(writer, "sabotage", 8, 5 * PAGE) == 8);
    // Some page is always dirty.
    while (!subject_asked()) {
        generation++;
        memcpy(shared, &generation, 8);
        subject_sleep_ms(1);
    }
    check();
    check_watch();
    MUST(prctl(PR_GET_PDEATHSIG, &parent_death) == 0);
    CHECK(parent_death == (subject.argument ? SIGTERM : 0), "PR_GET_PDEATHSIG %d", parent_death);
    subject_pass();
}
