// SPDX-License-Identifier: GPL-2.0-or-later
// A socket, a FIFO and a working directory in directories that the target lacks, such as programs
// make in /tmp for themselves.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "subject.h"

#define OWNER 1234
#define GROUP 4321

static const struct {
    const char *name;
    mode_t mode;
} directories[] = {{"ways-a", 0711}, {"ways-a/b", 03770}, {"ways-a/b/c", 0500}};

static int listener, absolute, fifo;

static int bind_to(const char *name, int type)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, type, 0);

    MUST(fd >= 0 && strlen(name) < sizeof addr.sun_path);
    strcpy(addr.sun_path, name);
    MUST(bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
    return fd;
}

static void set_up(void)
{
    char name[sizeof((struct sockaddr_un *)0)->sun_path];

    MUST(chdir(subject.workdir) == 0);
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
        MUST(mkdir(directories[i].name, 0700) == 0);
    MUST(snprintf(name, sizeof name, "%s/ways-a/s", subject.workdir) < (int)sizeof name);
    absolute = bind_to(name, SOCK_DGRAM);
    MUST(mkfifo("ways-a/b/c/f", 0640) == 0 && (fifo = open("ways-a/b/c/f", O_RDWR)) >= 0);
    MUST(write(fifo, "in it", 5) == 5);
    MUST(chdir("ways-a/b") == 0);
    listener = bind_to("s", SOCK_STREAM);
    MUST(listen(listener, 3) == 0 && chdir(subject.workdir) == 0);
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++)
        MUST(chown(directories[i].name, OWNER, GROUP) == 0 &&
             chmod(directories[i].name, directories[i].mode) == 0);
    MUST(chdir("ways-a/b") == 0);
}

static void check_directories(void)
{
    char name[4096];
    struct stat st;

    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        MUST(snprintf(name, sizeof name, "%s/%s", subject.workdir, directories[i].name) <
             (int)sizeof name);
        CHECK(stat(name, &st) == 0, "%s: %m", name);
        CHECK(st.st_mode == (S_IFDIR | directories[i].mode), "%s: mode %o", name, st.st_mode);
        CHECK(st.st_uid == OWNER && st.st_gid == GROUP, "%s: owner %u:%u", name, st.st_uid,
              st.st_gid);
    }
}

static void check_listener(void)
{
    const struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = "s"};
    const int client = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    char data[8];
    int server;

    CHECK(connect(client, (struct sockaddr *)&addr, sizeof addr) == 0, "connect: %m");
    CHECK((server = accept(listener, NULL, NULL)) >= 0, "accept: %m");
    MUST(write(client, "hello", 5) == 5 && read(server, data, sizeof data) == 5);
    close(client);
    close(server);
}

static void check(void)
{
    struct stat by_name, by_fd;
    char data[8];

    check_directories();
    // The working directory is the one in which all this is.
    check_listener();
    CHECK(stat("../s", &by_name) == 0 && S_ISSOCK(by_name.st_mode), "the socket by its path: %m");
    CHECK(stat("c/f", &by_name) == 0 && fstat(fifo, &by_fd) == 0, "the FIFO: %m");
    CHECK(by_name.st_ino == by_fd.st_ino && by_name.st_mode == (S_IFIFO | 0640), "another FIFO");
    CHECK(read(fifo, data, sizeof data) == 5 && memcmp(data, "in it", 5) == 0, "its data");
    CHECK(close(absolute) == 0 && unlink("../s") == 0, "the end of a socket: %m");
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    set_up();
    subject_ready();
    if (subject.sabotage)
        MUST(chmod("c", 0700) == 0);
    while (!subject_asked())
        subject_sleep_ms(1);
    check();
    subject_pass();
}
