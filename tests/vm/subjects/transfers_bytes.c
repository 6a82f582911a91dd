// SPDX-License-Identifier: GPL-2.0-or-later
// Streams of bytes: writers that find no room, and readers that want more than there is.
#include "transfers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define BYTES (700 * 1024)

/* ---- writers ---- */

void make_pipe(struct lane *lane)
{
    int fds[2];

    MUST(pipe2(fds, O_CLOEXEC) == 0);
    lane->fd = fds[1];
    lane->other = fds[0];
}

void make_pair_of(struct lane *lane, int type)
{
    int fds[2];

    MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) == 0);
    lane->fd = fds[0];
    lane->other = fds[1];
}

void make_stream(struct lane *lane)
{
    make_pair_of(lane, SOCK_STREAM);
}

typedef ssize_t send_fn(struct lane *lane, uint8_t *from, size_t n);

static void send_all(struct lane *lane, send_fn *send_some)
{
    uint8_t *bytes = pattern(lane, BYTES);

    while (lane->bytes < BYTES) {
        const ssize_t n = send_some(lane, bytes + lane->bytes, BYTES - lane->bytes);
        CHECK(n > 0, "%s: %zd after %zu bytes: %m", lane->name, n, lane->bytes);
        lane->bytes += (size_t)n;
        lane->cuts += lane->bytes < BYTES;
    }
}

static ssize_t by_write(struct lane *lane, uint8_t *from, size_t n)
{
    return write(lane->fd, from, n);
}

void do_write(struct lane *lane)
{
    send_all(lane, by_write);
}

// In pieces of which the first is small, one is empty, and two are large.
static int cut_up(struct iovec *v, uint8_t *from, size_t n)
{
    const size_t first = n < 10 ? n : 10, second = (n - first) / 3;

    v[0] = (struct iovec){from, first};
    v[1] = (struct iovec){from + first, 0};
    v[2] = (struct iovec){from + first, second};
    v[3] = (struct iovec){from + first + second, n - first - second};
    return 4;
}

static ssize_t by_writev(struct lane *lane, uint8_t *from, size_t n)
{
    struct iovec v[4];

    return writev(lane->fd, v, cut_up(v, from, n));
}

void do_writev(struct lane *lane)
{
    send_all(lane, by_writev);
}

static ssize_t by_send(struct lane *lane, uint8_t *from, size_t n)
{
    return send(lane->fd, from, n, MSG_NOSIGNAL);
}

void do_send(struct lane *lane)
{
    send_all(lane, by_send);
}

// The first message carries a descriptor, which must arrive once.
static ssize_t by_sendmsg(struct lane *lane, uint8_t *from, size_t n)
{
    struct iovec v[4];
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)cut_up(v, from, n)};

    if (lane->bytes == 0) {
        memcpy(CMSG_DATA(&control.head), &lane->fd, sizeof(int));
        m.msg_control = &control;
        m.msg_controllen = sizeof control.space;
    }
    return sendmsg(lane->fd, &m, 0);
}

void do_sendmsg(struct lane *lane)
{
    send_all(lane, by_sendmsg);
}

static ssize_t receive(struct lane *lane, uint8_t *to, size_t n)
{
    struct iovec v = {to, n};
    char space[CMSG_SPACE(4 * sizeof(int))];
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    const ssize_t got = recvmsg(lane->other, &m, 0);

    if (got < 0 && errno == ENOTSOCK)
        return read(lane->other, to, n);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); got > 0 && c; c = CMSG_NXTHDR(&m, c))
        lane->extra += c->cmsg_type == SCM_RIGHTS;
    return got;
}

void drain(struct lane *lane)
{
    static uint8_t got[65536];

    for (size_t done = 0; done < BYTES;) {
        const ssize_t n = receive(lane, got, sizeof got);
        CHECK(n > 0, "%s: %zd after %zu bytes: %m", lane->name, n, done);
        check_bytes(lane, got, (size_t)n, done);
        done += (size_t)n;
    }
    pthread_join(lane->thread, NULL);
    CHECK(lane->cuts <= 3, "%s: cut short %u times", lane->name, lane->cuts);
    CHECK(lane->extra == (lane->work == do_sendmsg), "%s: %d descriptors came", lane->name,
          lane->extra);
    MUST(fcntl(lane->other, F_SETFL, O_NONBLOCK) == 0);
    CHECK(read(lane->other, got, 1) == -1 && errno == EAGAIN, "%s: more came", lane->name);
}

/* ---- readers that want more than there is ---- */

#define EARLY (30 * 1024) // bytes that are there before the call

static void feed(struct lane *lane, size_t from, size_t to)
{
    uint8_t *bytes = pattern(lane, to);

    while (from < to) {
        const ssize_t n = write(lane->other, bytes + from, to - from);
        MUST(n > 0);
        from += (size_t)n;
    }
    free(bytes);
}

void make_fed(struct lane *lane)
{
    make_stream(lane);
    feed(lane, 0, EARLY);
}

void make_low(struct lane *lane)
{
    const int low = 2 * EARLY;

    make_fed(lane);
    MUST(setsockopt(lane->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low) == 0);
}

typedef ssize_t receive_fn(struct lane *lane, uint8_t *to, size_t n);

static void receive_all(struct lane *lane, receive_fn *receive_some)
{
    uint8_t *bytes = calloc(1, BYTES);

    MUST(bytes);
    while (lane->bytes < BYTES) {
        const ssize_t n = receive_some(lane, bytes + lane->bytes, BYTES - lane->bytes);
        CHECK(n > 0, "%s: %zd after %zu bytes: %m", lane->name, n, lane->bytes);
        lane->bytes += (size_t)n;
        lane->cuts += lane->bytes < BYTES;
    }
    check_bytes(lane, bytes, BYTES, 0);
}

static ssize_t by_recv(struct lane *lane, uint8_t *to, size_t n)
{
    return recv(lane->fd, to, n, MSG_WAITALL);
}

void do_recv(struct lane *lane)
{
    receive_all(lane, by_recv);
}

static ssize_t by_recvmsg(struct lane *lane, uint8_t *to, size_t n)
{
    struct iovec v[4];
    struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)cut_up(v, to, n), .msg_flags = 0x5a5a};
    const ssize_t got = recvmsg(lane->fd, &m, MSG_WAITALL);

    CHECK(got < 0 || (m.msg_flags & ~MSG_CMSG_CLOEXEC) == 0, "%s: flags %#x", lane->name,
          (unsigned)m.msg_flags);
    return got;
}

void do_recvmsg(struct lane *lane)
{
    receive_all(lane, by_recvmsg);
}

static ssize_t by_peek(struct lane *lane, uint8_t *to, size_t n)
{
    const ssize_t seen = recv(lane->fd, to, 10, MSG_PEEK);

    CHECK(seen == 10, "%s: %zd bytes are seen: %m", lane->name, seen);
    return recv(lane->fd, to, n, MSG_WAITALL);
}

void do_peek(struct lane *lane)
{
    receive_all(lane, by_peek);
}

static ssize_t by_read(struct lane *lane, uint8_t *to, size_t n)
{
    return read(lane->fd, to, n < 3 * EARLY ? n : 3 * EARLY);
}

void do_read(struct lane *lane)
{
    receive_all(lane, by_read);
}

void feed_rest(struct lane *lane)
{
    feed(lane, lane->prepare == make_stream ? 0 : EARLY, BYTES);
    shutdown(lane->other, SHUT_WR);
    pthread_join(lane->thread, NULL);
}
