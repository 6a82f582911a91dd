// SPDX-License-Identifier: GPL-2.0-or-later
// Opens one file of each kind and waits: the process that files-compare looks at.
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

// With a second argument: only what vmgraft can carry.
int main(int argc, char **argv)
{
    char block[5000];
    int fds[2];
    bool only_supported = argc > 2;
    const char *dir = argc > 1 ? argv[1] : "/tmp/files";
    mkdir(dir, 0755);
    if (chdir(dir) != 0)
        return 1;
    umask(027);
    memset(block, 'x', sizeof(block));

    int file = open("data", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    for (int i = 0; i < 40; i++)
        if (write(file, block, sizeof(block)) != sizeof(block))
            return 1;
    lseek(file, 12345, SEEK_SET);
    dup2(file, 100); // two descriptors, one file
    open("data", O_RDONLY);
    open(dir, O_RDONLY | O_DIRECTORY);
    open("data", O_PATH);
    open("/dev/null", O_RDWR);
    open("/dev/zero", O_RDONLY);
    open("/dev/urandom", O_RDONLY);
    open("/proc/self/exe", O_RDONLY);
    mkdir("a very long name of a directory, longer than what a dentry keeps inline", 0755);
    open("a very long name of a directory, longer than what a dentry keeps inline/f",
         O_RDWR | O_CREAT, 0600);

    if (pipe2(fds, O_NONBLOCK) != 0)
        return 1;
    for (int i = 0; i < 3; i++)
        if (write(fds[1], block, sizeof(block)) != sizeof(block))
            return 1;
    fcntl(fds[1], F_SETPIPE_SZ, 16 * 4096 * 2);
    if (read(fds[0], block, 777) != 777)
        return 1;
    if (pipe2(fds, O_DIRECT) != 0 || write(fds[1], "packet one", 10) != 10 ||
        write(fds[1], "two", 3) != 3)
        return 1;
    mkfifo("fifo", 0600);
    open("fifo", O_RDWR);

    int mem = memfd_create("some memory", MFD_ALLOW_SEALING);
    if (ftruncate(mem, 1 << 20) != 0 || pwrite(mem, block, sizeof(block), 8192) < 0)
        return 1;
    fcntl(mem, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK);
    char *shared = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(shared + 4096, 'y', 4096);

    int signalled = open("data", O_RDONLY);
    fcntl(signalled, F_SETOWN, getpid());
    fcntl(signalled, F_SETSIG, 34);

    if (!only_supported) {
        eventfd(7, 0);
        epoll_create1(0);
        timerfd_create(CLOCK_MONOTONIC, 0);
        inotify_init1(0);
        socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
        socket(AF_INET, SOCK_DGRAM, 0);
        syscall(SYS_pidfd_open, getpid(), 0);
        open("/proc/self/maps", O_RDONLY);
        int gone = open("gone", O_RDWR | O_CREAT, 0600);
        unlink("gone");
        flock(gone, LOCK_SH);
        flock(file, LOCK_EX);
        int locked = open("data", O_RDWR);
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 10};
        fcntl(locked, F_SETLK, &lock);
    }
    close(0);
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
