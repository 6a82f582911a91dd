// SPDX-License-Identifier: GPL-2.0-or-later
// Who serves a port: looks through a process's descriptors for a socket that waits on it.
#include <sys/socket.h>
#include <sys/stat.h>

#include "introspect/fd.h"
#include "introspect/process.h"
#include "introspect/reader.h"

#define STATE_CLOSE  7 // include/net/tcp_states.h; a datagram socket that is not connected, too
#define STATE_LISTEN 10

struct search {
    IntroKernel *k;
    uint64_t port;
    bool found;
};

static bool waits_on(IntroReader *r, struct gva sk, uint64_t port)
{
    uint64_t family = rd(r, sk, M_sk_family), type = rd(r, sk, M_sk_type);
    uint64_t state = rd(r, sk, M_sk_state);

    return (family == AF_INET || family == AF_INET6) && rd(r, sk, M_sk_num) == port &&
           ((type == SOCK_STREAM && state == STATE_LISTEN) ||
            (type == SOCK_DGRAM && state == STATE_CLOSE));
}

static bool look_at_fd(uint64_t fd, struct gva file, bool cloexec, void *user, GError **error)
{
    struct search *s = user;
    g_auto(IntroReader) r = INTRO_READER(s->k);
    struct gva inode = file.addr ? rd_ptr(&r, file, M_file_inode) : GVA(0);
    struct gva socket, sk;

    if (s->found || !inode.addr || !S_ISSOCK(rd(&r, inode, M_inode_mode)))
        return rd_done(&r, error);
    socket = intro_member_addr(s->k, intro_container(s->k, inode, M_socket_alloc_inode),
                               M_socket_alloc_socket);
    sk = rd_ptr(&r, socket, M_socket_sk);
    s->found = sk.addr && waits_on(&r, sk, s->port);
    return rd_done(&r, error);
}

bool intro_process_serves_port(IntroKernel *k, struct gva task, uint16_t port, bool *ret,
                               GError **error)
{
    struct search s = {.k = k, .port = port};
    struct gva files;

    if (!intro_get_ptr(k, task, M_task_files, &files, error) ||
        (files.addr && !intro_walk_fds(k, files, look_at_fd, &s, error)))
        return false;
    *ret = s.found;
    return true;
}
