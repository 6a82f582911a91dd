// SPDX-License-Identifier: GPL-2.0-or-later
// A parent that is in vfork() nearly all the time: one child after the other takes its time before
// it ends or becomes another program.
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

static volatile unsigned seen; // the memory is one: what the child writes the parent reads

// The body of a vforked child may call next to nothing.
static pid_t ends(unsigned n)
{
    const struct timespec ts = {0, 20 * NS_PER_MS};
    const pid_t pid = vfork();

    if (pid == 0) {
        nanosleep(&ts, NULL);
        seen = n;
        _exit((int)(n % 100));
    }
    return pid;
}

static pid_t execs(unsigned n)
{
    const struct timespec ts = {0, 20 * NS_PER_MS};
    char code[2] = {(char)('0' + n % 8), '\0'};
    char *const argv[] = {"vforks", "--code", code, NULL};
    const pid_t pid = vfork();

    if (pid == 0) {
        nanosleep(&ts, NULL);
        seen = n;
        execv("/proc/self/exe", argv);
        _exit(99);
    }
    return pid;
}

static void check_child(pid_t pid, unsigned n, int code)
{
    int status;

    CHECK(pid > 0, "vfork: %m");
    CHECK(seen == n, "child %u wrote %u", n, seen);
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == code,
          "child %u ended with status %#x", n, status);
}

int main(int argc, char **argv)
{
    unsigned n = 0;

    if (argc == 3 && strcmp(argv[1], "--code") == 0)
        return argv[2][0] - '0';
    subject_begin(argc, argv);
    subject_ready();
    do {
        n++;
        if (n % 2)
            check_child(ends(n), n, (int)(n % 100) + subject.sabotage);
        else
            check_child(execs(n), n, (int)(n % 8));
    } while (!subject_asked());
    subject_pass();
}
