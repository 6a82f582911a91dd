// SPDX-License-Identifier: GPL-2.0-or-later
// A process that wants much of the guest it is restored in: tests/vm/refusals takes it all away.
#include <fcntl.h>
#include <mqueue.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "subject.h"

static int open_file(const char *name)
{
    const int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);

    MUST(fd >= 0 && write(fd, name, strlen(name)) == (ssize_t)strlen(name));
    return fd;
}

static void bind_abstract(void)
{
    const struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0wants"};
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    MUST(fd >= 0 &&
         bind(fd, (const struct sockaddr *)&name, offsetof(struct sockaddr_un, sun_path) + 6) == 0);
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    MUST(chdir(subject.workdir) == 0);
    open_file("gone");
    open_file("longer");
    open_file("folder");
    MUST(mkdir("directory", 0755) == 0 && open("directory", O_RDONLY) >= 0);
    MUST(mkfifo("directory/fifo", 0644) == 0 && open("directory/fifo", O_RDWR) >= 0);
    MUST(mq_open("/wants", O_RDWR | O_CREAT, 0600, NULL) >= 0);
    bind_abstract();
    MUST(mkdir("here", 0755) == 0 && chdir("here") == 0);
    subject_ready();
    while (!subject_asked())
        subject_sleep_ms(10);
    subject_pass();
}
