// SPDX-License-Identifier: GPL-2.0-or-later
// Netlink sockets that have no address yet: options, a waiter, one in a message.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "subject.h"

static const struct option {
    int level, name, value, now;
} options[] = {
    {SOL_SOCKET, SO_RCVBUF, 30000, 60000},
    {SOL_SOCKET, SO_SNDBUF, 20000, 40000},
    {SOL_SOCKET, SO_PASSCRED, 1, 1},
    {SOL_SOCKET, SO_MARK, 77, 77},
    {SOL_NETLINK, NETLINK_PKTINFO, 1, 1},
    {SOL_NETLINK, NETLINK_BROADCAST_ERROR, 1, 1},
    {SOL_NETLINK, NETLINK_NO_ENOBUFS, 1, 1},
    {SOL_NETLINK, NETLINK_CAP_ACK, 1, 1},
    {SOL_NETLINK, NETLINK_EXT_ACK, 1, 1},
    {SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1, 1},
    {SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1, 1},
};
#define N_OPTIONS (sizeof options / sizeof options[0])

static int plain, opted, waiting, messenger[2];
static int woken = -1;

static int new_socket(int type, int protocol)
{
    int fd;

    MUST((fd = socket(AF_NETLINK, type, protocol)) >= 0);
    return fd;
}

static void set_options(int fd)
{
    const struct timeval time = {0, 40000};

    for (size_t i = 0; i < N_OPTIONS; i++)
        MUST(setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int)) ==
             0);
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    MUST(fchmod(fd, 0640) == 0 && fchown(fd, 12, 34) == 0);
}

static void check_options(int fd, bool set)
{
    struct stat st;

    for (size_t i = 0; i < N_OPTIONS; i++) {
        int now = -1;
        socklen_t len = sizeof now;

        // Older kernels set this one and do not tell it.
        if (getsockopt(fd, options[i].level, options[i].name, &now, &len) < 0 &&
            options[i].name == NETLINK_LISTEN_ALL_NSID && errno == ENOPROTOOPT)
            continue;
        CHECK((now == options[i].now) == set, "option %d:%d is %d", options[i].level,
              options[i].name, now);
    }
    MUST(fstat(fd, &st) == 0);
    CHECK(st.st_mode == (S_IFSOCK | (set ? 0640 : 0777)) && st.st_uid == (set ? 12 : 0) &&
              st.st_gid == (set ? 34 : 0),
          "mode %o, owner %d:%d", st.st_mode, st.st_uid, st.st_gid);
}

// No address, and nothing that asking for one would have left behind.
static void check_idle(int fd, int type, int protocol, int flags)
{
    struct sockaddr_nl addr;
    socklen_t len = sizeof addr;
    int now;

    MUST(getsockname(fd, (struct sockaddr *)&addr, &len) == 0);
    CHECK(len == sizeof addr && addr.nl_pid == 0 && addr.nl_groups == 0, "address %u, groups %x",
          addr.nl_pid, addr.nl_groups);
    len = sizeof now;
    MUST(getsockopt(fd, SOL_SOCKET, SO_TYPE, &now, &len) == 0);
    CHECK(now == type, "type %d", now);
    MUST(getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &now, &len) == 0);
    CHECK(now == protocol, "protocol %d", now);
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == flags, "flags %x", fcntl(fd, F_GETFL));
    char byte;
    CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "something to read: %m");
}

static void *wait_for_it(void *arg)
{
    struct pollfd p = {.fd = waiting, .events = POLLIN};

    woken = poll(&p, 1, -1);
    return arg;
}

static void send_away(int fd)
{
    char space[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec text = {"n", 1};
    struct msghdr msg = {
        .msg_iov = &text, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    MUST(sendmsg(messenger[0], &msg, 0) == 1 && close(fd) == 0);
}

static int take_back(void)
{
    char space[CMSG_SPACE(sizeof(int))], byte;
    struct iovec text = {&byte, 1};
    struct msghdr msg = {
        .msg_iov = &text, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd;

    CHECK(recvmsg(messenger[1], &msg, MSG_DONTWAIT) == 1 && CMSG_FIRSTHDR(&msg), "no message: %m");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
    return fd;
}

// That the kernel answers is the proof: the first request gives the address.
static void ask(int fd, const char *what)
{
    const struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
    } request = {
        .header = {sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 7, 0},
    };
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct nlmsghdr answer[1024];

    MUST(send(fd, &request, sizeof request, 0) == sizeof request);
    CHECK(poll(&p, 1, PATIENCE_MS) == 1, "%s: no answer", what);
    const ssize_t n = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
    CHECK(n > (ssize_t)sizeof answer[0] && answer[0].nlmsg_type == RTM_NEWLINK &&
              answer[0].nlmsg_seq == 7,
          "%s: %zd bytes in answer: %m", what, n);
}

int main(int argc, char **argv)
{
    pthread_t waiter;

    subject_begin(argc, argv);
    plain = new_socket(SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE);
    opted = new_socket(SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_ROUTE);
    waiting = new_socket(SOCK_RAW, NETLINK_ROUTE);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, messenger) == 0);
    set_options(opted);
    send_away(new_socket(SOCK_RAW, NETLINK_KOBJECT_UEVENT));
    MUST(pthread_create(&waiter, NULL, wait_for_it, NULL) == 0);
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        MUST(fchmod(opted, 0600) == 0);
    while (!subject_asked()) {
        check_idle(plain, SOCK_RAW, NETLINK_ROUTE, O_NONBLOCK);
        check_idle(opted, SOCK_DGRAM, NETLINK_ROUTE, 0);
        check_options(plain, false);
        check_options(opted, true);
        CHECK(fcntl(plain, F_GETFD) == 0 && fcntl(opted, F_GETFD) == FD_CLOEXEC, "FD_CLOEXEC");
        CHECK(woken == -1, "the waiter was woken: %d", woken);
        subject_sleep_ms(2);
    }
    ask(plain, "plain");
    ask(waiting, "waited for");
    MUST(pthread_join(waiter, NULL) == 0);
    CHECK(woken == 1, "the waiter got %d", woken);
    const int back = take_back();
    check_idle(back, SOCK_RAW, NETLINK_KOBJECT_UEVENT, 0);
    subject_pass();
}
