// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets of an image while they are being made.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include "guestagent/engine.h"

// Where a socket's name is on this machine. Zeroed: nowhere.
struct agent_sock_name {
    char *dir;    // directory of ours that the inode is made in, NULL for none
    char *staged; // the inode in it
    char *real;   // where it goes at the end, NULL where the image has it unlinked
    char *aside;  // what was there, in `dir`, once it has gone there
    int at;       // O_PATH descriptor of the inode, by which others find it
    bool placed;
};

struct agent_sock {
    const struct fmt_socket *rec;
    const struct fmt_unix_socket *unix_rec;
    struct agent_sock *peer;     // at the end; NULL for none
    struct agent_sock *partner;  // made together with it, as a pair; NULL for none
    struct agent_sock *listener; // FMT_SOCKET_PENDING
    struct agent_sock *now;      // of datagrams: whom it is connected to at this moment
    struct agent_sock_name name;
    bool told;    // sent datagrams to its partner, which has no name, that still wait there
    bool claimed; // closed end of a stream: known to its peer
    int fd;       // -1: not made; a PENDING one never has one
};

struct agent_sockets {
    GPtrArray *all;     // of struct agent_sock, in the order of SOCKET records; owned
    GHashTable *by_ref; // objref -> struct agent_sock
    bool made;
    bool placed;
};

static inline bool agent_sock_is_stream(const struct agent_sock *s)
{
    return s->rec->type != SOCK_DGRAM;
}

struct agent_sock *agent_sock_find(AgentRestore *r, uint64_t socket);

// The socket of a FILE record, NULL where it is none.
struct agent_sock *agent_sock_of_file(AgentRestore *r, uint64_t file);

// The first FILE record that leads to a socket, 0 for none: for messages.
uint64_t agent_sock_file(AgentRestore *r, const struct agent_sock *s);

// socket.c: options, owner and flags that all families have, as the image says.
bool agent_sock_options(const struct agent_sock *s, GError **error);
// Calls fn while new sockets get the length of queue that this one had.
typedef bool (*agent_sock_fn)(AgentRestore *r, void *user, GError **error);
bool agent_sock_with_queue(AgentRestore *r, const struct agent_sock *s, agent_sock_fn fn,
                           void *user, GError **error);
bool agent_sock_new(AgentRestore *r, struct agent_sock *s, GError **error);

// netlink.c: how many there are; refuses what cannot be had; makes all that have a descriptor.
size_t agent_netlink_count(AgentRestore *r);
void agent_netlink_plan(AgentRestore *r, const struct fmt_file *f, const struct fmt_socket *rec);
bool agent_netlink_make(AgentRestore *r, GError **error);

// unix.c: plans, makes and connects all of them; fds are not blocking.
void agent_unix_plan(AgentRestore *r);
bool agent_unix_make(AgentRestore *r, GError **error);

// unix_name.c
void agent_sock_name_plan(AgentRestore *r, const struct agent_sock *s);
// Binds s->fd, so that nobody on this machine sees it yet.
bool agent_sock_name_bind(AgentRestore *r, struct agent_sock *s, GError **error);
// An address by which the bound socket is found until its name has been placed.
socklen_t agent_sock_name_address(const struct agent_sock *s, struct sockaddr_un *ret);
// Puts the name where it belongs; undone by agent_sock_name_clear.
bool agent_sock_name_place(struct agent_sock_name *name, GError **error);
// Takes it away again, unless it is `kept`. Frees what it has.
void agent_sock_name_clear(struct agent_sock_name *name, bool kept);

// unix_queue.c: fills the receive queues, those of datagrams without a name (which only the partner
// can reach) first. Senders are connected as `now` says.
void agent_unix_queue_plan(AgentRestore *r);
bool agent_unix_queue_fill(AgentRestore *r, bool nameless, GError **error);
