// SPDX-License-Identifier: GPL-2.0-or-later
// Unix sockets (struct unix_sock): names, peers, credentials, and whether they lead out of the
// tree.
#include "introspect/unix.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "introspect/cred.h"
#include "introspect/fd.h"
#include "introspect/file.h"
#include "introspect/task.h"

/*
 * Sockets are found by descriptors, and then, when all tables have been read, by what waits in
 * sockets: messages carry files, among them other sockets, and listening sockets hold the ends of
 * connections that have no descriptor yet. Peers come last, when every socket of the tree is known:
 * a peer that is not among them was closed, or is somebody else's.
 *
 * What is captured must be a state that the kernel can be in; one that contradicts itself was read
 * in the middle of a change, or is a lie: CORRUPT.
 */

#define TCP_ESTABLISHED 1 // include/net/tcp_states.h
#define TCP_LISTEN      10
#define BOTH_WAYS       3   // SHUTDOWN_MASK
#define UNIX_HASH_MOD   255 // sk_hash of what is bound by itself is above, since 5.19
#define UNIX_HASH_SIZE  256 // of unix_socket_table, until 5.18, which has as many again for others
#define MAX_UNIX_CHAIN  (1u << 20)
#define MAX_NAME_BYTES  (sizeof(((struct sockaddr_un *)0)->sun_path) + 1)

static bool corrupt(struct gva sk, GError **error, const char *what)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "unix_sock at %#" G_GINT64_MODIFIER "x: %s", sk.addr, what);
    return false;
}

/* ---- one socket ---- */

static bool check_locks(struct intro_ctx *c, struct gva sk, GError **error)
{
    return intro_check_spinlock(c->k, intro_member_addr(c->k, sk, M_unix_lock), "unix_sock",
                                error) &&
           intro_check_mutex(c->k, intro_member_addr(c->k, sk, M_unix_iolock), "unix_sock",
                             error) &&
           intro_check_mutex(c->k, intro_member_addr(c->k, sk, M_unix_bindlock), "unix_sock",
                             error);
}

// Until 5.18: whether it is in that half of the table that is for sockets not bound by themselves.
static bool is_unbound_by_table(struct intro_ctx *c, struct gva sk, bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva table, lock, node = intro_member_addr(c->k, sk, M_sk_node);

    if (!intro_symbol(c->k, "unix_socket_table", &table, error) ||
        !intro_symbol(c->k, "unix_table_lock", &lock, error) ||
        !intro_check_spinlock(c->k, lock, "unix_socket_table", error))
        return false;
    const uint64_t unbound = table.addr + UNIX_HASH_SIZE * sizeof(uint64_t);
    const uint64_t end = unbound + UNIX_HASH_SIZE * sizeof(uint64_t);

    for (unsigned i = 0; i < MAX_UNIX_CHAIN; i++) {
        node = rd_ptr(&r, node, M_hlist_pprev); // `next` is the first member of the one before
        if (!rd_done(&r, error))
            return false;
        if (!node.addr || (node.addr >= table.addr && node.addr < end)) {
            *ret = node.addr >= unbound; // one that was closed is in no half
            return true;
        }
    }
    return corrupt(sk, error, "a chain of sockets that leads to no table");
}

// Whether it has the name of the socket that it was accepted on, not one of its own.
static bool read_accepted(struct intro_ctx *c, struct gva sk, bool *ret, GError **error)
{
    uint64_t hash;

    if (!intro_has_symbol(c->k, "bsd_socket_buckets"))
        return is_unbound_by_table(c, sk, ret, error);
    if (!intro_get(c->k, sk, M_sk_hash, &hash, error))
        return false;
    *ret = hash <= UNIX_HASH_MOD;
    return true;
}

static bool read_name(struct intro_ctx *c, struct gva sk, struct fmt_unix_socket *rec,
                      GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva addr = rd_ptr(&r, sk, M_unix_addr);
    uint64_t len = addr.addr ? rd(&r, addr, M_unix_addr_len) : 0;
    char name[MAX_NAME_BYTES];
    bool accepted;

    if (!rd_done(&r, error))
        return false;
    if (!addr.addr)
        return true;
    len -= offsetof(struct sockaddr_un, sun_path);
    if (len == 0 || len > sizeof(name))
        return corrupt(sk, error, "a name of an impossible length");
    if (!intro_read(c->k,
                    GVA(intro_member_addr(c->k, addr, M_unix_addr_name).addr +
                        offsetof(struct sockaddr_un, sun_path)),
                    name, len, error) ||
        !read_accepted(c, sk, &accepted, error))
        return false;
    rec->name = g_bytes_new(name, name[0] ? strnlen(name, len) : len);
    rec->accepted = accepted;
    return true;
}

