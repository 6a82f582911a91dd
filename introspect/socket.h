// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: sockets that were found in a walk.
#pragma once

#include "introspect/context.h"
#include "introspect/reader.h"

// One socket (struct sock) and its records.
struct intro_sock {
    struct gva sk;
    struct fmt_socket *rec;
    struct fmt_unix_socket *unix_rec;
};

// The socket behind an inode of sockfs. *ret is 0 for one that was refused.
bool intro_socket(struct intro_ctx *c, struct gva inode, uint64_t *ret, GError **error);

// The SOCKET record of a unix socket, which need not have a descriptor; 0 with error.
uint64_t intro_unix_sock(struct intro_ctx *c, struct gva sk, GError **error);

// netlink.c: whether a netlink socket has no address yet, and its SOCKET record.
bool intro_netlink_is_idle(IntroReader *r, struct gva sk);
bool intro_netlink_sock(struct intro_ctx *c, struct gva sk, uint64_t *ret, GError **error);

// What all families have in common, into a new record.
struct fmt_socket *intro_sock_record(struct intro_ctx *c, struct gva sk, GError **error);

// Whether it was closed: it lives on in what points to it.
bool intro_sock_is_closed(IntroReader *r, struct gva sk);

// The inode of a socket that has a descriptor, 0 for others.
struct gva intro_sock_inode(IntroReader *r, struct gva sk);
