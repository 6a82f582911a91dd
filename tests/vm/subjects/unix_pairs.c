// SPDX-License-Identifier: GPL-2.0-or-later
// Pairs of all types with options and waiters, streams with bytes out of band.
#include "unix.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

/* ---- options ---- */

static const struct option {
    int name, value, now;
} options[] = {
    {SO_SNDBUF, 20000, 40000}, {SO_RCVBUF, 30000, 60000}, {SO_PASSCRED, 1, 1},
    {SO_PRIORITY, 5, 5},       {SO_MARK, 77, 77},         {SO_KEEPALIVE, 1, 1},
    {SO_BROADCAST, 1, 1},      {SO_REUSEADDR, 1, 1},      {SO_OOBINLINE, 1, 1},
    {SO_TIMESTAMP, 1, 1},      {SO_RCVLOWAT, 3, 3},       {SO_PEEK_OFF, 2, 2},
};

static void set_options(int fd)
{
    const struct timeval times[] = {{3, 500000}, {0, 40000}};
    const struct linger linger = {1, 17};

    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        MUST(setsockopt(fd, SOL_SOCKET, options[i].name, &options[i].value, sizeof(int)) == 0);
    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &times[0], sizeof times[0]) == 0);
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &times[1], sizeof times[1]) == 0);
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    MUST(fchmod(fd, 0640) == 0);
}

static void check_options(int fd)
{
    struct timeval time;
    struct linger linger;
    socklen_t len;
    struct stat st;
    int now;

    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        len = sizeof now;
        MUST(getsockopt(fd, SOL_SOCKET, options[i].name, &now, &len) == 0);
        CHECK(now == options[i].now, "option %d is %d, not %d", options[i].name, now,
              options[i].now);
    }
    len = sizeof time;
    MUST(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, &len) == 0);
    CHECK(time.tv_sec == 3 && time.tv_usec == 500000, "SO_SNDTIMEO is another");
    MUST(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, &len) == 0);
    CHECK(time.tv_sec == 0 && time.tv_usec == 40000, "SO_RCVTIMEO is another");
    len = sizeof linger;
    MUST(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) == 0);
    CHECK(linger.l_onoff == 1 && linger.l_linger == 17, "SO_LINGER is another");
    MUST(fstat(fd, &st) == 0);
    CHECK(st.st_mode == (S_IFSOCK | 0640), "the mode is %o", st.st_mode);
}

/* ---- pairs of all types ---- */

static int plain[2], half[2], ended[2], emptied[2], reset[2], full[2], opted[2], waiting[2];
static int credited[2], out_of_band[2], inlined[2];
static bool has_oob;
static char waited_for[8] = "none";
static int polled = -1;
static pthread_t reader, poller;

static void *read_waiting(void *arg)
{
    const ssize_t n = recv(waiting[0], waited_for, sizeof waited_for, 0);

    CHECK(n == 6 && strcmp(waited_for, "hello") == 0, "the waiting reader got %zd bytes: %m", n);
    return arg;
}

static void *poll_full(void *arg)
{
    struct pollfd p = {full[0], POLLOUT, 0};

    CHECK(poll(&p, 1, -1) == 1 && p.revents == POLLOUT, "poll found %x: %m", p.revents);
    polled = p.revents;
    return arg;
}

void make_pair(int fds[2])
{
    MUST(socketpair(AF_UNIX, type, 0, fds) == 0);
}

static size_t full_size = 1000;
static int full_count;

static void fill_up(int fd)
{
    fill(buffer, full_size, 5);
    while (send(fd, buffer, full_size, MSG_DONTWAIT) == (ssize_t)full_size)
        full_count++;
    MUST(errno == EAGAIN && full_count > 2);
}

void start_pairs(void)
{
    make_pair(plain);
    victim = plain[1];
    put(plain[0], 1, 1);
    put(plain[0], 5000, 2);
    put(plain[0], 100000, 3);
    put(plain[1], 300, 4);
    MUST(fcntl(plain[1], F_SETFL, O_NONBLOCK) == 0 && fcntl(plain[0], F_SETFD, FD_CLOEXEC) == 0);
    make_pair(half);
    put(half[0], 40, 6);
    MUST(shutdown(half[0], SHUT_WR) == 0);
    make_pair(ended);
    put(ended[0], 50, 7);
    MUST(close(ended[0]) == 0);
    make_pair(emptied);
    MUST(close(emptied[0]) == 0);
    make_pair(reset);
    put(reset[1], 60, 8);
    MUST(close(reset[0]) == 0);
    make_pair(full);
    fill_up(full[0]);
    make_pair(opted);
    set_options(opted[0]);
    make_pair(waiting);
    MUST(pthread_create(&reader, NULL, read_waiting, NULL) == 0);
    MUST(pthread_create(&poller, NULL, poll_full, NULL) == 0);
}

