// SPDX-License-Identifier: GPL-2.0-or-later
// Several messages at once, large ones, connections, FIFOs that are opened, splice and its kin.
#include "transfers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- several messages ---- */

#define MESSAGES      6
#define MESSAGE_BYTES 1000

void make_datagrams(struct lane *lane)
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

void make_full(struct lane *lane)
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

void do_sendmmsg(struct lane *lane)
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

void take_messages(struct lane *lane)
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

void make_two(struct lane *lane)
{
    make_datagrams(lane);
    send_messages(lane, 0, 2);
}

void do_recvmmsg(struct lane *lane)
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

void send_rest(struct lane *lane)
{
    send_messages(lane, lane->prepare == make_two ? 2 : 0, MESSAGES);
    pthread_join(lane->thread, NULL);
}

/* ---- a large message ---- */

#define LARGE (100 * 1024)

void make_packets(struct lane *lane)
{
    make_pair_of(lane, SOCK_SEQPACKET);
    fill(lane, 0);
}

void make_no_room(struct lane *lane)
{
    make_datagrams(lane);
    fill(lane, 0);
}

void do_large(struct lane *lane)
{
    uint8_t *bytes = pattern(lane, LARGE);
    struct iovec v = {bytes, LARGE};
    const struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    const ssize_t n = sendmsg(lane->fd, &m, 0);

    CHECK(n == LARGE, "%s: %zd bytes: %m", lane->name, n);
}

void take_large(struct lane *lane)
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

// Of this process alone: one that was left behind has another.
static void own_name(struct sockaddr_un *ret)
{
    snprintf(ret->sun_path + 1, sizeof ret->sun_path - 1, "subject-transfers-%d", (int)getpid());
}

void make_backlog(struct lane *lane)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    own_name(&name);
    MUST((lane->other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    if (bind(lane->other, (struct sockaddr *)&name, sizeof name) < 0)
        subject_fail("bind: %m");
    MUST(listen(lane->other, 0) == 0);
    MUST((lane->extra = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    MUST(connect(lane->extra, (struct sockaddr *)&name, sizeof name) == 0);
    MUST((lane->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
}

void do_connect(struct lane *lane)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    own_name(&name);
    CHECK(connect(lane->fd, (struct sockaddr *)&name, sizeof name) == 0, "connect: %m");
    MUST(write(lane->fd, "c", 1) == 1);
}

void take_connection(struct lane *lane)
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

void do_open(struct lane *lane)
{
    char c = 0;

    lane->fd = open(in_workdir("reads"), O_RDONLY | O_CLOEXEC);
    CHECK(lane->fd >= 0, "open: %m");
    CHECK(read(lane->fd, &c, 1) == 1 && c == 'o', "open: nothing comes");
}

void do_creat(struct lane *lane)
{
    lane->fd = creat(in_workdir("writes"), 0600);
    CHECK(lane->fd >= 0, "creat: %m");
    CHECK(write(lane->fd, "c", 1) == 1, "creat: nothing goes");
}

void open_other(struct lane *lane)
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

void make_two_pipes(struct lane *lane)
{
    int in[2], out[2];

    MUST(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    lane->fd = in[0];
    lane->other = in[1];
    lane->extra = out[1];
    lane->bytes = (size_t)out[0];
}

void do_splice(struct lane *lane)
{
    CHECK(splice(lane->fd, NULL, lane->extra, NULL, 100, 0) == 5, "%s: %m", lane->name);
}

void do_tee(struct lane *lane)
{
    CHECK(tee(lane->fd, lane->extra, 100, 0) == 5, "%s: %m", lane->name);
}

void take_spliced(struct lane *lane)
{
    char got[10];

    MUST(write(lane->other, "bytes", 5) == 5);
    CHECK(read((int)lane->bytes, got, sizeof got) == 5 && memcmp(got, "bytes", 5) == 0,
          "%s: other bytes", lane->name);
    pthread_join(lane->thread, NULL);
    if (lane->work == do_tee)
        CHECK(read(lane->fd, got, sizeof got) == 5, "tee: it has taken the bytes away");
}

void make_full_pipe(struct lane *lane)
{
    make_pipe(lane);
    MUST(fcntl(lane->fd, F_SETFL, O_NONBLOCK) == 0);
    while (write(lane->fd, "xxxx", 4) == 4)
        ;
    MUST(fcntl(lane->fd, F_SETFL, 0) == 0);
}

void do_vmsplice(struct lane *lane)
{
    static char text[] = "gift";
    struct iovec v = {text, 4};

    CHECK(vmsplice(lane->fd, &v, 1, 0) == 4, "vmsplice: %m");
}

void take_gift(struct lane *lane)
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
