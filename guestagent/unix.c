// SPDX-License-Identifier: GPL-2.0-or-later
// Unix sockets: pairs, listeners, connections, and what is connected to whom.

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "guestagent/maker.h"
#include "guestagent/unix.h"

/*
 * Streams and sequences of packets were connected in one of two ways, and are again:
 *
 *   socketpair()   both ends at once; neither has a name, unless it was bound later
 *   connect()      to a listening socket; the end that accept() gives shares its name. Where nobody
 *                  listens any more, a socket with that name does for the moment.
 *
 * Who listened is what the connecting end sees as its peer's credentials, and the other way round,
 * so each call is made by a process like the one that made it (maker.c). A connection that waits to
 * be accepted is one that we do not accept. An end that was closed is made, used to send what it
 * had sent, and closed.
 *
 * Datagram sockets point to whom they are connected one by one. What cannot be reached by a name
 * was born in a pair.
 *
 * The order: all that have descriptors of their own, with their names; connections; what waits to
 * be read; then who is connected to whom, what is closed and shut down; options and the right
 * length of a backlog last, so that nothing of it is in the way before.
 */

#define MANY 65535 // connections that may wait, until all are there

/* ---- plan ---- */

static void refuse_socket(AgentRestore *r, const struct agent_sock *s, const char *text)
{
    agent_refuse_file(r, "socket", agent_sock_file(r, s), "%s", text);
}

static bool is_closed(const struct agent_sock *s)
{
    return s->rec->state == FMT_SOCKET_CLOSED;
}

static const char *wrong_alone(const struct agent_sock *s)
{
    const struct fmt_socket *rec = s->rec;

    if (rec->family != AF_UNIX || rec->protocol > 1)
        return "a socket that is none of AF_UNIX";
    if (rec->type != SOCK_STREAM && rec->type != SOCK_DGRAM && rec->type != SOCK_SEQPACKET)
        return "a unix socket of an unknown type";
    if (rec->state > FMT_SOCKET_CLOSED)
        return "a socket in an unknown state";
    if (!agent_sock_is_stream(s) && rec->state != FMT_SOCKET_OPEN && !is_closed(s))
        return "a connection of datagrams";
    if (rec->state == FMT_SOCKET_LISTENING && !s->unix_rec->name)
        return "a socket that listens without a name";
    if ((rec->state == FMT_SOCKET_PENDING) != (s->listener != NULL))
        return "a connection that waits for nobody to accept it";
    if (s->listener &&
        (s->listener->rec->state != FMT_SOCKET_LISTENING || s->listener->rec->type != rec->type))
        return "a connection that waits where nobody listens";
    if (s->unix_rec->accepted &&
        ((rec->state != FMT_SOCKET_CONNECTED && !s->listener) || !s->unix_rec->name))
        return "a socket that was accepted and is not connected";
    return NULL;
}

static const char *wrong_stream(struct agent_sock *s)
{
    const bool connected =
        s->rec->state == FMT_SOCKET_CONNECTED || s->rec->state == FMT_SOCKET_PENDING;
    struct agent_sock *p = s->peer;

    if (is_closed(s))
        return NULL;
    if (connected != (p != NULL))
        return "a connection without two ends";
    if (!p)
        return s->rec->error ? "an error that cannot be had here" : NULL;
    if (p->rec->type != s->rec->type || p == s)
        return "a connection of two kinds";
    if (is_closed(p) ? p->claimed || s->rec->shutdown != 3 : p->peer != s)
        return "a connection whose ends do not know each other";
    if (s->rec->error && (s->rec->error != ECONNRESET || !is_closed(p) || s->listener))
        return "an error that cannot be had here";
    if (s->unix_rec->accepted && (p->unix_rec->accepted || p->listener))
        return "a connection that both ends have accepted";
    if (is_closed(p)) {
        p->claimed = true;
        p->peer = s;
    }
    return NULL;
}

