// SPDX-License-Identifier: GPL-2.0-or-later
// What waits in unix sockets is sent once more, by whom it was sent, in the pieces it was sent in.

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "guestagent/maker.h"
#include "guestagent/unix.h"

/*
 * All of a buffer is sent, also what was read of it already, and that is read again: so the sender
 * has as much room left as it had. The ids that a message shows are those of a process that exists
 * at that moment (maker.c); the agent may name any.
 */

#define MAX_RIGHTS   253       // SCM_MAX_FD
#define ROOMY_SNDBUF (8 << 20) // nothing is cut into smaller pieces than it was

static const struct fmt_unix_message *next_message(AgentRestore *r, size_t *i)
{
    return fmt_image_nth(r->img, FMT_UNIX_MESSAGE, (*i)++);
}

static struct agent_sock *sender_of(AgentRestore *r, const struct fmt_unix_message *m)
{
    const struct agent_sock *to = agent_sock_find(r, m->socket);

    return agent_sock_is_stream(to) ? to->peer : agent_sock_find(r, m->sender);
}

/* ---- plan ---- */

static bool has_oob(void)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return false;
    const bool ok = send(fds[0], "", 1, MSG_OOB | MSG_NOSIGNAL) == 1;

    close(fds[0]);
    close(fds[1]);
    return ok;
}

static bool is_oob(const struct fmt_unix_message *m)
{
    // Only a byte out of band stays in the queue when it has been read.
    return m->oob || (m->consumed_bytes && m->consumed_bytes == g_bytes_get_size(m->data));
}

static bool is_nameless(const struct agent_sock *s)
{
    return !agent_sock_is_stream(s) && !s->unix_rec->name;
}

static const char *wrong(AgentRestore *r, const struct fmt_unix_message *m)
{
    struct agent_sock *to = agent_sock_find(r, m->socket), *from = to ? sender_of(r, m) : NULL;
    const gsize bytes = m->data ? g_bytes_get_size(m->data) : 0;
    const bool stream = to && to->rec->type == SOCK_STREAM;

    if (!to || !from || to->rec->state == FMT_SOCKET_LISTENING ||
        (agent_sock_is_stream(to) && to->rec->state == FMT_SOCKET_CLOSED))
        return "a message that nobody can have sent";
    if (bytes > ROOMY_SNDBUF / 4 || (stream && bytes == 0) || m->consumed_bytes > bytes ||
        (m->consumed_bytes && (!stream || to->listener)))
        return "a message of an impossible length";
    if (is_oob(m) && (!stream || bytes != 1))
        return "more than a byte out of band";
    if (agent_sock_is_stream(to))
        return NULL;
    if (agent_sock_is_stream(from))
        return "a datagram that nobody can have sent";
    // It has no name: whoever sent to it was its partner from the beginning.
    if (is_nameless(to) && to->partner != from) {
        if (to->partner || from->partner || to == from)
            return "a datagram that cannot be sent again";
        to->partner = from;
        from->partner = to;
    }
    from->told |= is_nameless(to);
    return NULL;
}

// Messages are sent before there are processes, which some files refer to.
static void plan_rights(AgentRestore *r)
{
    const struct fmt_unix_right *right;

    for (size_t i = 0; FMT_NEXT(r->img, UNIX_RIGHT, i, right); i++) {
        const struct fmt_file *f = fmt_image_by_ref(r->img, right->file, FMT_FILE);
        const struct agent_file_kind *kind = f ? agent_file_kind(f->kind) : NULL;
        const struct fmt_unix_message *m =
            fmt_image_by_ref(r->img, right->message, FMT_UNIX_MESSAGE);
        const struct agent_sock *to = m ? agent_sock_find(r, m->socket) : NULL;

        if (kind && kind->later[AGENT_FILE_LATE] && to)
            agent_refuse_file(r, "socket", agent_sock_file(r, to),
                              "a message that waits to be read carries a %s", kind->name);
    }
}

void agent_unix_queue_plan(AgentRestore *r)
{
    const struct fmt_unix_message *m;
    bool oob = false;

    for (size_t i = 0; (m = next_message(r, &i));) {
        const struct agent_sock *to = agent_sock_find(r, m->socket);
        const char *text = wrong(r, m);
        const uint64_t file = to ? agent_sock_file(r, to) : 0;

        if (text)
            agent_refuse_file(r, "socket", file, "%s", text);
        else if (m->has_cred)
            agent_maker_plan(r, m->pid, file, "a message in a socket shows");
        oob |= !text && is_oob(m);
    }
    plan_rights(r);
    if (oob && !has_oob())
        agent_refuse(r, "socket-oob", 0, -1, "this kernel has no MSG_OOB for unix sockets");
}