static void check_flags(void)
{
    CHECK(fcntl(plain[1], F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(plain[0], F_GETFL) == O_RDWR,
          "the flags are %x and %x", fcntl(plain[1], F_GETFL), fcntl(plain[0], F_GETFL));
    CHECK(fcntl(plain[0], F_GETFD) == FD_CLOEXEC && fcntl(plain[1], F_GETFD) == 0,
          "close-on-exec is another");
}

static void check_unread(void)
{
    int there, unsent;

    MUST(ioctl(plain[1], SIOCINQ, &there) == 0 && ioctl(plain[0], SIOCOUTQ, &unsent) == 0);
    if (type == SOCK_STREAM)
        CHECK(there == 105001, "%d bytes to be read", there);
    CHECK(unsent > 105001, "%d bytes are said not to be read", unsent);
}

void check_pairs(void)
{
    int error;
    socklen_t len = sizeof error;

    check_flags();
    check_unread();
    check_name(plain[0], false, NULL, false, "a pair");
    check_name(plain[0], true, NULL, false, "the peer of a pair");
    check_cred(plain[0], getpid(), "a pair");
    get(plain[1], 1, 1, "a pair");
    get(plain[1], 5000, 2, "a pair");
    get(plain[1], 100000, 3, "a pair");
    nothing(plain[1], "a pair");
    get(plain[0], 300, 4, "the other end of a pair");
    put(plain[0], 17, 9);
    get(plain[1], 17, 9, "a pair later");

    get(half[1], 40, 6, "half closed");
    if (type == SOCK_DGRAM)
        nothing(half[1], "half closed");
    else
        end(half[1], "half closed");
    broken(half[0], "half closed");
    put(half[1], 5, 10);
    get(half[0], 5, 10, "half closed, the other way");

    get(ended[1], 50, 7, "the peer is gone");
    if (type != SOCK_DGRAM) {
        end(ended[1], "the peer is gone");
        broken(ended[1], "the peer is gone");
        end(emptied[1], "the peer is gone at once");
        MUST(getsockopt(reset[1], SOL_SOCKET, SO_ERROR, &error, &len) == 0);
        CHECK(error == ECONNRESET, "the error is %d", error);
        end(reset[1], "reset");
    } else {
        CHECK(send(ended[1], "x", 1, MSG_DONTWAIT) < 0 && errno == ECONNREFUSED,
              "a datagram to nobody: %m");
    }
    check_cred(ended[1], getpid(), "the peer is gone");
    check_options(opted[0]);
}

void check_waiters(void)
{
    CHECK(strcmp(waited_for, "none") == 0, "the reader did not wait");
    MUST(send(waiting[1], "hello", 6, 0) == 6);
    pthread_join(reader, NULL);
    CHECK(send(full[0], "x", 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "it is no longer full: %m");
    CHECK(polled < 0, "poll did not wait");
    for (int i = 0; i < full_count; i++)
        get(full[1], full_size, 5, "a full pair");
    nothing(full[1], "a full pair");
    pthread_join(poller, NULL);
}

/* ---- streams ---- */

void start_stream(void)
{
    make_pair(credited);
    // Ten writes, some of them read in part.
    for (uint64_t i = 0; i < 10; i++)
        put(credited[0], 100 + i, 20 + i);
    MUST(recv(credited[1], buffer, 150, 0) == 150);
    make_pair(out_of_band);
    make_pair(inlined);
    has_oob = send(out_of_band[0], "ab!", 3, MSG_OOB) == 3;
    if (!has_oob)
        return;
    MUST(send(out_of_band[0], "cd", 2, 0) == 2);
    MUST(send(inlined[0], "xy?", 3, MSG_OOB) == 3 && send(inlined[0], "z", 1, 0) == 1);
    MUST(recv(inlined[1], buffer, 1, MSG_OOB) == 1 && buffer[0] == '?');
}

void check_stream(void)
{
    int mark;

    for (uint64_t i = 1; i < 10; i++) {
        fill(expected, 100 + i, 20 + i);
        const size_t skip = i == 1 ? 50 : 0;
        ssize_t n = recv(credited[1], buffer, 100 + i - skip, MSG_DONTWAIT | MSG_WAITALL);

        CHECK(n == (ssize_t)(100 + i - skip) && memcmp(buffer, expected + skip, (size_t)n) == 0,
              "piece %lu of a stream has %zd bytes", i, n);
    }
    nothing(credited[1], "a stream");
    if (!has_oob)
        return;
    MUST(recv(out_of_band[1], buffer, 10, 0) == 2 && memcmp(buffer, "ab", 2) == 0);
    MUST(ioctl(out_of_band[1], SIOCATMARK, &mark) == 0);
    CHECK(mark == 1, "not at the mark");
    CHECK(recv(out_of_band[1], buffer, 1, MSG_OOB) == 1 && buffer[0] == '!',
          "the byte out of band is not there: %m");
    CHECK(recv(out_of_band[1], buffer, 10, 0) == 2 && memcmp(buffer, "cd", 2) == 0,
          "what came behind the byte out of band");
    CHECK(recv(inlined[1], buffer, 10, MSG_OOB | MSG_DONTWAIT) < 0, "the byte came twice");
    // Whether a read ends where the byte was depends on the kernel.
    ssize_t n = recv(inlined[1], buffer, 3, MSG_DONTWAIT);
    CHECK(n >= 2, "%zd bytes before the one out of band: %m", n);
    if (n == 2)
        n += recv(inlined[1], buffer + 2, 3, MSG_DONTWAIT);
    CHECK(n == 3 && memcmp(buffer, "xyz", 3) == 0, "%zd bytes around the one out of band: %.3s", n,
          (char *)buffer);
}