static bool pair_up(struct agent_sock *a, struct agent_sock *b)
{
    if (a->partner == b && b->partner == a)
        return true;
    if (a->partner || b->partner || a == b)
        return false;
    a->partner = b;
    b->partner = a;
    return true;
}

static const char *wrong_datagram(struct agent_sock *s)
{
    struct agent_sock *p = s->peer;

    if (is_closed(s))
        return NULL;
    if (p && agent_sock_is_stream(p))
        return "datagrams that go to a stream";
    if (s->rec->error)
        return "an error that cannot be had here";
    if (p && p != s &&
        (!p->unix_rec->name ||
         (p->peer == s && s->unix_rec->peer_cred && p->unix_rec->peer_cred)) &&
        !pair_up(s, p))
        return "datagrams that go to a socket that cannot be reached";
    if (p == s && !s->unix_rec->name)
        return "a socket without a name that is connected to itself";
    return NULL;
}

// Of streams that were connected the accepted end decides; one that was closed is taken for it when
// it has the name of whoever listened.
static bool is_server(const struct agent_sock *s)
{
    return s->listener || s->unix_rec->accepted ||
           (is_closed(s) && s->claimed && s->unix_rec->name && !s->peer->unix_rec->accepted &&
            !s->peer->listener);
}

static bool is_client(const struct agent_sock *s)
{
    return agent_sock_is_stream(s) && s->peer && is_server(s->peer);
}

static bool same_name(const struct agent_sock *a, const struct agent_sock *b)
{
    return a->rec->type == b->rec->type && a->unix_rec->name && b->unix_rec->name &&
           g_bytes_equal(a->unix_rec->name, b->unix_rec->name);
}

static struct agent_sock *find_listener(AgentRestore *r, const struct agent_sock *server)
{
    for (guint i = 0; i < r->sockets->all->len; i++) {
        struct agent_sock *s = g_ptr_array_index(r->sockets->all, i);

        if (s->rec->state == FMT_SOCKET_LISTENING && same_name(s, server))
            return s;
    }
    return NULL;
}

static void plan_makers(AgentRestore *r, const struct agent_sock *s)
{
    if (s->unix_rec->peer_cred)
        agent_maker_plan(r, s->unix_rec->peer_pid, agent_sock_file(r, s),
                         "SO_PEERCRED of a socket shows");
}

void agent_unix_plan(AgentRestore *r)
{
    const GPtrArray *all = r->sockets->all;
    const char *wrong = NULL;

    for (guint i = 0; i < all->len; i++) {
        struct agent_sock *s = g_ptr_array_index(all, i);

        s->peer = agent_sock_find(r, s->unix_rec->peer);
        s->listener = agent_sock_find(r, s->unix_rec->listener);
    }
    for (guint i = 0; i < all->len; i++) {
        struct agent_sock *s = g_ptr_array_index(all, i);

        wrong = wrong_alone(s);
        if (!wrong)
            wrong = agent_sock_is_stream(s) ? wrong_stream(s) : wrong_datagram(s);
        if (wrong) {
            refuse_socket(r, s, wrong);
            return;
        }
        plan_makers(r, s);
        if (s->unix_rec->name && !s->listener && !(s->unix_rec->accepted && find_listener(r, s)))
            agent_sock_name_plan(r, s);
    }
    agent_unix_queue_plan(r);
    for (guint i = 0; i < all->len; i++) {
        struct agent_sock *s = g_ptr_array_index(all, i);

        if (agent_sock_is_stream(s) && s->peer && !is_server(s) && !is_client(s))
            pair_up(s, s->peer);
    }
}

/* ---- make ---- */

