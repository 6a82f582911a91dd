// SPDX-License-Identifier: GPL-2.0-or-later
// Open files by name: every flag that open() and fcntl() show, places (O_PATH), and descriptors
// that share an open file within a process and across processes.
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define BYTES  10000
#define SECRET "secret \xff\x80" // no UTF-8

static uint8_t byte_at(size_t n)
{
    return (uint8_t)subject_mix(n);
}

static const char *in_workdir(const char *name)
{
    static char path[256];

    if (name[0] == '/')
        return name;
    snprintf(path, sizeof path, "%s/%s", subject.workdir, name);
    return path;
}

/* ---- by name ---- */

static struct opened {
    const char *name;
    int flags, also; // of open(), of F_SETFL
    off_t pos;
    bool may_fail; // the file system does not take the flags
    int fd, shown;
} files[] = {
    {"data", O_RDONLY, 0, 0, false, 0, 0},
    {"data", O_RDWR, 0, 1234, false, 0, 0},
    {"data", O_RDWR | O_APPEND, 0, BYTES, false, 0, 0},
    {"data", O_WRONLY | O_APPEND | O_DSYNC, 0, 7, false, 0, 0},
    {"data", O_WRONLY | O_SYNC, 0, 1 << 20, false, 0, 0},
    {"data", O_RDONLY | O_NOATIME | O_NONBLOCK, 0, 4096, false, 0, 0},
    {"data", O_RDWR | O_NOFOLLOW, O_APPEND | O_NONBLOCK, 1ll << 40, false, 0, 0},
    {"data", O_RDWR | O_DIRECT, 0, 4096, true, 0, 0},
    {"data", O_RDWR, O_NOATIME, 5, false, 0, 0},
    {"data", 3, 0, 0, false, 0, 0}, // for ioctls alone
    {SECRET, O_RDWR, 0, 3, false, 0, 0},
    {"folder", O_RDONLY | O_DIRECTORY, 0, 0, false, 0, 0},
    {"folder", O_RDONLY | O_NOATIME, 0, 0, false, 0, 0},
    {"data", O_PATH, 0, 0, false, 0, 0},
    {"folder", O_PATH | O_DIRECTORY, 0, 0, false, 0, 0},
    {"folder", O_PATH | O_NOFOLLOW, 0, 0, false, 0, 0},
    {"link", O_PATH | O_NOFOLLOW, 0, 0, false, 0, 0},
    {"fifo", O_PATH, 0, 0, false, 0, 0},
    {"socket", O_PATH, 0, 0, false, 0, 0},
    {"/dev/null", O_PATH, 0, 0, false, 0, 0},
    {"/dev/null", O_RDWR | O_APPEND, 0, 0, false, 0, 0},
    {"/dev/zero", O_RDONLY | O_NONBLOCK, 0, 0, false, 0, 0},
    {"/proc/version", O_RDONLY, 0, 5, false, 0, 0},
    {"/sys/kernel/notes", O_RDONLY, 0, 16, false, 0, 0},
};
#define N_FILES (sizeof files / sizeof files[0])

