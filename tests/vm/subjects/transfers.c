// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that sleep in the middle of moving bytes: each byte arrives once, and in its place.
//
// Every lane is a thread that sleeps in one call, of which a part may be done: the rest follows
// when the subject is asked. A call that was cut short returns how much it has done, as it would
// after a stop; the thread goes on from there.
#include "transfers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static struct lane lanes[];

static unsigned number(const struct lane *lane)
{
    return (unsigned)(lane - lanes);
}

static uint8_t byte_at(const struct lane *lane, size_t n)
{
    return (uint8_t)(subject_mix(n / 8 + 1000000 * number(lane)) >> (n % 8 * 8));
}

uint8_t *pattern(const struct lane *lane, size_t n)
{
    uint8_t *bytes = malloc(n);

    MUST(bytes);
    for (size_t i = 0; i < n; i++)
        bytes[i] = byte_at(lane, i);
    return bytes;
}

void check_bytes(const struct lane *lane, const uint8_t *got, size_t n, size_t from)
{
    for (size_t i = 0; i < n; i++)
        CHECK(got[i] == byte_at(lane, from + i), "%s: byte %zu is wrong", lane->name, from + i);
}

char *in_workdir(const char *name)
{
    static __thread char path[200];

    snprintf(path, sizeof path, "%s/%s", subject.workdir, name);
    return path;
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