static bool make_pair(AgentRestore *r, void *user, GError **error)
{
    struct agent_sock *s = user;
    // Of a closed end nobody knows any more who made it.
    const struct agent_sock *known = s->unix_rec->peer_cred || !s->partner ? s : s->partner;
    struct agent_maker *maker =
        agent_maker_get(r, known->unix_rec->peer_pid,
                        fmt_image_by_ref(r->img, known->unix_rec->peer_cred, FMT_CRED), error);
    int fds[2];

    if (!maker || !agent_maker_socketpair(maker, (int)s->rec->type, fds, error))
        return false;
    s->fd = agent_fd_up(r, fds[0], error);
    if (!s->partner)
        return close(fds[1]) == 0 && s->fd >= 0;
    s->partner->fd = agent_fd_up(r, fds[1], error);
    s->now = s->partner;
    s->partner->now = s;
    return s->fd >= 0 && s->partner->fd >= 0;
}

static bool make_one(AgentRestore *r, struct agent_sock *s, GError **error)
{
    if (s->fd >= 0 || is_server(s) || (is_closed(s) && agent_sock_is_stream(s) && !s->claimed))
        return true;
    const bool paired = s->partner || (!agent_sock_is_stream(s) && s->unix_rec->peer_cred);

    return (paired ? agent_sock_with_queue(r, s, make_pair, s, error)
                   : agent_sock_new(r, s, error)) &&
           (!s->unix_rec->name || agent_sock_name_bind(r, s, error)) &&
           (!s->partner || !s->partner->unix_rec->name ||
            agent_sock_name_bind(r, s->partner, error));
}

/* ---- connections ---- */

static bool listen_as(AgentRestore *r, const struct agent_sock *listener,
                      const struct agent_sock *seen_by, uint64_t backlog, GError **error)
{
    struct agent_maker *maker =
        agent_maker_get(r, seen_by->unix_rec->peer_pid,
                        fmt_image_by_ref(r->img, seen_by->unix_rec->peer_cred, FMT_CRED), error);

    return maker && agent_maker_listen(maker, listener->fd, backlog, error);
}

// Connects the client end of a connection; the listening socket then has one more to accept.
static bool connect_client(AgentRestore *r, const struct agent_sock *listener,
                           const struct agent_sock *client, const struct agent_sock *server,
                           GError **error)
{
    struct sockaddr_un addr;
    const socklen_t len = agent_sock_name_address(listener, &addr);

    if (!listen_as(r, listener, client, MANY, error))
        return false;
    struct agent_maker *maker =
        agent_maker_get(r, server->unix_rec->peer_pid,
                        fmt_image_by_ref(r->img, server->unix_rec->peer_cred, FMT_CRED), error);

    return maker && agent_maker_connect(maker, client->fd, &addr, len, error);
}

static bool accept_server(AgentRestore *r, const struct agent_sock *listener,
                          struct agent_sock *server, GError **error)
{
    const int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return agent_fail_errno(error, "accept");
    server->fd = agent_fd_up(r, fd, error);
    return server->fd >= 0;
}

// Its listener is gone: for the moment another one has the name.
static bool connect_alone(AgentRestore *r, struct agent_sock *server, GError **error)
{
    struct fmt_unix_socket unix_rec = {.name = server->unix_rec->name};
    struct agent_sock listener = {
        .rec = server->rec, .unix_rec = &unix_rec, .name.at = -1, .fd = -1};
    const bool ok = agent_sock_new(r, &listener, error) &&
                    agent_sock_name_bind(r, &listener, error) &&
                    connect_client(r, &listener, server->peer, server, error) &&
                    accept_server(r, &listener, server, error);

    agent_sock_name_clear(&listener.name, false);
    agent_fd_close(r, listener.name.at);
    agent_fd_close(r, listener.fd);
    return ok;
}

static bool connect_streams(AgentRestore *r, GError **error)
{
    const GPtrArray *all = r->sockets->all;

    for (guint i = 0; i < all->len; i++) {
        struct agent_sock *s = g_ptr_array_index(all, i);

        if (!is_server(s) || s->listener)
            continue;
        const struct agent_sock *listener = find_listener(r, s);

        if (listener ? !connect_client(r, listener, s->peer, s, error) ||
                           !accept_server(r, listener, s, error)
                     : !connect_alone(r, s, error))
            return false;
    }
    for (guint i = 0; i < all->len; i++) {
        struct agent_sock *s = g_ptr_array_index(all, i);

        if (s->listener && !connect_client(r, s->listener, s->peer, s, error))
            return false;
    }
    return true;
}

