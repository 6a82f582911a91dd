// SPDX-License-Identifier: GPL-2.0-or-later
// Netlink sockets without an address: made anew.

#include <errno.h>
#include <linux/netlink.h>
#include <unistd.h>

#include "guestagent/unix.h"

static const struct {
    uint64_t bit;
    int option;
    const char *name;
} options[] = {
    {FMT_NETLINK_PKTINFO, NETLINK_PKTINFO, "NETLINK_PKTINFO"},
    {FMT_NETLINK_BROADCAST_ERROR, NETLINK_BROADCAST_ERROR, "NETLINK_BROADCAST_ERROR"},
    {FMT_NETLINK_NO_ENOBUFS, NETLINK_NO_ENOBUFS, "NETLINK_NO_ENOBUFS"},
    {FMT_NETLINK_LISTEN_ALL_NSID, NETLINK_LISTEN_ALL_NSID, "NETLINK_LISTEN_ALL_NSID"},
    {FMT_NETLINK_CAP_ACK, NETLINK_CAP_ACK, "NETLINK_CAP_ACK"},
    {FMT_NETLINK_EXT_ACK, NETLINK_EXT_ACK, "NETLINK_EXT_ACK"},
    {FMT_NETLINK_GET_STRICT_CHK, NETLINK_GET_STRICT_CHK, "NETLINK_GET_STRICT_CHK"},
};

static const struct fmt_netlink_socket *record_of(const AgentRestore *r, uint64_t socket)
{
    const struct fmt_netlink_socket *rec;

    for (size_t i = 0; FMT_NEXT(r->img, NETLINK, i, rec); i++) {
        if (rec->socket == socket)
            return rec;
    }
    return NULL;
}

static int new_socket(const struct fmt_socket *rec)
{
    return socket(AF_NETLINK, (int)rec->type | SOCK_CLOEXEC | SOCK_NONBLOCK, (int)rec->protocol);
}

static bool set_option(int fd, int option, const char *name, GError **error)
{
    const int on = 1;

    if (setsockopt(fd, SOL_NETLINK, option, &on, sizeof on) < 0)
        return agent_fail_errno(error, "%s of a socket", name);
    return true;
}

size_t agent_netlink_count(AgentRestore *r)
{
    const struct fmt_socket *rec;
    size_t n = 0;

    for (size_t i = 0; FMT_NEXT(r->img, SOCKET, i, rec); i++)
        n += rec->family == AF_NETLINK && record_of(r, rec->rec.objref);
    return n;
}

void agent_netlink_plan(AgentRestore *r, const struct fmt_file *f, const struct fmt_socket *rec)
{
    const struct fmt_netlink_socket *netlink = record_of(r, rec->rec.objref);
    uint64_t known = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        known |= options[i].bit;
    if (!netlink || netlink->options & ~known || rec->state != FMT_SOCKET_OPEN || rec->error ||
        (rec->type != SOCK_RAW && rec->type != SOCK_DGRAM)) {
        agent_refuse_file(r, "socket", f->rec.objref, "a netlink socket in an unknown state");
        return;
    }
    const int fd = new_socket(rec);

    if (fd < 0)
        agent_refuse_file(r, "socket", f->rec.objref,
                          "a netlink socket, protocol %" G_GUINT64_FORMAT
                          ", that cannot be had here: %s",
                          rec->protocol, g_strerror(errno));
    else
        close(fd);
}

static int make_one(AgentRestore *r, const struct fmt_socket *rec, GError **error)
{
    const struct fmt_netlink_socket *netlink = record_of(r, rec->rec.objref);
    const struct agent_sock s = {.rec = rec, .fd = agent_fd_up(r, new_socket(rec), error)};

    if (s.fd < 0)
        return -1;
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (netlink->options & options[i].bit &&
            !set_option(s.fd, options[i].option, options[i].name, error))
            return -1;
    }
    return agent_sock_options(&s, error) ? s.fd : -1;
}

bool agent_netlink_make(AgentRestore *r, GError **error)
{
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++) {
        const struct fmt_socket *rec =
            f->kind == FMT_FILE_SOCKET ? fmt_image_by_ref(r->img, f->object, FMT_SOCKET) : NULL;
        int fd;

        if (!rec || rec->family != AF_NETLINK)
            continue;
        if ((fd = make_one(r, rec, error)) < 0)
            return false;
        agent_file_set_fd(r, f->rec.objref, fd);
    }
    return true;
}
