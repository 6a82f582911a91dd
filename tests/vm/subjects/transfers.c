// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that sleep in the middle of moving bytes: each byte arrives once, and in its place.
//
// Every lane is a thread that sleeps in one call, of which a part may be done: the rest follows
// when the subject is asked. A call that was cut short returns how much it has done, as it would
// after a stop; the thread goes on from there.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "subject.h"

#define BYTES  (700 * 1024)
#define PIECES 3

struct lane;
typedef void lane_fn(struct lane *lane);

static struct lane {
    const char *name;
    lane_fn *prepare; // before the thread starts
    lane_fn *work;    // the thread
    lane_fn *finish;  // what wakes it, and what must have come out
    int fd, other, extra;
    size_t bytes;  // done so far
    bool over;     // the thread is through
    unsigned cuts; // calls that returned less than they were asked for
    pthread_t thread;
} lanes[];

static unsigned number(const struct lane *lane)
{
    return (unsigned)(lane - lanes);
}

static uint8_t byte_at(const struct lane *lane, size_t n)
{
    return (uint8_t)(subject_mix(n / 8 + 1000000 * number(lane)) >> (n % 8 * 8));
}

static uint8_t *pattern(const struct lane *lane, size_t n)
{
    uint8_t *bytes = malloc(n);

    MUST(bytes);
    for (size_t i = 0; i < n; i++)
        bytes[i] = byte_at(lane, i);
    return bytes;
}

static void check_bytes(const struct lane *lane, const uint8_t *got, size_t n, size_t from)
{
    for (size_t i = 0; i < n; i++)
        CHECK(got[i] == byte_at(lane, from + i), "%s: byte %zu is wrong", lane->name, from + i);
}

static char *in_workdir(const char *name)
{
    static __thread char path[200];

    snprintf(path, sizeof path, "%s/%s", subject.workdir, name);
    return path;
}

/* ---- writers ---- */

static void make_pipe(struct lane *lane)
{
    int fds[2];

    MUST(pipe2(fds, O_CLOEXEC) == 0);
    lane->fd = fds[1];
    lane->other = fds[0];
}

static void make_pair_of(struct lane *lane, int type)
{
    int fds[2];

    MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) == 0);
    lane->fd = fds[0];
    lane->other = fds[1];
}

static void make_stream(struct lane *lane)
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

static void do_write(struct lane *lane)
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

static void do_writev(struct lane *lane)
{
    send_all(lane, by_writev);
}

static ssize_t by_send(struct lane *lane, uint8_t *from, size_t n)
{
    return send(lane->fd, from, n, MSG_NOSIGNAL);
}

static void do_send(struct lane *lane)
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

static void do_sendmsg(struct lane *lane)
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

static void drain(struct lane *lane)
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

static void make_fed(struct lane *lane)
{
    make_stream(lane);
    feed(lane, 0, EARLY);
}

static void make_low(struct lane *lane)
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

static void do_recv(struct lane *lane)
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

static void do_recvmsg(struct lane *lane)
{
    receive_all(lane, by_recvmsg);
}

static ssize_t by_peek(struct lane *lane, uint8_t *to, size_t n)
{
    const ssize_t seen = recv(lane->fd, to, 10, MSG_PEEK);

    CHECK(seen == 10, "%s: %zd bytes are seen: %m", lane->name, seen);
    return recv(lane->fd, to, n, MSG_WAITALL);
}

static void do_peek(struct lane *lane)
{
    receive_all(lane, by_peek);
}

static ssize_t by_read(struct lane *lane, uint8_t *to, size_t n)
{
    return read(lane->fd, to, n < 3 * EARLY ? n : 3 * EARLY);
}

static void do_read(struct lane *lane)
{
    receive_all(lane, by_read);
}

static void feed_rest(struct lane *lane)
{
    feed(lane, lane->prepare == make_stream ? 0 : EARLY, BYTES);
    shutdown(lane->other, SHUT_WR);
    pthread_join(lane->thread, NULL);
}

/* ---- several messages ---- */

#define MESSAGES      6
#define MESSAGE_BYTES 1000

static void make_datagrams(struct lane *lane)
{
    make_pair_of(lane, SOCK_DGRAM);
}

