// SPDX-License-Identifier: GPL-2.0-or-later
// Netlink sockets that have no address, as libraries for audit and SELinux keep them open.
#include <sys/socket.h>

#include "introspect/socket.h"

/*
 * A netlink socket gets its address (portid) by bind(), or when it first sends or connects. Until
 * then, and while it subscribes to nothing, no message can reach it: it is a type, a protocol and
 * its options. What has an address is known to the kernel it talks to, and stays behind.
 */

#define KERNEL_SOCKET 1 // NETLINK_F_KERNEL_SOCKET, net/netlink/af_netlink.h

static bool corrupt(struct gva sk, GError **error, const char *what)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "netlink_sock at %#" G_GINT64_MODIFIER "x: %s", sk.addr, what);
    return false;
}

bool intro_netlink_is_idle(IntroReader *r, struct gva sk)
{
    return intro_has(r->k, M_netlink_portid) && !rd(r, sk, M_netlink_portid) &&
           !rd(r, sk, M_netlink_bound) && !rd(r, sk, M_netlink_subscriptions);
}

bool intro_netlink_sock(struct intro_ctx *c, struct gva sk, uint64_t *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    uint64_t known = intro_object_ref(c, sk);

    if (known) {
        *ret = known;
        return true;
    }
    uint64_t flags = rd(&r, sk, M_netlink_flags), waiting = rd(&r, sk, M_sk_queue_len);
    struct fmt_socket *rec = intro_sock_record(c, sk, error);

    if (!rec || !rd_done(&r, error))
        return false;
    if (rec->type != SOCK_RAW && rec->type != SOCK_DGRAM)
        return corrupt(sk, error, "an unknown type");
    if (flags & KERNEL_SOCKET || waiting)
        return corrupt(sk, error, "without an address, and yet it is in use");
    if (rec->error)
        intro_refuse(c, "socket-error",
                     "has a netlink socket with an error that waits to be told (%s)",
                     g_strerror((int)rec->error));
    struct fmt_netlink_socket *netlink = fmt_image_add(c->img, FMT_NETLINK);
    netlink->socket = rec->rec.objref;
    netlink->options = flags;
    *ret = rec->rec.objref;
    return true;
}
