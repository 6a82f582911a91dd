// SPDX-License-Identifier: GPL-2.0-or-later
// Talks to whoever moves the subject, by files in its work directory.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "subject.h"

#define SABOTAGED_ROUNDS 20

struct subject subject;

void subject_begin(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s WORKDIR [--prepare | --sabotage] [ARGUMENT]\n", argv[0]);
        exit(2);
    }
    subject.workdir = argv[1];
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--sabotage") == 0)
            subject.sabotage = true;
        else if (strcmp(argv[i], "--prepare") == 0)
            subject.prepare = true;
        else
            subject.argument = argv[i];
    }
}

// Appears with all of its contents or not at all. No stdio: its buffers would change the heap.
static void publish(const char *name, const char *text)
{
    char path[256], half[256 + 8];
    int fd;

    snprintf(path, sizeof path, "%s/%s", subject.workdir, name);
    snprintf(half, sizeof half, "%s.half", path);
    fd = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd) < 0 || rename(half, path) < 0)
        _exit(3);
}

void subject_ready(void)
{
    publish("ready", "");
}

bool subject_asked(void)
{
    static unsigned sabotaged_rounds;
    char path[256];

    if (subject.sabotage && sabotaged_rounds++ < SABOTAGED_ROUNDS)
        return false;

    snprintf(path, sizeof path, "%s/ask", subject.workdir);
    return access(path, F_OK) == 0;
}

void subject_pass(void)
{
    publish("verdict", "PASS\n");
    _exit(0);
}

void subject_fail(const char *format, ...)
{
    static int failed;
    const int saved = errno;
    char text[512] = "FAIL ";
    size_t used = strlen(text);
    va_list args;

    // Of several threads the first one speaks.
    if (__atomic_exchange_n(&failed, 1, __ATOMIC_SEQ_CST))
        for (;;)
            pause();
    va_start(args, format);
    errno = saved; // for %m
    vsnprintf(text + used, sizeof text - used - 1, format, args);
    va_end(args);
    strcat(text, "\n");
    publish("verdict", text);
    _exit(1);
}

uint64_t subject_now(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void subject_sleep_ms(unsigned ms)
{
    struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

static long call_of(pid_t tid)
{
    char path[64], text[32];
    long nr;

    snprintf(path, sizeof path, "/proc/%d/syscall", (int)tid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    CHECK(n >= 0, "%s: %m", path);
    close(fd);
    text[n] = '\0';
    return sscanf(text, "%ld", &nr) == 1 ? nr : -1; // "running" otherwise
}

void subject_await_call(pid_t tid, long nr)
{
    AWAIT(call_of(tid) == nr, "thread %d does not sleep in call %ld", (int)tid, nr);
}
