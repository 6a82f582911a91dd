// SPDX-License-Identifier: GPL-2.0-or-later
// A parent, two children and a grandchild that read one file through one shared position, in turn.
// Argument zombie: one more child that has ended and is not waited for until the end.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define FILE_BYTES (1u << 20)
#define N          4 // processes
#define GO         'g'
#define QUIT       'q'

static int file, links[N][2]; // process i waits on links[i], and hands on to the next
static pid_t pids[N];         // known to the parent of each

static uint8_t byte_at(size_t n)
{
    return (uint8_t)subject_mix(n);
}

static void path_of(char path[256])
{
    snprintf(path, 256, "%s/data", subject.workdir);
}

static void prepare(void)
{
    static uint8_t data[FILE_BYTES];
    const struct timespec times[2] = {{.tv_sec = 1700000000}, {.tv_sec = 1700000000}};
    char path[256];

    for (size_t n = 0; n < FILE_BYTES; n++)
        data[n] = byte_at(n);
    path_of(path);
    MUST((file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644)) >= 0);
    MUST(write(file, data, sizeof data) == sizeof data && futimens(file, times) == 0);
}

static void hand_on(unsigned me, char what)
{
    MUST(write(links[(me + 1) % N][1], &what, 1) == 1);
}

static char await_turn(unsigned me)
{
    char what;

    MUST(read(links[me][0], &what, 1) == 1);
    return what;
}

// Where the shared position is, that byte is next, whoever read the one before.
static void read_one(unsigned me)
{
    const off_t at = lseek(file, 0, SEEK_CUR);
    uint8_t byte;

    CHECK(at % N == me, "process %u has the turn at %ld", me, at);
    CHECK(read(file, &byte, 1) == 1 && byte == byte_at((size_t)at), "byte %ld is %02x: %m", at,
          byte);
    CHECK(lseek(file, 0, SEEK_CUR) == at + 1, "position %ld after %ld", lseek(file, 0, SEEK_CUR),
          at);
    if (me == N - 1 && at + 1 == FILE_BYTES)
        MUST(lseek(file, 0, SEEK_SET) == 0);
}

static int reap(pid_t pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid, "child %d: %m", pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pid_t start(unsigned me);

static _Noreturn void be_child(unsigned me, pid_t parent)
{
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0); // a parent that fails leaves nothing behind
    if (me == 2)
        pids[3] = start(3);
    while (await_turn(me) == GO) {
        CHECK(getppid() == parent, "process %u has parent %d, not %d", me, getppid(), parent);
        read_one(me);
        hand_on(me, GO);
    }
    hand_on(me, QUIT);
    if (me == 2 && reap(pids[3]) != 13)
        _exit(99);
    _exit(10 + (int)me);
}

static pid_t start(unsigned me)
{
    const pid_t parent = getpid(), pid = fork();

    MUST(pid >= 0);
    if (pid == 0)
        be_child(me, parent);
    return pid;
}

static pid_t start_zombie(void)
{
    const pid_t pid = fork();
    siginfo_t info;

    MUST(pid >= 0);
    if (pid == 0)
        _exit(42);
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
    return pid;
}

int main(int argc, char **argv)
{
    pid_t zombie = 0;
    char path[256];
    int extra;

    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    path_of(path);
    MUST((file = open(path, O_RDONLY)) >= 0);
    MUST((extra = dup(file)) >= 0);
    for (unsigned i = 0; i < N; i++)
        MUST(pipe(links[i]) == 0);
    pids[1] = start(1);
    pids[2] = start(2);
    if (subject.argument && strcmp(subject.argument, "zombie") == 0)
        zombie = start_zombie();
    subject_ready();
    do {
        for (unsigned i = 0; i < 50; i++) {
            read_one(0);
            CHECK(lseek(extra, 0, SEEK_CUR) == lseek(file, 0, SEEK_CUR),
                  "the duplicate stands at %ld", lseek(extra, 0, SEEK_CUR));
            hand_on(0, GO);
            CHECK(await_turn(0) == GO, "a child quits");
            CHECK(lseek(file, 0, SEEK_CUR) % N == 0, "position %ld after a round",
                  lseek(file, 0, SEEK_CUR));
        }
        if (subject.sabotage)
            MUST(lseek(extra, 1, SEEK_CUR) > 0);
    } while (!subject_asked());
    hand_on(0, QUIT);
    CHECK(await_turn(0) == QUIT, "no child says goodbye");
    for (unsigned i = 1; i <= 2; i++) {
        const int code = reap(pids[i]);

        CHECK(code == 10 + (int)i, "child %u ended with %d", i, code);
    }
    CHECK(!zombie || reap(zombie) == 42, "the zombie's exit code is another");
    CHECK(wait(NULL) == -1 && errno == ECHILD, "there are more children");
    subject_pass();
}
