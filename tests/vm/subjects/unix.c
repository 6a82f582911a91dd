// SPDX-License-Identifier: GPL-2.0-or-later
// Unix sockets with data in flight, names, peers, options and waiters; ARGUMENT says which kind.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "subject.h"

static uint8_t buffer[1 << 18], expected[1 << 18];
static int type;

static void fill(uint8_t *at, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)subject_mix(seed + i);
}

static void put(int fd, size_t bytes, uint64_t seed)
{
    fill(buffer, bytes, seed);
    MUST(send(fd, buffer, bytes, 0) == (ssize_t)bytes);
}

// What one call gives must be what one call has sent, or `bytes` of a stream.
static void get(int fd, size_t bytes, uint64_t seed, const char *what)
{
    ssize_t n = recv(fd, buffer, bytes ? bytes : sizeof buffer, MSG_DONTWAIT);

    fill(expected, bytes, seed);
    CHECK(n == (ssize_t)bytes, "%s: %zd bytes, %zu expected: %m", what, n, bytes);
    CHECK(memcmp(buffer, expected, bytes) == 0, "%s: damaged", what);
}

static void nothing(int fd, const char *what)
{
    CHECK(recv(fd, buffer, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "%s: something is left", what);
}

static void end(int fd, const char *what)
{
    CHECK(recv(fd, buffer, 1, MSG_DONTWAIT) == 0, "%s: no end of file: %m", what);
}

static void broken(int fd, const char *what)
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

static void bind_to(int fd, const char *name, bool abstract)
{
    struct sockaddr_un addr;
    const socklen_t len = address(&addr, name, abstract);

    MUST(bind(fd, (struct sockaddr *)&addr, len) == 0);
}

static int connect_to(int fd, const char *name, bool abstract)
{
    struct sockaddr_un addr;
    const socklen_t len = address(&addr, name, abstract);

    return connect(fd, (struct sockaddr *)&addr, len);
}

// NULL: no name.
static void check_name(int fd, bool peer, const char *name, bool abstract, const char *what)
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

static const char *in_workdir(const char *name)
{
    static char path[4][120];
    static int next;
    char *ret = path[next++ % 4];

    snprintf(ret, sizeof path[0], "%s/%s", subject.workdir, name);
    return ret;
}

static void check_cred(int fd, pid_t pid, const char *what)
{
    struct ucred cred;
    socklen_t len = sizeof cred;

    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0);
    CHECK(cred.pid == pid && cred.uid == (pid ? geteuid() : (uid_t)-1) &&
              cred.gid == (pid ? getegid() : (gid_t)-1),
          "%s: SO_PEERCRED is pid %d, uid %d, gid %d, not pid %d", what, cred.pid, cred.uid,
          cred.gid, pid);
}

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
static int credited[2], out_of_band[2], inlined[2], filtered[2];
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

static void make_pair(int fds[2])
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