// Where the name is in the file system, if it still is.
static bool read_path(struct intro_ctx *c, struct gva sk, struct fmt_unix_socket *rec,
                      GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct intro_path where = {rd_ptr(&r, sk, M_unix_path_mnt), rd_ptr(&r, sk, M_unix_path_dentry)};
    struct gva inode = where.dentry.addr ? rd_ptr(&r, where.dentry, M_dentry_inode) : GVA(0);
    g_autoptr(GError) local = NULL;
    struct intro_path root;
    bool deleted;

    if (!rd_done(&r, error) || !intro_root(c, &root, error))
        return false;
    if (!inode.addr)
        return true;
    g_autofree char *path = intro_path_str(c->k, where, root, &deleted, &local);
    if (!path && g_error_matches(local, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED)) {
        intro_refuse(c, "unreachable-path", "has a socket bound to what cannot be named: %s",
                     local->message);
        return true;
    }
    if (!path) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (deleted)
        return true;
    rec->path = g_steal_pointer(&path);
    rec->path_mode = rd(&r, inode, M_inode_mode) & 07777;
    rec->path_uid = rd(&r, inode, M_inode_uid);
    rec->path_gid = rd(&r, inode, M_inode_gid);
    return rd_done(&r, error) && intro_way(c, where, error);
}

static bool read_peer_cred(struct intro_ctx *c, struct gva sk, struct fmt_unix_socket *rec,
                           GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva pid = rd_ptr(&r, sk, M_sk_peer_pid), cred = rd_ptr(&r, sk, M_sk_peer_cred);

    if (pid.addr)
        rec->peer_pid = intro_pid_nr(&r, pid, intro_pid_level(&r, c->root_task));
    if (!rd_done(&r, error))
        return false;
    return !cred.addr || (rec->peer_cred = intro_cred(c, cred, error)) != 0;
}

static bool read_state(IntroReader *r, struct gva sk, struct fmt_socket *rec)
{
    uint64_t state = rd(r, sk, M_sk_state);

    if (intro_sock_is_closed(r, sk))
        rec->state = FMT_SOCKET_CLOSED;
    else if (rec->type == SOCK_DGRAM)
        rec->state = FMT_SOCKET_OPEN;
    else if (state == TCP_LISTEN)
        rec->state = FMT_SOCKET_LISTENING;
    else
        rec->state = state == TCP_ESTABLISHED ? FMT_SOCKET_CONNECTED : FMT_SOCKET_OPEN;
    if (rd_opt(r, sk, M_unix_recvmsg_inq, 0))
        rec->options |= FMT_SOCKET_INQ;
    return !r->error;
}

uint64_t intro_unix_sock(struct intro_ctx *c, struct gva sk, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    uint64_t known = intro_object_ref(c, sk);

    if (known)
        return known;
    if (!check_locks(c, sk, error))
        return 0;
    struct intro_sock s = {.sk = sk, .rec = intro_sock_record(c, sk, error)};
    if (!s.rec)
        return 0;
    s.unix_rec = fmt_image_add(c->img, FMT_UNIX);
    s.unix_rec->socket = s.rec->rec.objref;
    if (!c->sockets)
        c->sockets = g_array_new(FALSE, FALSE, sizeof(struct intro_sock));
    g_array_append_val(c->sockets, s);
    if (!read_state(&r, sk, s.rec) || !read_name(c, sk, s.unix_rec, error) ||
        !read_peer_cred(c, sk, s.unix_rec, error))
        return rd_done(&r, error) ? 0 : 0;
    // A socket that was accepted shares the path of the one that listened.
    if (s.rec->state != FMT_SOCKET_CONNECTED)
        s.unix_rec->accepted = 0;
    if (!s.unix_rec->accepted && s.unix_rec->name && !read_path(c, sk, s.unix_rec, error))
        return 0;
    return s.rec->rec.objref;
}

/* ---- peers ---- */

struct peers {
    struct intro_ctx *c;
    GHashTable *holders; // made when the first is needed
};

static char *name_of(const struct fmt_unix_socket *rec)
{
    gsize len;
    const char *name = rec->name ? g_bytes_get_data(rec->name, &len) : NULL;

    if (!name)
        return g_strdup("");
    g_autofree char *text = g_strndup(name[0] ? name : name + 1, name[0] ? len : len - 1);
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    return g_strdup_printf(" %s%s", name[0] ? "" : "@", valid);
}

