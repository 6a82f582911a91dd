// SPDX-License-Identifier: GPL-2.0-or-later
// A child that has called chroot, with files, sockets and a mapping of both sides; with the
// argument `own` the root of the tree has called it as well, and its program lies outside.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define INSIDE  "inside of the jail"
#define OUTSIDE "outside of the jail"

static int to_child, from_child; // bytes: go, done

static void write_file(const char *path, const char *text)
{
    const int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

    MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

// The same in both guests.
static void prepare(void)
{
    MUST(chdir(subject.workdir) == 0 && mkdir("jail", 0755) == 0 && mkdir("jail/in", 0755) == 0);
    write_file("jail/in/file", INSIDE);
    write_file("file", OUTSIDE);
}

static void check_text(const char *what, const char *text, const char *want)
{
    CHECK(strncmp(text, want, strlen(want)) == 0, "%s: '%.20s'", what, text);
}

static void check_file(const char *path, const char *want)
{
    char text[64] = "";
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0, "%s: %m", path);
    check_text(path, text, want);
    close(fd);
}

static int bind_to(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    MUST(fd >= 0 && strlen(path) < sizeof addr.sun_path);
    strcpy(addr.sun_path, path);
    MUST(bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0 && listen(fd, 1) == 0);
    return fd;
}

// Reached by its name, which its own side still calls `name`.
static void check_socket(int listener, const char *path, const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof addr;

    strcpy(addr.sun_path, path);
    CHECK(connect(client, (struct sockaddr *)&addr, sizeof addr) == 0, "connect to %s: %m", path);
    close(client);
    if (listener < 0)
        return;
    MUST(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
    CHECK(strcmp(addr.sun_path, name) == 0, "the socket is called %s", addr.sun_path);
}

/* ---- the prisoner ---- */

struct held {
    int outside, inside, gone, listener, watch;
    const char *mapped;
};

static struct held hold(void)
{
    struct held h = {.outside = open("file", O_RDONLY | O_CLOEXEC)};

    MUST(h.outside >= 0);
    h.mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, h.outside, 0);
    MUST(h.mapped != MAP_FAILED && chroot("jail") == 0 && chdir("/in") == 0);
    MUST((h.inside = open("/in/file", O_RDONLY | O_CLOEXEC)) >= 0);
    write_file("/gone", INSIDE);
    MUST((h.gone = open("/gone", O_RDWR | O_CLOEXEC)) >= 0 && unlink("/gone") == 0);
    h.listener = bind_to("/in/socket");
    MUST((h.watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) >= 0);
    MUST(inotify_add_watch(h.watch, "/in", IN_CREATE) >= 0);
    return h;
}

static void check_held(const struct held *h)
{
    char text[4096] = "";
    struct stat root, above;

    MUST(getcwd(text, sizeof text));
    CHECK(strcmp(text, "/in") == 0, "the working directory is %s", text);
    CHECK(stat("/", &root) == 0 && stat("/..", &above) == 0 && root.st_ino == above.st_ino,
          "another root");
    check_file("file", INSIDE);
    CHECK(access("/jail", F_OK) < 0, "the root is that of the parent");
    CHECK(pread(h->outside, text, sizeof text, 0) > 0, "a file outside: %m");
    check_text("a file outside", text, OUTSIDE);
    check_text("its mapping", h->mapped, OUTSIDE);
    CHECK(pread(h->inside, text, sizeof text, 0) > 0, "a file inside: %m");
    check_text("a file inside", text, INSIDE);
    CHECK(pread(h->gone, text, sizeof text, 0) > 0, "a deleted file: %m");
    check_text("a deleted file", text, INSIDE);
    check_socket(h->listener, "/in/socket", "/in/socket");
    write_file("/in/new", "");
    CHECK(read(h->watch, text, sizeof text) > 0, "the watch: %m");
    check_text("the watch", ((struct inotify_event *)text)->name, "new");
}

static void prisoner(int asked, int answer)
{
    char byte;

    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    const struct held h = hold();

    MUST(write(answer, "r", 1) == 1);
    if (subject.sabotage)
        MUST(chdir("/") == 0);
    MUST(read(asked, &byte, 1) == 1);
    check_held(&h);
    MUST(write(answer, "d", 1) == 1);
    _exit(0);
}

static void start_prisoner(void)
{
    int down[2], up[2];
    char byte;

    MUST(pipe2(down, O_CLOEXEC) == 0 && pipe2(up, O_CLOEXEC) == 0);
    const pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        prisoner(down[0], up[1]);
    to_child = down[1];
    from_child = up[0];
    close(up[1]);
    MUST(read(from_child, &byte, 1) == 1);
}

int main(int argc, char **argv)
{
    char text[4096] = "";
    int status;

    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    MUST(chdir(subject.workdir) == 0);
    if (subject.argument) {
        MUST(chroot("jail") == 0);
        subject.workdir = ".";
    }
    start_prisoner();
    subject_ready();
    while (!subject_asked())
        subject_sleep_ms(1);
    MUST(syscall(SYS_getcwd, text, sizeof text) > 0);
    check_text("the working directory", text,
               subject.argument ? "(unreachable)/" : subject.workdir);
    if (subject.argument) {
        CHECK(access("/jail", F_OK) < 0, "the root is that of the guest");
        check_file("/in/file", INSIDE);
    }
    check_file("file", OUTSIDE);
    check_socket(-1, "jail/in/socket", NULL);
    MUST(write(to_child, "g", 1) == 1);
    CHECK(read(from_child, text, 1) == 1 && wait(&status) > 0 && status == 0,
          "the prisoner has failed");
    subject_pass();
}