/* ---- send ---- */

// The descriptors that go with each message: objref -> GArray of int.
static GHashTable *collect_rights(AgentRestore *r, GError **error)
{
    g_autoptr(GHashTable) table =
        g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, (GDestroyNotify)g_array_unref);
    const struct fmt_unix_right *right;

    for (size_t i = 0; FMT_NEXT(r->img, UNIX_RIGHT, i, right); i++) {
        const struct agent_sock *s = agent_sock_of_file(r, right->file);
        const int fd = s ? s->fd : agent_file_fd(r, right->file);
        GArray *fds = g_hash_table_lookup(table, &right->message);

        if (!fds) {
            fds = g_array_new(false, false, sizeof(int));
            g_hash_table_insert(table, (void *)&right->message, fds);
        }
        if (fd < 0 || fds->len >= MAX_RIGHTS) {
            agent_fail(error, "a message carries a file that is not open");
            return NULL;
        }
        g_array_append_val(fds, fd);
    }
    return g_steal_pointer(&table);
}

static void add_control(struct msghdr *msg, int type, const void *data, size_t len)
{
    struct cmsghdr *c = (struct cmsghdr *)((char *)msg->msg_control + msg->msg_controllen);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), data, len);
    msg->msg_controllen += CMSG_SPACE(len);
}

static bool send_one(AgentRestore *r, const struct agent_sock *from, const struct agent_sock *to,
                     const struct fmt_unix_message *m, const GArray *fds, GError **error)
{
    uint8_t control[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(MAX_RIGHTS * sizeof(int))] = {0};
    gsize len = 0;
    const void *data = m->data ? g_bytes_get_data(m->data, &len) : NULL;
    struct iovec iov = {(void *)data, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
    struct sockaddr_un addr;

    if (!agent_sock_is_stream(to) && from->now != to) {
        msg.msg_name = &addr;
        msg.msg_namelen = agent_sock_name_address(to, &addr);
    }
    if (m->has_cred) {
        const struct agent_maker *maker = agent_maker_get(r, m->pid, NULL, error);
        if (!maker)
            return false;
        const struct ucred cred = {agent_maker_pid(maker), (uid_t)m->uid, (gid_t)m->gid};
        add_control(&msg, SCM_CREDENTIALS, &cred, sizeof cred);
    }
    if (fds)
        add_control(&msg, SCM_RIGHTS, fds->data, fds->len * sizeof(int));
    if (msg.msg_controllen == 0)
        msg.msg_control = NULL;
    const ssize_t n =
        sendmsg(from->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL | (is_oob(m) ? MSG_OOB : 0));

    if (n < 0)
        return agent_fail_errno(error, "a message of %zu bytes in a socket", len);
    return (gsize)n == len || agent_fail(error, "a message of %zu bytes was cut to %zd", len, n);
}

static bool read_again(const struct agent_sock *to, const struct fmt_unix_message *m,
                       GError **error)
{
    g_autofree uint8_t *skipped = g_malloc(m->consumed_bytes + 1);

    if (m->consumed_bytes == 0)
        return true;
    if (recv(to->fd, skipped, m->consumed_bytes, MSG_DONTWAIT | (is_oob(m) ? MSG_OOB : 0)) !=
        (ssize_t)m->consumed_bytes)
        return agent_fail_errno(error, "what was read of a message");
    return true;
}

bool agent_unix_queue_fill(AgentRestore *r, bool nameless, GError **error)
{
    g_autoptr(GHashTable) rights = collect_rights(r, error);
    const struct fmt_unix_message *m;
    const int roomy = ROOMY_SNDBUF;

    if (!rights)
        return false;
    for (size_t i = 0; (m = next_message(r, &i));) {
        const struct agent_sock *to = agent_sock_find(r, m->socket), *from = sender_of(r, m);

        if (to->rec->state == FMT_SOCKET_CLOSED || is_nameless(to) != nameless)
            continue;
        if (setsockopt(from->fd, SOL_SOCKET, SO_SNDBUFFORCE, &roomy, sizeof roomy) < 0)
            return agent_fail_errno(error, "SO_SNDBUFFORCE");
        if (!send_one(r, from, to, m, g_hash_table_lookup(rights, &m->rec.objref), error) ||
            !read_again(to, m, error))
            return false;
    }
    return true;
}