static const char *holder_of(struct peers *p, struct gva sk, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);
    struct gva inode = intro_sock_inode(&r, sk);

    if (!rd_done(&r, error) || (!p->holders && !(p->holders = intro_outside_holders(p->c, error))))
        return NULL;
    const char *holder = g_hash_table_lookup(p->holders, GSIZE_TO_POINTER(inode.addr));
    if (holder)
        return holder;
    return inode.addr ? "something outside of the tree" : "a process that has not accepted it yet";
}

// The record of a socket that is not the tree's own: of its name, mostly.
static uint64_t foreign(struct peers *p, struct gva sk, GError **error)
{
    uint64_t ref = intro_unix_sock(p->c, sk, error);
    struct intro_sock *s =
        ref ? &g_array_index(p->c->sockets, struct intro_sock, p->c->sockets->len - 1) : NULL;

    if (!s)
        return 0;
    s->rec->state = FMT_SOCKET_CLOSED;
    s->rec->error = 0;
    g_clear_pointer(&s->unix_rec->path, g_free);
    return ref;
}

static bool find_peer(struct peers *p, struct intro_sock s, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);
    struct gva sk = rd_ptr(&r, s.sk, M_unix_peer);
    bool closed = sk.addr && intro_sock_is_closed(&r, sk);

    if (!rd_done(&r, error))
        return false;
    if (!sk.addr || s.rec->state == FMT_SOCKET_CLOSED)
        return true;
    s.unix_rec->peer = intro_object_ref(p->c, sk);
    if (s.unix_rec->peer)
        return true;
    const char *holder = closed ? NULL : holder_of(p, sk, error);
    if ((!closed && !holder) || !(s.unix_rec->peer = foreign(p, sk, error)))
        return false;
    if (closed)
        return true;
    const struct intro_sock *peer =
        &g_array_index(p->c->sockets, struct intro_sock, p->c->sockets->len - 1);
    g_autofree char *name = name_of(peer->unix_rec), *own = name_of(s.unix_rec);
    intro_blame_holder(p->c, s.rec->rec.objref);
    intro_refuse(p->c, "external-socket",
                 "has a unix socket%s whose other end%s is held by %s, outside of the tree", own,
                 name, holder);
    // Where that is allowed, the other end is closed.
    if (s.rec->type != SOCK_DGRAM)
        s.rec->shutdown = BOTH_WAYS;
    return true;
}

static bool find_sender(struct peers *p, const struct intro_sent *sent, GError **error)
{
    const struct fmt_socket *to = fmt_image_by_ref(p->c->img, sent->message->socket, FMT_SOCKET);

    if (!sent->sender.addr || to->type != SOCK_DGRAM)
        return true;
    uint64_t ref = intro_object_ref(p->c, sent->sender);
    if (!ref)
        ref = foreign(p, sent->sender, error);
    return (sent->message->sender = ref) != 0;
}

/* ---- is it a state that can be? ---- */

static const struct fmt_unix_socket *unix_of(const struct intro_ctx *c, uint64_t ref)
{
    for (guint i = 0; i < c->sockets->len; i++) {
        const struct intro_sock *s = &g_array_index(c->sockets, struct intro_sock, i);
        if (s->rec->rec.objref == ref)
            return s->unix_rec;
    }
    return NULL;
}

static bool check_connected(struct intro_ctx *c, const struct intro_sock *s, GError **error)
{
    const struct fmt_socket *peer = fmt_image_by_ref(c->img, s->unix_rec->peer, FMT_SOCKET);

    if (!peer || peer->type != s->rec->type)
        return corrupt(s->sk, error, "connected to nothing of its kind");
    if (peer->state == FMT_SOCKET_CLOSED)
        return s->rec->shutdown == BOTH_WAYS ||
               corrupt(s->sk, error, "its peer is closed and it does not know");
    if (unix_of(c, peer->rec.objref)->peer != s->rec->rec.objref)
        return corrupt(s->sk, error, "its peer is connected to another");
    // What one does not send any more the other does not receive.
    if ((s->rec->shutdown & 1) != (peer->shutdown >> 1 & 1))
        return corrupt(s->sk, error, "it and its peer are not shut down alike");
    return true;
}

