// SPDX-License-Identifier: GPL-2.0-or-later
// Files, directories and FIFOs that are open and have no name any more, or not the one they had.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "subject.h"

#define PAGE   4096u
#define BYTES  (20 * PAGE + 777)
#define MTIME  1600000001
#define MAPPED (3 * PAGE) // to look into a hole by a mapping would fill it
#define N_NULL 5u         // pages of holes, from page 3 on

static int reader, writer, appender, linked, again, taken, tmpfile_fd, folder, inside, fifo;
static uint8_t *shared, *private;
static uint64_t generation;

static uint8_t byte_at(size_t n, uint64_t of)
{
    if (n / PAGE >= 3 && n / PAGE < 3 + N_NULL)
        return 0;
    return (uint8_t)(subject_mix(n / 8 + (of << 32)) >> (n % 8 * 8));
}

static int create(const char *name, int flags)
{
    int fd;

    MUST((fd = open(name, flags | O_CREAT | O_EXCL, 0640)) >= 0);
    return fd;
}

static void prepare(void)
{
    int fd;

    MUST(chdir(subject.workdir) == 0);
    fd = create("second", O_WRONLY);
    MUST(write(fd, "two names", 9) == 9 && close(fd) == 0);
    fd = create("taken", O_WRONLY);
    MUST(write(fd, "new", 3) == 3 && close(fd) == 0);
}

static void fill(int fd)
{
    uint8_t data[PAGE];

    for (size_t n = 0; n < BYTES; n += PAGE) {
        const size_t part = BYTES - n < PAGE ? BYTES - n : PAGE;

        for (size_t i = 0; i < part; i++)
            data[i] = byte_at(n + i, 0);
        MUST(byte_at(n, 0) == 0 || pwrite(fd, data, part, (off_t)n) == (ssize_t)part);
    }
    MUST(ftruncate(fd, BYTES) == 0);
}

static void set_up(void)
{
    const struct timespec times[2] = {{.tv_sec = MTIME, .tv_nsec = 7}, {.tv_sec = MTIME}};

    MUST(chdir(subject.workdir) == 0);
    writer = create("gone", O_RDWR);
    fill(writer);
    MUST((reader = open("gone", O_RDONLY | O_NOFOLLOW)) >= 0);
    shared = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
    private = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0);
    MUST(shared != MAP_FAILED && private != MAP_FAILED);
    private[PAGE] = 42;
    MUST(fchown(writer, 5, 6) == 0 && futimens(writer, times) == 0 && unlink("gone") == 0);
    MUST(lseek(reader, 5000, SEEK_SET) == 5000 && lseek(writer, 10, SEEK_SET) == 10);

    appender = create("empty", O_WRONLY | O_APPEND);
    MUST(unlink("empty") == 0);

    MUST(link("second", "first") == 0 && (linked = open("first", O_RDWR)) >= 0);
    MUST((again = open("second", O_RDONLY)) >= 0 && unlink("first") == 0);

    taken = create("old", O_RDWR);
    MUST(write(taken, "old", 3) == 3 && rename("old", "taken.old") == 0);
    MUST(rename("taken", "new") == 0 && rename("taken.old", "taken") == 0);
    MUST(rename("new", "taken") == 0); // over the one that is open

    MUST((tmpfile_fd = open(subject.workdir, O_TMPFILE | O_RDWR, 0600)) >= 0);
    MUST(write(tmpfile_fd, "never had a name", 16) == 16);

    MUST(mkdir("folder", 0711) == 0 && (folder = open("folder", O_RDONLY | O_DIRECTORY)) >= 0);
    MUST(chdir("folder") == 0);
    inside = create("inside", O_RDWR);
    MUST(write(inside, "inside", 6) == 6 && unlink("inside") == 0);
    MUST(mkfifo("fifo", 0620) == 0 && (fifo = open("fifo", O_RDWR)) >= 0 && unlink("fifo") == 0);
    MUST(fchown(fifo, 8, 9) == 0 && fchmod(fifo, 0620) == 0 && write(fifo, "in flight", 9) == 9);
    MUST(rmdir("../folder") == 0);
}

static void check_name(int fd, const char *name)
{
    char link[64], shown[PATH_MAX] = "", expected[PATH_MAX];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    snprintf(expected, sizeof expected, "%s/%s (deleted)", subject.workdir, name);
    CHECK(readlink(link, shown, sizeof shown - 1) > 0 && strcmp(shown, expected) == 0,
          "%s shows as %s", name, shown);
}

