// SPDX-License-Identifier: GPL-2.0-or-later
// A program that has been deleted while it runs, as by an upgrade, or that never had a name
// (argument: memfd), or that the target lacks (carried); a library of which the same holds; a
// working directory below others that are gone as well.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define AGAIN "SUBJECT_AGAIN" // in the environment of the copy: its descriptor, -1 for none

static int own = -1, parent; // descriptors: of the memfd, of the directory above
static const char *exe;      // what /proc/self/exe shows
static char library[PATH_MAX];
static const uint8_t *mapped;
static uint64_t bytes, hash;

static bool is_memfd(void)
{
    return subject.argument && strcmp(subject.argument, "memfd") == 0;
}

// They keep their names.
static bool is_carried(void)
{
    return subject.argument && strcmp(subject.argument, "carried") == 0;
}

static void copy(int to)
{
    const int from = open("/proc/self/exe", O_RDONLY);
    struct stat st;

    MUST(from >= 0 && fstat(from, &st) == 0);
    for (off_t done = 0; done < st.st_size;) {
        const ssize_t n = sendfile(to, from, NULL, (size_t)(st.st_size - done));
        MUST(n > 0);
        done += n;
    }
    close(from);
}

static int create(const char *name, mode_t mode)
{
    const int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, mode);

    MUST(fd >= 0);
    return fd;
}

// Executes a copy, which comes back to main() with AGAIN set.
static _Noreturn void become(char **argv)
{
    char number[16] = "-1";
    int fd;

    if (is_memfd()) {
        MUST((fd = memfd_create("program", 0)) >= 0);
        snprintf(number, sizeof number, "%d", fd);
    } else {
        fd = create("program", 0755);
    }
    copy(fd);
    MUST(setenv(AGAIN, number, 1) == 0);
    if (is_memfd()) {
        fexecve(fd, argv, environ);
    } else {
        close(fd);
        execv("program", argv);
    }
    subject_fail("the copy is not executed: %m");
}

static uint64_t hash_of(const uint8_t *data, uint64_t size)
{
    uint64_t h = size;

    for (uint64_t i = 0; i < size; i++)
        h = subject_mix(h ^ data[i]);
    return h;
}

static void set_up(void)
{
    static char text[PATH_MAX + 32];
    struct stat st;
    int fd;

    own = atoi(getenv(AGAIN));
    const char *const mark = is_carried() ? "" : " (deleted)";

    snprintf(text, sizeof text, "%s/program%s", subject.workdir, mark);
    exe = is_memfd() ? "/memfd:program (deleted)" : text;
    MUST(is_memfd() || is_carried() || unlink("program") == 0);

    fd = create("library", 0644);
    copy(fd);
    close(fd);
    MUST((fd = open("library", O_RDONLY)) >= 0 && fstat(fd, &st) == 0);
    bytes = (uint64_t)st.st_size;
    mapped = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    MUST(mapped != MAP_FAILED && close(fd) == 0 && (is_carried() || unlink("library") == 0));
    snprintf(library, sizeof library, "%s/library%s", subject.workdir, mark);
    hash = hash_of(mapped, bytes);

    MUST(mkdir("a", 0750) == 0 && mkdir("a/b", 0711) == 0 && mkdir("a/b/c", 0700) == 0);
    MUST((parent = open("a/b", O_RDONLY | O_DIRECTORY)) >= 0 && chdir("a/b/c") == 0);
    MUST(rmdir("../c") == 0 && rmdir("../../b") == 0);
    snprintf(text + sizeof text / 2, sizeof text / 2, "%s/a", subject.workdir);
    MUST(rmdir(text + sizeof text / 2) == 0);
}

static bool is_in_maps(const char *name)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[PATH_MAX + 128];
    bool found = false;

    MUST(maps);
    while (fgets(line, sizeof line, maps))
        found |= strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

static void check_program(void)
{
    char shown[PATH_MAX] = "";
    struct stat st;

    CHECK(readlink("/proc/self/exe", shown, sizeof shown - 1) > 0 && strcmp(shown, exe) == 0,
          "the program shows as %s", shown);
    MUST(stat("/proc/self/exe", &st) == 0);
    CHECK(st.st_nlink == is_carried() && (uint64_t)st.st_size == bytes,
          "the program: %lu links, %ld bytes", st.st_nlink, st.st_size);
    CHECK(is_in_maps(exe) && is_in_maps(library), "mappings show other names");
    CHECK(hash_of(mapped, bytes) == hash, "the library is another");
}

static void check_directories(void)
{
    struct stat a, b, c;
    char here[PATH_MAX];

    CHECK(!getcwd(here, sizeof here) && errno == ENOENT, "the working directory is %s", here);
    do {
        MUST(fstat(parent, &a) == 0 && stat("..", &b) == 0 && fstat(parent, &c) == 0);
    } while (a.st_ino != c.st_ino || a.st_dev != c.st_dev);
    CHECK(a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_nlink == 0 &&
              a.st_mode == (S_IFDIR | 0711),
          "above the working directory is another, or mode %o", b.st_mode);
    MUST(stat(".", &a) == 0);
    CHECK(a.st_mode == (S_IFDIR | 0700) && a.st_nlink == 0, "the working directory: mode %o",
          a.st_mode);
    CHECK(open("new", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT, "it lives: %m");
}

// It can still be executed, also where it is open as what memfd_create() returned, and by its name.
static void execute(const char *name)
{
    char *const argv[] = {(char *)"program", (char *)"--hello", NULL};
    const pid_t child = fork();
    int status;

    MUST(child >= 0);
    if (child == 0) {
        if (is_memfd())
            fexecve(own, argv, environ);
        else
            execv(name, argv);
        _exit(errno);
    }
    MUST(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 200, "executed anew it gives %#x", status);
    CHECK(!is_memfd() || (fcntl(own, F_GETFL) & O_ACCMODE) == O_RDWR, "flags of the memfd");
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--hello") == 0)
        return 200;
    subject_begin(argc, argv);
    if (!getenv(AGAIN)) {
        MUST(chdir(subject.workdir) == 0);
        become(argv);
    }
    set_up();
    subject_ready();
    if (subject.sabotage)
        MUST(chdir("/") == 0);
    do {
        check_program();
        check_directories();
    } while (!subject_asked());
    execute("/proc/self/exe");
    if (is_carried())
        execute(exe);
    subject_pass();
}