static bool check_state(struct intro_ctx *c, const struct intro_sock *s, GError **error)
{
    const struct fmt_socket *peer = fmt_image_by_ref(c->img, s->unix_rec->peer, FMT_SOCKET);
    bool stream = s->rec->type != SOCK_DGRAM;

    intro_blame_holder(c, s->rec->rec.objref);
    if (s->rec->type != SOCK_STREAM && s->rec->type != SOCK_DGRAM && s->rec->type != SOCK_SEQPACKET)
        return corrupt(s->sk, error, "an unknown type");
    if (s->rec->error &&
        (s->rec->error != ECONNRESET || !stream || !peer || peer->state != FMT_SOCKET_CLOSED))
        intro_refuse(c, "socket-error",
                     "has a unix socket with an error that waits to be told (%s)",
                     g_strerror((int)s->rec->error));
    if (s->rec->state == FMT_SOCKET_LISTENING && !s->unix_rec->name)
        return corrupt(s->sk, error, "it listens without a name");
    if (s->rec->state == FMT_SOCKET_CONNECTED || s->rec->state == FMT_SOCKET_PENDING)
        return check_connected(c, s, error);
    if (peer && (stream || peer->type != SOCK_DGRAM) && s->rec->state != FMT_SOCKET_CLOSED)
        return corrupt(s->sk, error, "a peer without a connection");
    return true;
}

static bool finish(struct peers *p, GArray *sent, GError **error)
{
    // The array grows: files in flight bring sockets with them.
    for (guint i = 0; i < p->c->sockets->len; i++) {
        intro_blame_holder(p->c,
                           g_array_index(p->c->sockets, struct intro_sock, i).rec->rec.objref);
        if (!intro_unix_queue(p->c, i, sent, error))
            return false;
    }
    guint own = p->c->sockets->len;
    for (guint i = 0; i < own; i++)
        if (!find_peer(p, g_array_index(p->c->sockets, struct intro_sock, i), error))
            return false;
    for (guint i = 0; i < sent->len; i++)
        if (!find_sender(p, &g_array_index(sent, struct intro_sent, i), error))
            return false;
    for (guint i = 0; i < own; i++)
        if (!check_state(p->c, &g_array_index(p->c->sockets, struct intro_sock, i), error))
            return false;
    return true;
}

bool intro_unix_finish(struct intro_ctx *c, GError **error)
{
    g_autoptr(GArray) sent = g_array_new(FALSE, FALSE, sizeof(struct intro_sent));
    struct peers p = {.c = c};
    bool ok = !c->sockets || finish(&p, sent, error);

    g_clear_pointer(&p.holders, g_hash_table_unref);
    c->pid = c->opt->pid;
    c->fd = -1;
    return ok;
}

/* ---- who else ---- */

// How many descriptors and messages of the tree hold each file.
static GHashTable *count_users(struct intro_ctx *c)
{
    GHashTable *users = g_hash_table_new(NULL, NULL);
    const struct fmt_unix_right *right;
    const struct fmt_fd *fd;

    for (size_t i = 0; FMT_NEXT(c->img, FD, i, fd); i++) {
        void *key = GSIZE_TO_POINTER(fd->file);
        size_t n = GPOINTER_TO_SIZE(g_hash_table_lookup(users, key));
        g_hash_table_insert(users, key, GSIZE_TO_POINTER(n + 1));
    }
    for (size_t i = 0; FMT_NEXT(c->img, UNIX_RIGHT, i, right); i++) {
        void *key = GSIZE_TO_POINTER(right->file);
        size_t n = GPOINTER_TO_SIZE(g_hash_table_lookup(users, key));
        g_hash_table_insert(users, key, GSIZE_TO_POINTER(n + 1));
    }
    return users;
}

static bool check_peers(struct intro_ctx *c, GHashTable *users, GHashTable **holders,
                        GError **error)
{
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        const struct fmt_file *file = fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), FMT_FILE);
        uint64_t held;
        if (!file || file->kind != FMT_FILE_SOCKET)
            continue;
        if (!intro_file_count(c->k, GVA(GPOINTER_TO_SIZE(at)), &held, error))
            return false;
        if (held <= GPOINTER_TO_SIZE(g_hash_table_lookup(users, ref)))
            continue;
        if (!*holders && !(*holders = intro_outside_holders(c, error)))
            return false;
        const char *holder = g_hash_table_lookup(*holders, at);
        intro_blame_holder(c, file->rec.objref);
        if (holder)
            intro_refuse(c, "external-socket", "has a socket that is also held by %s", holder);
    }
    return true;
}

bool intro_unix_check_peers(struct intro_ctx *c, GError **error)
{
    g_autoptr(GHashTable) users = count_users(c);
    GHashTable *holders = NULL;
    bool ok = check_peers(c, users, &holders, error);

    g_clear_pointer(&holders, g_hash_table_unref);
    c->pid = c->opt->pid;
    c->fd = -1;
    return ok;
}
