// SPDX-License-Identifier: GPL-2.0-or-later
// Datagrams between sockets with names, a queue that is full, listeners and who waits for them.
#include "unix.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- datagrams ---- */

static int named[2], server, gone, oneway, narcissus, parted[3], qlen_server, qlen_client;
static int filtered[2], full_count;
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

void start_datagrams(void)
{
    static struct sock_filter code[] = {{BPF_RET | BPF_K, 0, 0, 3}}; // three bytes of each
    const struct sock_fprog program = {1, code};

    MUST(chdir(subject.workdir) == 0);
    bind_to(server = new_socket(), "server.sock", false); // relative
    victim = victim ? victim : server;
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

void start_queue(void)
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

void check_datagrams(void)
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

void check_queue(void)
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

void start_listen(void)
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
    victim = accepted;
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

void check_listen(void)
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
