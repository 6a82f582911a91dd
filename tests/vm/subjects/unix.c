// SPDX-License-Identifier: GPL-2.0-or-later
// Unix sockets with data in flight, names, peers, options and waiters; ARGUMENT says which kind.
#include "unix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint8_t buffer[BUFFER_BYTES], expected[BUFFER_BYTES];
int type, victim;

void fill(uint8_t *at, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)subject_mix(seed + i);
}

void put(int fd, size_t bytes, uint64_t seed)
{
    fill(buffer, bytes, seed);
    MUST(send(fd, buffer, bytes, 0) == (ssize_t)bytes);
}

void get(int fd, size_t bytes, uint64_t seed, const char *what)
{
    ssize_t n = recv(fd, buffer, bytes ? bytes : sizeof buffer, MSG_DONTWAIT);

    fill(expected, bytes, seed);
    CHECK(n == (ssize_t)bytes, "%s: %zd bytes, %zu expected: %m", what, n, bytes);
    CHECK(memcmp(buffer, expected, bytes) == 0, "%s: damaged", what);
}

void nothing(int fd, const char *what)
{
    CHECK(recv(fd, buffer, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "%s: something is left", what);
}

void end(int fd, const char *what)
{
    CHECK(recv(fd, buffer, 1, MSG_DONTWAIT) == 0, "%s: no end of file: %m", what);
}

void broken(int fd, const char *what)
{
    CHECK(send(fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE, "%s: no EPIPE: %m",
          what);
}

/* ---- names ---- */

static socklen_t address(struct sockaddr_un *ret, const char *name, bool abstract)
{
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    if (!abstract) {
        snprintf(ret->sun_path, sizeof ret->sun_path, "%s", name);
        return sizeof *ret;
    }
    snprintf(ret->sun_path + 1, sizeof ret->sun_path - 1, "%s", name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

void bind_to(int fd, const char *name, bool abstract)
{
    struct sockaddr_un addr;
    const socklen_t len = address(&addr, name, abstract);

    MUST(bind(fd, (struct sockaddr *)&addr, len) == 0);
}

int connect_to(int fd, const char *name, bool abstract)
{
    struct sockaddr_un addr;
    const socklen_t len = address(&addr, name, abstract);

    return connect(fd, (struct sockaddr *)&addr, len);
}

void check_name(int fd, bool peer, const char *name, bool abstract, const char *what)
{
    struct sockaddr_un addr = {0}, want = {0};
    socklen_t len = sizeof addr, want_len = 2;
    int failed = peer ? getpeername(fd, (struct sockaddr *)&addr, &len)
                      : getsockname(fd, (struct sockaddr *)&addr, &len);

    CHECK(failed == 0, "%s: name: %m", what);
    if (name) {
        want_len = address(&want, name, abstract);
        if (!abstract)
            want_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
    }
    CHECK(len == want_len && (!name || memcmp(addr.sun_path, want.sun_path, len - 2) == 0),
          "%s: its name has %u bytes, not %u: %s", what, len, want_len, addr.sun_path);
}

const char *in_workdir(const char *name)
{
    static char path[4][120];
    static int next;
    char *ret = path[next++ % 4];

    snprintf(ret, sizeof path[0], "%s/%s", subject.workdir, name);
    return ret;
}

void check_cred(int fd, pid_t pid, const char *what)
{
    struct ucred cred;
    socklen_t len = sizeof cred;

    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0);
    CHECK(cred.pid == pid && cred.uid == (pid ? geteuid() : (uid_t)-1) &&
              cred.gid == (pid ? getegid() : (gid_t)-1),
          "%s: SO_PEERCRED is pid %d, uid %d, gid %d, not pid %d", what, cred.pid, cred.uid,
          cred.gid, pid);
}

/* ---- all ---- */

static const struct {
    const char *argument;
    int type;
    void (*start[3])(void);
    void (*check[3])(void);
} kinds[] = {
    {"stream",
     SOCK_STREAM,
     {start_pairs, start_stream},
     {check_pairs, check_stream, check_waiters}},
    {"seqpacket", SOCK_SEQPACKET, {start_pairs}, {check_pairs, check_waiters}},
    {"dgram",
     SOCK_DGRAM,
     {start_pairs, start_datagrams},
     {check_pairs, check_datagrams, check_waiters}},
    {"queue", SOCK_DGRAM, {start_datagrams, start_queue}, {check_queue, check_datagrams}},
    {"listen", SOCK_STREAM, {start_listen}, {check_listen}},
    {"listen-seqpacket", SOCK_SEQPACKET, {start_listen}, {check_listen}},
};

int main(int argc, char **argv)
{
    size_t k = 0;

    subject_begin(argc, argv);
    while (k < sizeof kinds / sizeof kinds[0] && strcmp(kinds[k].argument, subject.argument) != 0)
        k++;
    CHECK(k < sizeof kinds / sizeof kinds[0], "no such kind: %s", subject.argument);
    type = kinds[k].type;
    for (int i = 0; i < 3 && kinds[k].start[i]; i++)
        kinds[k].start[i]();
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage) {
        buffer[0] = 0;
        MUST(recv(victim, buffer, 1, MSG_DONTWAIT) == 1);
    }
    while (!subject_asked())
        subject_sleep_ms(5);
    for (int i = 0; i < 3 && kinds[k].check[i]; i++)
        kinds[k].check[i]();
    subject_pass();
}