static void start_pairs(void)
{
    make_pair(plain);
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

static void check_pairs(void)
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

static void check_waiters(void)
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

static void start_stream(void)
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

static void check_stream(void)
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

/* ---- datagrams ---- */

static int named[2], server, gone, oneway, narcissus, parted[3], qlen_server, qlen_client;
static pthread_t dgram_sender;
static int sent_late;

static void *send_late(void *arg)
{
    const ssize_t n = send(qlen_client, "late", 4, 0);

    CHECK(n == 4, "the waiting sender: %zd: %m", n);
    __atomic_store_n(&sent_late, 1, __ATOMIC_SEQ_CST);
    return arg;
}

static int new_socket(void)
{
    const int fd = socket(AF_UNIX, type, 0);

    MUST(fd >= 0);
    return fd;
}

static void start_datagrams(void)
{
    static struct sock_filter code[] = {{BPF_RET | BPF_K, 0, 0, 3}}; // three bytes of each
    const struct sock_fprog program = {1, code};

    MUST(chdir(subject.workdir) == 0);
    bind_to(server = new_socket(), "server.sock", false); // relative
    bind_to(named[0] = new_socket(), in_workdir("named0"), false);
    bind_to(named[1] = new_socket(), "subject-named1", true);
    MUST(connect_to(named[0], "subject-named1", true) == 0);
    MUST(connect_to(named[1], in_workdir("named0"), false) == 0);
    put(named[0], 100, 30);
    put(named[1], 0, 31);
    MUST(connect_to(oneway = new_socket(), "server.sock", false) == 0);
    put(oneway, 70, 32);
    bind_to(gone = new_socket(), "subject-gone", true);
    MUST(connect_to(gone, in_workdir("server.sock"), false) == 0);
    put(gone, 80, 33);
    close(gone);
    bind_to(narcissus = new_socket(), in_workdir("narcissus"), false);
    MUST(connect_to(narcissus, "narcissus", false) == 0);
    put(narcissus, 60, 39);
    MUST(unlink("narcissus") == 0);
    make_pair(parted);
    bind_to(parted[2] = new_socket(), "subject-parted", true);
    put(parted[0], 90, 34);
    MUST(connect_to(parted[0], "subject-parted", true) == 0);
    put(parted[0], 91, 35);
    qlen_server = new_socket();
    MUST(chmod("server.sock", 0604) == 0);
    make_pair(filtered);
    MUST(setsockopt(filtered[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
}

static void start_queue(void)
{
    close(qlen_server);
    bind_to(qlen_server = new_socket(), "subject-queue", true);
    MUST(connect_to(qlen_client = new_socket(), "subject-queue", true) == 0);
    while (send(qlen_client, "12345", 5, MSG_DONTWAIT) == 5)
        full_count++;
    MUST(pthread_create(&dgram_sender, NULL, send_late, NULL) == 0);
}

static void get_from(int fd, size_t bytes, uint64_t seed, const char *name, const char *what)
{
    struct sockaddr_un from = {0};
    socklen_t len = sizeof from;
    const ssize_t n =
        recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *)&from, &len);

    fill(expected, bytes, seed);
    CHECK(n == (ssize_t)bytes && memcmp(buffer, expected, bytes) == 0, "%s: %zd bytes: %m", what,
          n);
    if (!name)
        CHECK(len == 0, "%s: its sender has a name of %u bytes", what, len);
    else
        CHECK(len == 3 + strlen(name) && memcmp(from.sun_path + 1, name, strlen(name)) == 0,
              "%s: its sender is called %s (%u)", what, from.sun_path + 1, len);
}

static void check_datagrams(void)
{
    struct stat st;

    check_name(server, false, "server.sock", false, "the server");
    check_name(named[0], false, in_workdir("named0"), false, "the first of two");
    check_name(named[0], true, "subject-named1", true, "the second of two");
    check_name(oneway, true, "server.sock", false, "the server, as a peer");
    check_name(narcissus, false, in_workdir("narcissus"), false, "the unlinked one");
    CHECK(stat(in_workdir("server.sock"), &st) == 0 && st.st_mode == (S_IFSOCK | 0604),
          "the server's name has mode %o: %m", st.st_mode);
    CHECK(stat(in_workdir("narcissus"), &st) < 0, "an unlinked name is back");
    get(named[1], 100, 30, "the second of two");
    get(named[0], 0, 31, "an empty datagram");
    get_from(server, 70, 32, NULL, "the server");
    get(narcissus, 60, 39, "one connected to itself");
    put(narcissus, 61, 39);
    get(narcissus, 61, 39, "one connected to itself, later");
    get_from(server, 80, 33, "subject-gone", "the server, by one that is gone");
    nothing(server, "the server");
    get(parted[1], 90, 34, "a former partner");
    get(parted[2], 91, 35, "the new partner");
    put(parted[0], 92, 36);
    get(parted[2], 92, 36, "the new partner later");
    check_name(parted[0], true, "subject-parted", true, "the new partner");
    CHECK(getpeername(server, (struct sockaddr *)&(struct sockaddr_un){0}, &(socklen_t){8}) < 0 &&
              errno == ENOTCONN,
          "the server has a peer");
    check_cred(server, 0, "the server");
    // It still listens by its name.
    MUST(connect_to(gone = new_socket(), in_workdir("server.sock"), false) == 0);
    put(gone, 12, 37);
    get(server, 12, 37, "the server later");
    put(filtered[0], 12, 38);
    get(filtered[1], 3, 38, "a filter");
}

static void check_queue(void)
{
    CHECK(!sent_late, "the sender did not wait");
    for (int i = 0; i < full_count; i++)
        MUST(recv(qlen_server, buffer, 100, MSG_DONTWAIT) == 5);
    pthread_join(dgram_sender, NULL);
    MUST(recv(qlen_server, buffer, 100, MSG_DONTWAIT) == 4 && memcmp(buffer, "late", 4) == 0);
}

/* ---- connections ---- */

static int listener, clients[4], accepted, nobody, orphan[2], empty_listener, accepted_late;
static pthread_t acceptor;

static void *accept_one(void *arg)
{
    struct sockaddr_un from;
    socklen_t len = sizeof from;

    accepted_late = accept(empty_listener, (struct sockaddr *)&from, &len);
    CHECK(accepted_late >= 0, "accept: %m");
    return arg;
}

static void start_listen(void)
{
    MUST(chdir("/") == 0);
    bind_to(listener = new_socket(), in_workdir("listener"), false);
    MUST(listen(listener, 5) == 0);
    bind_to(clients[0] = new_socket(), "subject-client", true);
    for (int i = 1; i < 4; i++)
        clients[i] = new_socket();
    MUST(connect_to(clients[0], in_workdir("listener"), false) == 0);
    MUST((accepted = accept(listener, NULL, NULL)) >= 0);
    put(clients[0], 200, 40);
    put(accepted, 201, 41);
    // Three that wait: with something sent, half closed, and closed.
    for (int i = 1; i < 4; i++)
        MUST(connect_to(clients[i], in_workdir("listener"), false) == 0);
    put(clients[1], 202, 42);
    put(clients[1], 203, 43);
    MUST(shutdown(clients[2], SHUT_WR) == 0);
    put(clients[3], 204, 44);
    MUST(close(clients[3]) == 0);
    // A connection whose listener is gone, and one whose client is.
    bind_to(nobody = new_socket(), "subject-nobody", true);
    MUST(listen(nobody, 1) == 0 &&
         connect_to(orphan[0] = new_socket(), "subject-nobody", true) == 0);
    MUST((orphan[1] = accept(nobody, NULL, NULL)) >= 0 && close(nobody) == 0);
    put(orphan[0], 205, 45);
    bind_to(empty_listener = new_socket(), "subject-empty", true);
    MUST(listen(empty_listener, 3) == 0);
    MUST(pthread_create(&acceptor, NULL, accept_one, NULL) == 0);
}

static void check_connection(void)
{
    check_name(listener, false, in_workdir("listener"), false, "the listener");
    check_name(accepted, false, in_workdir("listener"), false, "the accepted");
    check_name(accepted, true, "subject-client", true, "the client");
    check_name(clients[0], true, in_workdir("listener"), false, "the peer of the client");
    check_cred(listener, getpid(), "the listener");
    check_cred(accepted, getpid(), "the accepted");
    check_cred(clients[0], getpid(), "the client");
    get(accepted, 200, 40, "the accepted");
    get(clients[0], 201, 41, "the client");
    check_name(orphan[1], false, "subject-nobody", true, "the orphan");
    get(orphan[1], 205, 45, "the orphan");
    put(orphan[1], 12, 46);
    get(orphan[0], 12, 46, "the orphan's client");
}

static void check_listen(void)
{
    int fd, n = 0, more[16];

    check_connection();
    MUST((fd = accept(listener, NULL, NULL)) >= 0);
    get(fd, 202, 42, "the first that waits");
    get(fd, 203, 43, "the first that waits");
    put(fd, 30, 47);
    get(clients[1], 30, 47, "its client");
    check_cred(fd, getpid(), "the first that waits");
    MUST((fd = accept(listener, NULL, NULL)) >= 0);
    end(fd, "the second that waits");
    put(fd, 31, 48);
    get(clients[2], 31, 48, "its client");
    MUST((fd = accept(listener, NULL, NULL)) >= 0);
    get(fd, 204, 44, "the third that waits");
    end(fd, "the third that waits");
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    CHECK(accept(listener, NULL, NULL) < 0 && errno == EAGAIN, "a fourth waits");
    // The backlog is what it was: one more than asked for.
    for (; n < 16; n++) {
        more[n] = socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
        if (connect_to(more[n], in_workdir("listener"), false) < 0)
            break;
    }
    CHECK(n == 6 && errno == EAGAIN, "%d connections may wait: %m", n);
    // Its name is taken again only now that nobody has it.
    CHECK(connect_to(new_socket(), "subject-nobody", true) < 0 && errno == ECONNREFUSED,
          "somebody listens where nobody did: %m");
    MUST(connect_to(new_socket(), "subject-empty", true) == 0);
    pthread_join(acceptor, NULL);
    check_name(accepted_late, false, "subject-empty", true, "the one accepted late");
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
        recv(plain[1] ? plain[1] : accepted ? accepted : server, buffer, 1, MSG_DONTWAIT);
    }
    while (!subject_asked())
        subject_sleep_ms(5);
    for (int i = 0; i < 3 && kinds[k].check[i]; i++)
        kinds[k].check[i]();
    subject_pass();
}
