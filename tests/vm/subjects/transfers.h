// SPDX-License-Identifier: GPL-2.0-or-later
// A lane: one thread that sleeps in the middle of a call, what prepares it and what wakes it.
#pragma once

#include <pthread.h>
#include <stddef.h>

#include "subject.h"

struct lane;
typedef void lane_fn(struct lane *lane);

struct lane {
    const char *name;
    lane_fn *prepare; // before the thread starts
    lane_fn *work;    // the thread
    lane_fn *finish;  // what wakes it, and what must have come out
    int fd, other, extra;
    size_t bytes;  // done so far
    bool over;     // the thread is through
    unsigned cuts; // calls that returned less than they were asked for
    pthread_t thread;
};

// transfers.c: n bytes that no other lane has, to be freed; whether these are those from a place
// on.
uint8_t *pattern(const struct lane *lane, size_t n);
void check_bytes(const struct lane *lane, const uint8_t *got, size_t n, size_t from);
char *in_workdir(const char *name); // until the thread asks for the next

// transfers_bytes.c: streams of bytes
void make_pair_of(struct lane *lane, int type);
lane_fn make_pipe, make_stream, make_fed, make_low;
lane_fn do_write, do_writev, do_send, do_sendmsg, do_recv, do_recvmsg, do_peek, do_read;
lane_fn drain, feed_rest;

// transfers_others.c: messages, connections, FIFOs, splice and its kin
lane_fn make_full, make_datagrams, make_two, make_no_room, make_packets, make_backlog,
    make_two_pipes, make_full_pipe;
lane_fn do_sendmmsg, do_recvmmsg, do_large, do_connect, do_open, do_creat, do_splice, do_tee,
    do_vmsplice;
lane_fn take_messages, send_rest, take_large, take_connection, open_other, take_spliced, take_gift;