static void prepare(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    uint8_t data[BYTES];
    int fd;

    for (size_t i = 0; i < BYTES; i++)
        data[i] = byte_at(i);
    MUST((fd = open(in_workdir("data"), O_WRONLY | O_CREAT | O_TRUNC, 0644)) >= 0);
    MUST(write(fd, data, BYTES) == BYTES && close(fd) == 0);
    MUST((fd = open(in_workdir(SECRET), O_WRONLY | O_CREAT | O_TRUNC, 0)) >= 0);
    MUST(write(fd, data, 100) == 100 && fchown(fd, 77, 78) == 0 && close(fd) == 0);
    MUST(mkdir(in_workdir("folder"), 0700) == 0);
    MUST(symlink("nowhere", in_workdir("link")) == 0);
    MUST(mkfifo(in_workdir("fifo"), 0600) == 0);
    MUST((fd = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    strcpy(name.sun_path, in_workdir("socket"));
    MUST(bind(fd, (struct sockaddr *)&name, sizeof name) == 0 && close(fd) == 0);
}

static void open_files(void)
{
    for (struct opened *f = files; f < files + N_FILES; f++) {
        f->fd = open(in_workdir(f->name), f->flags | O_CLOEXEC);
        if (f->fd < 0 && f->may_fail)
            continue;
        CHECK(f->fd >= 0, "%s: %m", f->name);
        MUST(f->also == 0 || fcntl(f->fd, F_SETFL, f->also) == 0);
        MUST((f->flags & O_PATH) || f->pos == 0 || lseek(f->fd, f->pos, SEEK_SET) == f->pos);
        f->shown = fcntl(f->fd, F_GETFL);
    }
}

static void check_file(const struct opened *f)
{
    char link[64], shown[256] = "", expected[256];
    struct stat before, by_name, by_fd;
    uint8_t byte;
    const int flags = fcntl(f->fd, F_GETFL);

    CHECK(flags == f->shown, "%s: flags %o, not %o", f->name, flags, f->shown);
    CHECK(fcntl(f->fd, F_GETFD) == FD_CLOEXEC, "%s: close-on-exec is lost", f->name);
    // Numbers of one machine: not those from before and after a move.
    do {
        MUST(fstat(f->fd, &before) == 0 && lstat(in_workdir(f->name), &by_name) == 0 &&
             fstat(f->fd, &by_fd) == 0);
    } while (before.st_ino != by_fd.st_ino || before.st_dev != by_fd.st_dev);
    CHECK(by_fd.st_ino == by_name.st_ino && by_fd.st_dev == by_name.st_dev, "%s is another file",
          f->name);
    snprintf(link, sizeof link, "/proc/self/fd/%d", f->fd);
    snprintf(expected, sizeof expected, "%s", in_workdir(f->name));
    CHECK(readlink(link, shown, sizeof shown - 1) > 0 && strcmp(shown, expected) == 0,
          "%s shows as %s", f->name, shown);
    if (f->flags & O_PATH) {
        CHECK(read(f->fd, &byte, 1) < 0 && errno == EBADF, "%s can be read", f->name);
        return;
    }
    if (S_ISREG(by_fd.st_mode))
        CHECK(lseek(f->fd, 0, SEEK_CUR) == f->pos, "%s: position %ld, not %ld", f->name,
              lseek(f->fd, 0, SEEK_CUR), f->pos);
}

static void check_files(void)
{
    for (const struct opened *f = files; f < files + N_FILES; f++) {
        if (f->fd >= 0)
            check_file(f);
    }
}

// Reading, writing and appending do what they should.
static void use_files(void)
{
    uint8_t bytes[16];
    char text[16] = "";
    struct stat st;

    MUST(fstat(files[1].fd, &st) == 0);
    CHECK(read(files[1].fd, bytes, 1) == 1 && bytes[0] == byte_at(1234), "reads another byte");
    CHECK(read(files[3].fd, bytes, 1) < 0 && errno == EBADF, "what is for writing can be read");
    CHECK(write(files[0].fd, "x", 1) < 0 && errno == EBADF, "what is for reading can be written");
    CHECK(write(files[2].fd, "appended", 8) == 8 && fstat(files[2].fd, &st) == 0 &&
              st.st_size == BYTES + 8,
          "what is written is not appended");
    CHECK(pread(files[1].fd, text, 8, BYTES) == 8 && strcmp(text, "appended") == 0,
          "what is appended is not there");
    CHECK(read(files[10].fd, bytes, 1) == 1 && bytes[0] == byte_at(3), "the secret is another");
}

/* ---- shared by several descriptors and processes ---- */

static int shared, twin, separate; // of the same file; the first two are one open file
static int to_child[2], from_child[2];
static int up[2], down[2];  // pipes of which each process holds one end
static int fifo_write = -1; // of the parent, and the child's is below
static pid_t child;

static bool is_same(pid_t a, int x, pid_t b, int y)
{
    return syscall(SYS_kcmp, a, b, KCMP_FILE, x, y) == 0;
}

// Answers with the position of the shared file after each byte; "q" ends it.
static _Noreturn void child_main(void)
{
    char command, text[16];
    int fifo;

    close(up[0]);
    close(down[1]);
    MUST((fifo = open(in_workdir("fifo"), O_RDONLY)) >= 0);
    // By a descriptor of a number of its own.
    MUST(dup2(shared, 700) == 700);
    MUST(write(from_child[1], "r", 1) == 1);
    while (read(to_child[0], &command, 1) == 1 && command != 'q') {
        const off_t pos = lseek(700, command == '+' ? 1 : 0, SEEK_CUR);

        MUST(write(from_child[1], &pos, sizeof pos) == sizeof pos);
    }
    CHECK(read(down[0], text, sizeof text) == 4 && memcmp(text, "down", 4) == 0,
          "what was in the pipe for the child is not there");
    CHECK(read(down[0], text, sizeof text) == 0, "the end of the parent is still open");
    CHECK(read(fifo, text, sizeof text) == 4 && memcmp(text, "fifo", 4) == 0,
          "what was in the FIFO is not there");
    MUST(write(up[1], "done", 4) == 4);
    _exit(0);
}

static off_t ask_child(char command)
{
    off_t pos;

    MUST(write(to_child[1], &command, 1) == 1);
    CHECK(read(from_child[0], &pos, sizeof pos) == sizeof pos, "the child does not answer");
    return pos;
}

static void share(void)
{
    char ready;

    MUST((shared = open(in_workdir("data"), O_RDWR)) >= 0 && (twin = dup(shared)) >= 0);
    MUST((separate = open(in_workdir("data"), O_RDWR)) >= 0);
    MUST(pipe(to_child) == 0 && pipe(from_child) == 0 && pipe(up) == 0 && pipe(down) == 0);
    MUST((child = fork()) >= 0);
    if (child == 0)
        child_main();
    close(up[1]);
    close(down[0]);
    close(to_child[0]);
    close(from_child[1]);
    MUST((fifo_write = open(in_workdir("fifo"), O_WRONLY)) >= 0 &&
         write(fifo_write, "fifo", 4) == 4);
    MUST(read(from_child[0], &ready, 1) == 1);
    MUST(write(down[1], "down", 4) == 4);
}

static void check_sharing(void)
{
    const off_t before = lseek(shared, 3, SEEK_CUR);

    CHECK(lseek(twin, 0, SEEK_CUR) == before, "the duplicate has a position of its own");
    CHECK(ask_child('?') == before, "the child has a position of its own");
    CHECK(ask_child('+') == before + 1 && lseek(twin, 0, SEEK_CUR) == before + 1,
          "the child's position is not ours");
    CHECK(lseek(separate, 0, SEEK_CUR) == 0, "an open file of its own has been moved");
    CHECK(is_same(getpid(), shared, getpid(), twin) && is_same(getpid(), shared, child, 700) &&
              is_same(getpid(), shared, child, shared),
          "descriptors of one open file have several");
    CHECK(!is_same(getpid(), shared, getpid(), separate), "two open files have become one");
    MUST(fcntl(twin, F_SETFL, O_APPEND) == 0);
    CHECK(fcntl(shared, F_GETFL) & O_APPEND, "flags are not shared");
    MUST(fcntl(shared, F_SETFL, 0) == 0);
}

static void end_child(void)
{
    char text[8];
    int status;

    MUST(write(to_child[1], "q", 1) == 1);
    close(down[1]);
    CHECK(read(up[0], text, sizeof text) == 4 && memcmp(text, "done", 4) == 0,
          "the child has not come through");
    CHECK(read(up[0], text, sizeof text) == 0, "the child's end is still open");
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
    signal(SIGPIPE, SIG_IGN);
    CHECK(write(fifo_write, "x", 1) < 0 && errno == EPIPE, "the FIFO still has a reader");
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    open_files();
    share();
    subject_ready();
    if (subject.sabotage)
        lseek(files[1].fd, 1, SEEK_CUR);
    do {
        check_files();
        check_sharing();
    } while (!subject_asked());
    use_files();
    end_child();
    subject_pass();
}