/* ---- datagrams ---- */

static bool disconnect(struct agent_sock *s, GError **error)
{
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};

    s->now = NULL;
    if (connect(s->fd, &nobody, sizeof nobody) < 0)
        return agent_fail_errno(error, "disconnect a socket");
    return true;
}

static bool has_parted(const struct agent_sock *s)
{
    const bool paired = s->partner || s->unix_rec->peer_cred;

    return !agent_sock_is_stream(s) && !is_closed(s) && paired && s->peer != s->partner;
}

/*
 * Born in pairs, and no longer connected to each other. A socket that is disconnected loses what
 * waits in it, so that comes before anything is sent to it; and after what it has itself sent to a
 * partner that nobody else can reach.
 */
static bool fill_and_part(AgentRestore *r, GError **error)
{
    const GPtrArray *all = r->sockets->all;

    for (int told = 0; told <= 1; told++) {
        for (guint i = 0; i < all->len; i++) {
            struct agent_sock *s = g_ptr_array_index(all, i);

            if (has_parted(s) && s->told == told && !disconnect(s, error))
                return false;
        }
        if (!agent_unix_queue_fill(r, told == 0, error))
            return false;
    }
    return true;
}

static bool connect_datagrams(struct agent_sock *s, GError **error)
{
    struct sockaddr_un addr;

    if (agent_sock_is_stream(s) || is_closed(s) || !s->peer || s->now == s->peer)
        return true;
    const socklen_t len = agent_sock_name_address(s->peer, &addr);

    s->now = s->peer;
    if (connect(s->fd, (struct sockaddr *)&addr, len) < 0)
        return agent_fail_errno(error, "connect a socket of datagrams");
    return true;
}

/* ---- the end ---- */

static bool close_dead(AgentRestore *r, struct agent_sock *s, GError **error)
{
    if (!is_closed(s) || s->fd < 0)
        return true;
    // Closing a stream with something left to read is what resets it.
    if (s->claimed && s->peer->rec->error && send(s->peer->fd, "", 1, MSG_NOSIGNAL) != 1)
        return agent_fail_errno(error, "reset a connection");
    agent_fd_close(r, s->fd);
    s->fd = -1;
    return true;
}

static bool shut_down(struct agent_sock *s, GError **error)
{
    static const int how[] = {-1, SHUT_RD, SHUT_WR, SHUT_RDWR};
    const int want = how[s->rec->shutdown & 3];

    if (want < 0 || s->fd < 0)
        return true;
    if (shutdown(s->fd, want) < 0 && errno != ENOTCONN)
        return agent_fail_errno(error, "shut a socket down");
    return true;
}

static bool finish(AgentRestore *r, struct agent_sock *s, GError **error)
{
    if (s->fd < 0)
        return true;
    return agent_sock_options(s, error) &&
           (s->rec->state != FMT_SOCKET_LISTENING || listen_as(r, s, s, s->rec->backlog, error));
}

bool agent_unix_make(AgentRestore *r, GError **error)
{
    const GPtrArray *all = r->sockets->all;

    for (guint i = 0; i < all->len; i++) {
        if (!make_one(r, g_ptr_array_index(all, i), error))
            return false;
    }
    if (!connect_streams(r, error) || !fill_and_part(r, error))
        return false;
    for (guint i = 0; i < all->len; i++) {
        if (!connect_datagrams(g_ptr_array_index(all, i), error))
            return false;
    }
    for (guint i = 0; i < all->len; i++) {
        if (!close_dead(r, g_ptr_array_index(all, i), error))
            return false;
    }
    for (guint i = 0; i < all->len; i++) {
        if (!shut_down(g_ptr_array_index(all, i), error))
            return false;
    }
    for (guint i = 0; i < all->len; i++) {
        if (!finish(r, g_ptr_array_index(all, i), error))
            return false;
    }
    return true;
}