// Room for `room` more messages.
static void fill(struct lane *lane, int room)
{
    static const char one[] = "x";
    char c;

    while (send(lane->fd, one, 1, MSG_DONTWAIT) == 1)
        ;
    for (int i = 0; i < room; i++)
        MUST(read(lane->other, &c, 1) == 1);
}

static void make_full(struct lane *lane)
{
    make_datagrams(lane);
    fill(lane, 2);
}

static void set_up(struct mmsghdr *m, struct iovec *v, uint8_t *bytes)
{
    memset(m, 0, MESSAGES * sizeof *m);
    for (int i = 0; i < MESSAGES; i++) {
        v[i] = (struct iovec){bytes + i * MESSAGE_BYTES, MESSAGE_BYTES};
        m[i].msg_hdr.msg_iov = &v[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
}

static void do_sendmmsg(struct lane *lane)
{
    uint8_t *bytes = pattern(lane, MESSAGES * MESSAGE_BYTES);
    struct mmsghdr m[MESSAGES];
    struct iovec v[MESSAGES];

    set_up(m, v, bytes);
    for (int done = 0, n; done < MESSAGES; done += n) {
        n = sendmmsg(lane->fd, m + done, (unsigned)(MESSAGES - done), 0);
        CHECK(n > 0, "%s: %d after %d: %m", lane->name, n, done);
        for (int i = done; i < done + n; i++)
            CHECK(m[i].msg_len == MESSAGE_BYTES, "%s: message %d has %u bytes", lane->name, i,
                  m[i].msg_len);
    }
}

static void take_messages(struct lane *lane)
{
    uint8_t got[2 * MESSAGE_BYTES];

    for (int i = 0; i < MESSAGES;) {
        const ssize_t n = read(lane->other, got, sizeof got);
        if (n == 1)
            continue;
        CHECK(n == MESSAGE_BYTES, "%s: a message of %zd bytes", lane->name, n);
        check_bytes(lane, got, MESSAGE_BYTES, (size_t)i++ * MESSAGE_BYTES);
    }
    pthread_join(lane->thread, NULL);
}

static void send_messages(struct lane *lane, int from, int to)
{
    uint8_t *bytes = pattern(lane, MESSAGES * MESSAGE_BYTES);

    for (; from < to; from++)
        MUST(write(lane->other, bytes + from * MESSAGE_BYTES, MESSAGE_BYTES) == MESSAGE_BYTES);
    free(bytes);
}

static void make_two(struct lane *lane)
{
    make_datagrams(lane);
    send_messages(lane, 0, 2);
}

static void do_recvmmsg(struct lane *lane)
{
    uint8_t *bytes = calloc(MESSAGES, MESSAGE_BYTES);
    struct mmsghdr m[MESSAGES];
    struct iovec v[MESSAGES];

    set_up(m, v, bytes);
    for (int done = 0, n; done < MESSAGES; done += n) {
        n = recvmmsg(lane->fd, m + done, (unsigned)(MESSAGES - done), 0, NULL);
        CHECK(n > 0, "%s: %d after %d: %m", lane->name, n, done);
    }
    check_bytes(lane, bytes, MESSAGES * MESSAGE_BYTES, 0);
}

static void send_rest(struct lane *lane)
{
    send_messages(lane, lane->prepare == make_two ? 2 : 0, MESSAGES);
    pthread_join(lane->thread, NULL);
}

/* ---- a large message ---- */

#define LARGE (100 * 1024)

static void make_packets(struct lane *lane)
{
    make_pair_of(lane, SOCK_SEQPACKET);
    fill(lane, 0);
}

static void make_no_room(struct lane *lane)
{
    make_datagrams(lane);
    fill(lane, 0);
}

static void do_large(struct lane *lane)
{
    uint8_t *bytes = pattern(lane, LARGE);
    struct iovec v = {bytes, LARGE};
    const struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    const ssize_t n = sendmsg(lane->fd, &m, 0);

    CHECK(n == LARGE, "%s: %zd bytes: %m", lane->name, n);
}

static void take_large(struct lane *lane)
{
    static uint8_t got[2 * LARGE];
    ssize_t n;

    while ((n = read(lane->other, got, sizeof got)) == 1)
        ;
    CHECK(n == LARGE, "%s: a message of %zd bytes", lane->name, n);
    check_bytes(lane, got, LARGE, 0);
    pthread_join(lane->thread, NULL);
}

/* ---- connect ---- */

static void make_backlog(struct lane *lane)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    strcpy(name.sun_path + 1, "subject-transfers");
    MUST((lane->other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    if (bind(lane->other, (struct sockaddr *)&name, sizeof name) < 0)
        subject_fail("bind: %m");
    MUST(listen(lane->other, 0) == 0);
    MUST((lane->extra = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    MUST(connect(lane->extra, (struct sockaddr *)&name, sizeof name) == 0);
    MUST((lane->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
}

static void do_connect(struct lane *lane)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    strcpy(name.sun_path + 1, "subject-transfers");
    CHECK(connect(lane->fd, (struct sockaddr *)&name, sizeof name) == 0, "connect: %m");
    MUST(write(lane->fd, "c", 1) == 1);
}

static void take_connection(struct lane *lane)
{
    int fd;
    char c = 0;

    MUST(write(lane->extra, "f", 1) == 1);
    MUST((fd = accept(lane->other, NULL, NULL)) >= 0);
    CHECK(read(fd, &c, 1) == 1 && c == 'f', "connect: the first is not the first");
    MUST((fd = accept(lane->other, NULL, NULL)) >= 0);
    CHECK(read(fd, &c, 1) == 1 && c == 'c', "connect: the second is not the second");
    pthread_join(lane->thread, NULL);
    MUST(fcntl(lane->other, F_SETFL, O_NONBLOCK) == 0);
    CHECK(accept(lane->other, NULL, NULL) < 0 && errno == EAGAIN, "connect: a third waits");
}

/* ---- opening a FIFO ---- */

static void do_open(struct lane *lane)
{
    char c = 0;

    lane->fd = open(in_workdir("reads"), O_RDONLY | O_CLOEXEC);
    CHECK(lane->fd >= 0, "open: %m");
    CHECK(read(lane->fd, &c, 1) == 1 && c == 'o', "open: nothing comes");
}

static void do_creat(struct lane *lane)
{
    lane->fd = creat(in_workdir("writes"), 0600);
    CHECK(lane->fd >= 0, "creat: %m");
    CHECK(write(lane->fd, "c", 1) == 1, "creat: nothing goes");
}

static void open_other(struct lane *lane)
{
    const bool reads = lane->work == do_open;
    char c = 'o';

    lane->other = open(in_workdir(reads ? "reads" : "writes"), reads ? O_WRONLY : O_RDONLY);
    MUST(lane->other >= 0);
    if (reads)
        MUST(write(lane->other, &c, 1) == 1);
    else
        CHECK(read(lane->other, &c, 1) == 1 && c == 'c', "creat: nothing comes");
    pthread_join(lane->thread, NULL);
}

/* ---- splice and its kin ---- */

static void make_two_pipes(struct lane *lane)
{
    int in[2], out[2];

    MUST(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    lane->fd = in[0];
    lane->other = in[1];
    lane->extra = out[1];
    lane->bytes = (size_t)out[0];
}

static void do_splice(struct lane *lane)
{
    CHECK(splice(lane->fd, NULL, lane->extra, NULL, 100, 0) == 5, "%s: %m", lane->name);
}

static void do_tee(struct lane *lane)
{
    CHECK(tee(lane->fd, lane->extra, 100, 0) == 5, "%s: %m", lane->name);
}

static void take_spliced(struct lane *lane)
{
    char got[10];

    MUST(write(lane->other, "bytes", 5) == 5);
    CHECK(read((int)lane->bytes, got, sizeof got) == 5 && memcmp(got, "bytes", 5) == 0,
          "%s: other bytes", lane->name);
    pthread_join(lane->thread, NULL);
    if (lane->work == do_tee)
        CHECK(read(lane->fd, got, sizeof got) == 5, "tee: it has taken the bytes away");
}

static void make_full_pipe(struct lane *lane)
{
    make_pipe(lane);
    MUST(fcntl(lane->fd, F_SETFL, O_NONBLOCK) == 0);
    while (write(lane->fd, "xxxx", 4) == 4)
        ;
    MUST(fcntl(lane->fd, F_SETFL, 0) == 0);
}

static void do_vmsplice(struct lane *lane)
{
    static char text[] = "gift";
    struct iovec v = {text, 4};

    CHECK(vmsplice(lane->fd, &v, 1, 0) == 4, "vmsplice: %m");
}

static void take_gift(struct lane *lane)
{
    char got[4096];
    ssize_t n = 0, one;

    do {
        MUST((one = read(lane->other, got, sizeof got)) > 0);
        n += one;
    } while (memcmp(got + one - 4, "gift", 4) != 0);
    CHECK(n == 65536 + 4, "vmsplice: %zd bytes came", n);
    pthread_join(lane->thread, NULL);
}

/* ---- all ---- */

static struct lane lanes[] = {
    {.name = "write to a pipe", .prepare = make_pipe, .work = do_write, .finish = drain},
    {.name = "writev to a pipe", .prepare = make_pipe, .work = do_writev, .finish = drain},
    {.name = "write to a stream", .prepare = make_stream, .work = do_write, .finish = drain},
    {.name = "writev to a stream", .prepare = make_stream, .work = do_writev, .finish = drain},
    {.name = "send", .prepare = make_stream, .work = do_send, .finish = drain},
    {.name = "sendmsg", .prepare = make_stream, .work = do_sendmsg, .finish = drain},
    {.name = "recv of all", .prepare = make_fed, .work = do_recv, .finish = feed_rest},
    {.name = "recvmsg of all", .prepare = make_fed, .work = do_recvmsg, .finish = feed_rest},
    {.name = "peek", .prepare = make_stream, .work = do_peek, .finish = feed_rest},
    {.name = "SO_RCVLOWAT", .prepare = make_low, .work = do_read, .finish = feed_rest},
    {.name = "sendmmsg", .prepare = make_full, .work = do_sendmmsg, .finish = take_messages},
    {.name = "recvmmsg", .prepare = make_two, .work = do_recvmmsg, .finish = send_rest},
    {.name = "recvmmsg of none",
     .prepare = make_datagrams,
     .work = do_recvmmsg,
     .finish = send_rest},
    {.name = "a large datagram", .prepare = make_no_room, .work = do_large, .finish = take_large},
    {.name = "a large packet", .prepare = make_packets, .work = do_large, .finish = take_large},
    {.name = "connect", .prepare = make_backlog, .work = do_connect, .finish = take_connection},
    {.name = "open", .work = do_open, .finish = open_other},
    {.name = "creat", .work = do_creat, .finish = open_other},
    {.name = "splice", .prepare = make_two_pipes, .work = do_splice, .finish = take_spliced},
    {.name = "tee", .prepare = make_two_pipes, .work = do_tee, .finish = take_spliced},
    {.name = "vmsplice", .prepare = make_full_pipe, .work = do_vmsplice, .finish = take_gift},
};
#define N_LANES (sizeof lanes / sizeof lanes[0])

static void *run(void *arg)
{
    struct lane *lane = arg;

    lane->work(lane);
    lane->over = true;
    return NULL;
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    if (subject.prepare) {
        umask(0);
        MUST(mkfifo(in_workdir("reads"), 0666) == 0);
        MUST(mkfifo(in_workdir("writes"), 0666) == 0);
        return 0;
    }
    for (size_t i = 0; i < N_LANES; i++) {
        if (lanes[i].prepare)
            lanes[i].prepare(&lanes[i]);
        MUST(pthread_create(&lanes[i].thread, NULL, run, &lanes[i]) == 0);
    }
    subject_sleep_ms(100);
    subject_ready();
    if (subject.sabotage) {
        char c;
        MUST(read(lanes[0].other, &c, 1) == 1);
    }
    while (!subject_asked())
        subject_sleep_ms(5);
    for (size_t i = 0; i < N_LANES; i++) {
        CHECK(!lanes[i].over, "%s: over too early", lanes[i].name);
        lanes[i].finish(&lanes[i]);
    }
    subject_pass();
}