static void check_contents(void)
{
    uint8_t page[PAGE];
    struct stat st;

    for (size_t n = 0; n < BYTES; n += PAGE) {
        const ssize_t part = pread(reader, page, PAGE, (off_t)n);

        CHECK(part == (BYTES - n < PAGE ? (ssize_t)(BYTES - n) : (ssize_t)PAGE), "%zd bytes at %zu",
              part, n);
        for (size_t i = 0; i < (size_t)part; i++) {
            const uint8_t expected =
                n == 2 * PAGE && i == 0 ? (uint8_t)generation : byte_at(n + i, 0);

            CHECK(page[i] == expected, "byte %zu is %02x, not %02x", n + i, page[i], expected);
            CHECK(n >= MAPPED || shared[n + i] == expected, "shared byte %zu is %02x", n + i,
                  shared[n + i]);
            CHECK(n >= MAPPED || private[n + i] == (n + i == PAGE ? 42 : expected),
                  "private byte %zu is %02x", n + i, private[n + i]);
        }
    }
    MUST(fstat(reader, &st) == 0);
    CHECK(st.st_size == BYTES && st.st_nlink == 0 && st.st_uid == 5 && st.st_gid == 6 &&
              st.st_mode == (S_IFREG | 0640),
          "size %ld, links %lu, owner %u:%u, mode %o", st.st_size, st.st_nlink, st.st_uid,
          st.st_gid, st.st_mode);
    CHECK(st.st_blocks * 512ul <= BYTES + PAGE - N_NULL * PAGE, "%ld blocks: holes are filled",
          st.st_blocks);
}

static void check_places(void)
{
    char here[PATH_MAX];
    struct stat a, b, c;

    CHECK(lseek(reader, 0, SEEK_CUR) == 5000 && lseek(writer, 0, SEEK_CUR) == 10,
          "positions %ld, %ld", lseek(reader, 0, SEEK_CUR), lseek(writer, 0, SEEK_CUR));
    CHECK(fcntl(reader, F_GETFL) & O_NOFOLLOW && fcntl(appender, F_GETFL) & O_APPEND &&
              (fcntl(tmpfile_fd, F_GETFL) & O_TMPFILE) == O_TMPFILE,
          "flags are lost");
    check_name(reader, "gone");
    check_name(appender, "empty");
    check_name(linked, "first");
    check_name(folder, "folder");
    check_name(inside, "folder/inside");
    check_name(fifo, "folder/fifo");
    CHECK(!getcwd(here, sizeof here) && errno == ENOENT, "the working directory is %s", here);
    do {
        MUST(fstat(folder, &a) == 0 && stat(".", &b) == 0 && fstat(folder, &c) == 0);
    } while (a.st_ino != c.st_ino || a.st_dev != c.st_dev);
    CHECK(a.st_ino == b.st_ino && a.st_nlink == 0 && a.st_mode == (S_IFDIR | 0711),
          "the working directory is another, or mode %o", a.st_mode);
    do {
        MUST(fstat(linked, &a) == 0 && fstat(again, &b) == 0 && fstat(linked, &c) == 0);
    } while (a.st_ino != c.st_ino || a.st_dev != c.st_dev);
    CHECK(a.st_ino == b.st_ino && a.st_nlink == 1, "two names, two files: %lu links", a.st_nlink);
    MUST(fstat(fifo, &a) == 0);
    CHECK(a.st_uid == 8 && a.st_gid == 9 && a.st_mode == (S_IFIFO | 0620), "the FIFO's mode is %o",
          a.st_mode);
}

static void expect(int fd, const char *text)
{
    char there[32] = "";

    CHECK(pread(fd, there, sizeof there - 1, 0) == (ssize_t)strlen(text) &&
              strcmp(there, text) == 0,
          "%s instead of %s", there, text);
}

// All who have it open see what one writes, and it ends with them.
static void use(void)
{
    char text[32] = "", path[PATH_MAX];
    struct stat st;

    MUST(fstat(reader, &st) == 0);
    expect(linked, "two names");
    expect(again, "two names");
    expect(taken, "old");
    expect(tmpfile_fd, "never had a name");
    expect(inside, "inside");
    CHECK(read(fifo, text, sizeof text) == 9 && strcmp(text, "in flight") == 0, "the FIFO holds %s",
          text);
    CHECK(write(appender, "a", 1) == 1 && lseek(appender, 0, SEEK_CUR) == 1, "appends elsewhere");
    MUST(pwrite(linked, "T", 1, 0) == 1);
    expect(again, "Two names");
    snprintf(path, sizeof path, "%s/second", subject.workdir);
    MUST(stat(path, &st) == 0);
    CHECK(st.st_nlink == 1 && st.st_size == 9, "the other name leads elsewhere");
    MUST(pwrite(linked, "t", 1, 0) == 1);
    snprintf(text, sizeof text, "/proc/self/fd/%d", tmpfile_fd);
    snprintf(path, sizeof path, "%s/named", subject.workdir);
    CHECK(linkat(AT_FDCWD, text, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0,
          "a file that never had a name cannot get one: %m");
    for (const char *const *name = (const char *const[]){"gone", "empty", "first", "folder", NULL};
         *name; name++) {
        snprintf(path, sizeof path, "%s/%s", subject.workdir, *name);
        CHECK(access(path, F_OK) < 0 && errno == ENOENT, "%s is back", *name);
    }
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    set_up();
    generation = shared[2 * PAGE];
    subject_ready();
    if (subject.sabotage)
        MUST(pwrite(writer, "!", 1, 5 * PAGE) == 1);
    do {
        check_contents();
        check_places();
        shared[2 * PAGE] = (uint8_t)++generation;
        CHECK(pread(writer, &(uint8_t){0}, 1, 2 * PAGE) == 1, "cannot be read");
    } while (!subject_asked());
    use();
    subject_pass();
}
