// SPDX-License-Identifier: GPL-2.0-or-later
// Eventfds: counters, semaphores, who waits for them, and a child that shares them.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"

#define FULL (UINT64_MAX - 1)

static int counter, semaphore, busy, full, empty, request, answer;
static uint64_t in_busy;

static void add(int fd, uint64_t n)
{
    CHECK(write(fd, &n, sizeof n) == sizeof n, "adding %lu to an eventfd: %m", n);
}

static uint64_t take(int fd)
{
    uint64_t n = 0;

    CHECK(read(fd, &n, sizeof n) == sizeof n, "reading an eventfd: %m");
    return n;
}

static void check_empty(int fd)
{
    uint64_t n;

    CHECK(read(fd, &n, sizeof n) < 0 && errno == EAGAIN, "an empty eventfd gave %lu: %m", n);
}

static void *wait_for_it(void *arg)
{
    const uint64_t n = take(empty);

    CHECK(n == 5, "the waiting reader got %lu", n);
    return arg;
}

static void *wait_for_room(void *arg)
{
    add(full, 7);
    return arg;
}

static void echo(void)
{
    for (;;)
        add(answer, take(request) + 1);
}

static void check_flags(void)
{
    const struct {
        int fd, flags, cloexec;
    } want[] = {{counter, O_RDWR, FD_CLOEXEC},
                {semaphore, O_RDWR | O_NONBLOCK, 0},
                {busy, O_RDWR | O_NONBLOCK, FD_CLOEXEC}};

    for (unsigned i = 0; i < sizeof want / sizeof want[0]; i++)
        CHECK(fcntl(want[i].fd, F_GETFL) == want[i].flags &&
                  fcntl(want[i].fd, F_GETFD) == want[i].cloexec,
              "flags of eventfd %u are %x", i, fcntl(want[i].fd, F_GETFL));
}

static void step(unsigned n)
{
    struct pollfd poll_full = {.fd = full, .events = POLLIN | POLLOUT};

    check_flags();
    MUST(poll(&poll_full, 1, 0) == 1);
    CHECK(poll_full.revents == POLLIN, "a full eventfd is ready for %x", poll_full.revents);
    add(busy, n);
    in_busy += n;
    if (n % 7 == 0) {
        const uint64_t was = take(busy);
        CHECK(was == in_busy, "%lu in an eventfd that should have %lu", was, in_busy);
        in_busy = 0;
        check_empty(busy);
    }
    add(request, n);
    const uint64_t got = take(answer);
    CHECK(got == n + 1, "the child answered %u with %lu", n, got);
}

static void finish(pid_t child, pthread_t reader, pthread_t writer)
{
    uint64_t n;

    n = take(counter);
    CHECK(n == 12345678901234, "the counter is %lu", n);
    for (unsigned i = 0; i < 3; i++) {
        n = take(semaphore);
        CHECK(n == 1, "a semaphore gave %lu", n);
    }
    check_empty(semaphore);
    n = in_busy ? take(busy) : 0;
    CHECK(n == in_busy, "the busy one has %lu, not %lu", n, in_busy);
    add(empty, 5);
    pthread_join(reader, NULL);
    n = take(full);
    CHECK(n == FULL, "the full one had %lu", n);
    pthread_join(writer, NULL);
    n = take(full);
    CHECK(n == 7, "the waiting writer added %lu", n);
    kill(child, SIGKILL);
    MUST(waitpid(child, NULL, 0) == child);
}

int main(int argc, char **argv)
{
    pthread_t reader, writer;
    pid_t child;
    unsigned n = 1;

    subject_begin(argc, argv);
    MUST((counter = eventfd(0, EFD_CLOEXEC)) >= 0);
    MUST((semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK)) >= 0);
    MUST((busy = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) >= 0);
    MUST((full = eventfd(0, 0)) >= 0 && (empty = eventfd(0, 0)) >= 0);
    MUST((request = eventfd(0, 0)) >= 0 && (answer = eventfd(0, 0)) >= 0);
    add(counter, 12345678901234);
    add(full, FULL);
    MUST((child = fork()) >= 0);
    if (child == 0)
        echo();
    MUST(pthread_create(&reader, NULL, wait_for_it, NULL) == 0);
    MUST(pthread_create(&writer, NULL, wait_for_room, NULL) == 0);
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        add(counter, 1);
    while (!subject_asked()) {
        step(n++);
        subject_sleep_ms(2);
    }
    finish(child, reader, writer);
    subject_pass();
}
