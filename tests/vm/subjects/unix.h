// SPDX-License-Identifier: GPL-2.0-or-later
// What the parts of the subject `unix` share.
#pragma once

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "subject.h"

#define BUFFER_BYTES (1 << 18)

extern uint8_t buffer[BUFFER_BYTES], expected[BUFFER_BYTES];
extern int type;   // of all sockets: SOCK_STREAM ...
extern int victim; // what loses something of what is to be read when the subject is sabotaged

// unix.c: bytes that depend on a seed, and what else is asked of every socket. `what` is for the
// message where it is not so.
void fill(uint8_t *at, size_t bytes, uint64_t seed);
void put(int fd, size_t bytes, uint64_t seed);
// What one call gives must be what one call has sent, or `bytes` of a stream.
void get(int fd, size_t bytes, uint64_t seed, const char *what);
void nothing(int fd, const char *what);
void end(int fd, const char *what);
void broken(int fd, const char *what);
void bind_to(int fd, const char *name, bool abstract);
int connect_to(int fd, const char *name, bool abstract);
void check_name(int fd, bool peer, const char *name, bool abstract, const char *what); // NULL: none
const char *in_workdir(const char *name); // one of the last four
void check_cred(int fd, pid_t pid, const char *what);

// unix_pairs.c: pairs of all types, streams
void make_pair(int fds[2]);
void start_pairs(void);
void check_pairs(void);
void start_stream(void);
void check_stream(void);
void check_waiters(void);

// unix_connections.c: datagrams between names, listeners
void start_datagrams(void);
void check_datagrams(void);
void start_queue(void);
void check_queue(void);
void start_listen(void);
void check_listen(void);
