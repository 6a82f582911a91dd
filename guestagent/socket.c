// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets: what all families have in common, and when they are made.

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "guestagent/maker.h"
#include "guestagent/unix.h"

// Not in the headers of every C library.
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#define OPTION_PASSPIDFD       76 // SO_PASSPIDFD
#define OPTION_PASSRIGHTS      83 // SO_PASSRIGHTS
#define OPTION_INQ             84 // SO_INQ
#define OPTION_TIMESTAMP_NEW   63
#define OPTION_TIMESTAMPNS_NEW 64

#define MAX_DGRAM_QLEN "/proc/sys/net/unix/max_dgram_qlen"

/* ---- options ---- */

// Sets what differs: what is not known here, and was not used there, is no matter.
static bool set_int(int fd, int name, int value, const char *what, GError **error)
{
    int now = 0;
    socklen_t len = sizeof now;

    if (getsockopt(fd, SOL_SOCKET, name, &now, &len) == 0 && now == value)
        return true;
    if (setsockopt(fd, SOL_SOCKET, name, &value, sizeof value) < 0)
        return agent_fail_errno(error, "%s of a socket, %d", what, value);
    return true;
}

static bool set_flags(int fd, uint64_t options, GError **error)
{
#define OPTION(bit, option)                                                                        \
    {                                                                                              \
        FMT_SOCKET_##bit, SO_##option, "SO_" #option                                               \
    }
    static const struct {
        uint64_t bit;
        int option;
        const char *name;
    } flags[] = {
        OPTION(PASSCRED, PASSCRED),
        OPTION(PASSSEC, PASSSEC),
        {FMT_SOCKET_PASSPIDFD, OPTION_PASSPIDFD, "SO_PASSPIDFD"},
        OPTION(KEEPALIVE, KEEPALIVE),
        OPTION(BROADCAST, BROADCAST),
        OPTION(OOBINLINE, OOBINLINE),
        OPTION(DEBUG, DEBUG),
        OPTION(DONTROUTE, DONTROUTE),
        OPTION(RXQ_OVFL, RXQ_OVFL),
        OPTION(NOFCS, NOFCS),
        OPTION(SELECT_ERR_QUEUE, SELECT_ERR_QUEUE),
        OPTION(WIFI_STATUS, WIFI_STATUS),
        OPTION(REUSEADDR, REUSEADDR),
        OPTION(REUSEPORT, REUSEPORT),
        OPTION(NO_CHECK, NO_CHECK),
        {FMT_SOCKET_INQ, OPTION_INQ, "SO_INQ"},
    };
#undef OPTION
    const int stamp =
        options & FMT_SOCKET_TIMESTAMP_NEW
            ? (options & FMT_SOCKET_TIMESTAMPNS ? OPTION_TIMESTAMPNS_NEW : OPTION_TIMESTAMP_NEW)
            : (options & FMT_SOCKET_TIMESTAMPNS ? SO_TIMESTAMPNS : SO_TIMESTAMP);

    // What is off is off in a new socket too.
    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        if (options & flags[i].bit && !set_int(fd, flags[i].option, 1, flags[i].name, error))
            return false;
    }
    return (!(options & FMT_SOCKET_NO_PASSRIGHTS) ||
            set_int(fd, OPTION_PASSRIGHTS, 0, "SO_PASSRIGHTS", error)) &&
           (!(options & (FMT_SOCKET_TIMESTAMP | FMT_SOCKET_TIMESTAMPNS)) ||
            set_int(fd, stamp, 1, "SO_TIMESTAMP", error));
}

// The kernel doubles what it is given.
static bool set_buffers(int fd, const struct fmt_socket *rec, GError **error)
{
    const struct {
        int option, force;
        uint64_t bytes;
    } buffers[] = {
        {SO_SNDBUF, SO_SNDBUFFORCE, rec->sndbuf_bytes},
        {SO_RCVBUF, SO_RCVBUFFORCE, rec->rcvbuf_bytes},
    };
    const int lock = (int)rec->buf_lock;

    for (size_t i = 0; i < G_N_ELEMENTS(buffers); i++) {
        const int want = (int)MIN(buffers[i].bytes, G_MAXINT), half = want / 2;
        int now = 0;
        socklen_t len = sizeof now;

        if (getsockopt(fd, SOL_SOCKET, buffers[i].option, &now, &len) == 0 && now == want)
            continue;
        if (setsockopt(fd, SOL_SOCKET, buffers[i].force, &half, sizeof half) < 0)
            return agent_fail_errno(error, "a buffer of a socket, %d bytes", want);
    }
    // Since Linux 5.14; it only tells whether the kernel may change them, which local sockets do
    // not.
    setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof lock);
    return true;
}

static bool set_timeout(int fd, int option, uint64_t us, GError **error)
{
    // Before the epoch: returns at once.
    const struct timeval time = us == UINT64_MAX
                                    ? (struct timeval){-1, 0}
                                    : (struct timeval){(time_t)(us / 1000000), us % 1000000};

    if (us && setsockopt(fd, SOL_SOCKET, option, &time, sizeof time) < 0)
        return agent_fail_errno(error, "a timeout of a socket");
    return true;
}

static bool set_linger(int fd, const struct fmt_socket *rec, GError **error)
{
    struct linger linger = {1, (int)MIN(rec->linger_s, G_MAXINT)};

    // The time stays when the option is turned off.
    if (!linger.l_linger && !(rec->options & FMT_SOCKET_LINGER))
        return true;
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0)
        return agent_fail_errno(error, "SO_LINGER of a socket");
    linger.l_onoff = 0;
    if (!(rec->options & FMT_SOCKET_LINGER))
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    return true;
}

static bool set_filter(int fd, const struct fmt_socket *rec, GError **error)
{
    gsize bytes = 0;
    const void *code = rec->filter ? g_bytes_get_data(rec->filter, &bytes) : NULL;
    const struct sock_fprog program = {(unsigned short)(bytes / sizeof(struct sock_filter)),
                                       (struct sock_filter *)code};

    if (code && setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
        return agent_fail_errno(error, "the filter of a socket");
    return !(rec->options & FMT_SOCKET_LOCK_FILTER) ||
           set_int(fd, SO_LOCK_FILTER, 1, "SO_LOCK_FILTER", error);
}

static bool set_inode(int fd, const struct fmt_socket *rec, GError **error)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return agent_fail_errno(error, "fstat of a socket");
    if (((st.st_mode ^ rec->mode) & 07777 && fchmod(fd, rec->mode & 07777) < 0) ||
        ((st.st_uid != rec->uid || st.st_gid != rec->gid) &&
         fchown(fd, (uid_t)rec->uid, (gid_t)rec->gid) < 0))
        return agent_fail_errno(error, "the owner of a socket");
    return true;
}

bool agent_sock_options(const struct agent_sock *s, GError **error)
{
    const struct fmt_socket *rec = s->rec;
    const int fd = s->fd;

    return set_flags(fd, rec->options, error) && set_buffers(fd, rec, error) &&
           set_timeout(fd, SO_SNDTIMEO, rec->sndtimeo_us, error) &&
           set_timeout(fd, SO_RCVTIMEO, rec->rcvtimeo_us, error) && set_linger(fd, rec, error) &&
           set_int(fd, SO_PRIORITY, (int)rec->priority, "SO_PRIORITY", error) &&
           set_int(fd, SO_MARK, (int)rec->mark, "SO_MARK", error) &&
           set_int(fd, SO_RCVLOWAT, (int)rec->rcvlowat_bytes, "SO_RCVLOWAT", error) &&
           (rec->peek_off < 0 ||
            set_int(fd, SO_PEEK_OFF, (int)rec->peek_off, "SO_PEEK_OFF", error)) &&
           (!rec->busy_poll_us ||
            set_int(fd, SO_BUSY_POLL, (int)rec->busy_poll_us, "SO_BUSY_POLL", error)) &&
           set_inode(fd, rec, error) && set_filter(fd, rec, error);
}

/* ---- new ones ---- */

// How many datagrams may wait is decided when the socket is made.
static bool set_queue_length(uint64_t length, GError **error)
{
    g_autofree char *text = g_strdup_printf("%" G_GUINT64_FORMAT, length);
    const int fd = open(MAX_DGRAM_QLEN, O_WRONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && write(fd, text, strlen(text)) > 0;

    if (!ok)
        agent_fail_errno(error, "%s", MAX_DGRAM_QLEN);
    if (fd >= 0)
        close(fd);
    return ok;
}

bool agent_sock_with_queue(AgentRestore *r, const struct agent_sock *s, agent_sock_fn fn,
                           void *user, GError **error)
{
    g_autofree char *text = NULL;
    uint64_t before;

    if (agent_sock_is_stream(s) || !g_file_get_contents(MAX_DGRAM_QLEN, &text, NULL, NULL) ||
        (before = g_ascii_strtoull(text, NULL, 10)) == s->rec->backlog)
        return fn(r, user, error);
    if (!set_queue_length(s->rec->backlog, error))
        return false;
    const bool ok = fn(r, user, error);

    return set_queue_length(before, ok ? error : NULL) && ok;
}

static bool new_socket(AgentRestore *r, void *user, GError **error)
{
    struct agent_sock *s = user;

    s->fd =
        agent_fd_up(r, socket(AF_UNIX, (int)s->rec->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error);
    return s->fd >= 0;
}

bool agent_sock_new(AgentRestore *r, struct agent_sock *s, GError **error)
{
    return agent_sock_with_queue(r, s, new_socket, s, error);
}

struct agent_sock *agent_sock_find(AgentRestore *r, uint64_t socket)
{
    return r->sockets ? g_hash_table_lookup(r->sockets->by_ref, &socket) : NULL;
}

struct agent_sock *agent_sock_of_file(AgentRestore *r, uint64_t file)
{
    const struct fmt_file *rec = fmt_image_by_ref(r->img, file, FMT_FILE);

    return rec && rec->kind == FMT_FILE_SOCKET ? agent_sock_find(r, rec->object) : NULL;
}

uint64_t agent_sock_file(AgentRestore *r, const struct agent_sock *s)
{
    const struct fmt_file *file;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, file); i++) {
        if (file->kind == FMT_FILE_SOCKET && file->object == s->rec->rec.objref)
            return file->rec.objref;
    }
    return 0;
}

/* ---- the kind of file ---- */

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_socket *rec = fmt_image_by_ref(r->img, f->object, FMT_SOCKET);

    if (!rec)
        agent_refuse_file(r, "socket", f->rec.objref, "the image lacks the socket");
    else if (rec->family == AF_NETLINK)
        agent_netlink_plan(r, f, rec);
    else if (rec->family != AF_UNIX)
        agent_refuse_file(r, "socket", f->rec.objref,
                          "a socket of family %" G_GUINT64_FORMAT " is not supported", rec->family);
    else if (rec->state == FMT_SOCKET_PENDING || rec->state == FMT_SOCKET_CLOSED)
        agent_refuse_file(r, "socket", f->rec.objref,
                          "a descriptor of a socket that can have none");
}

void agent_sockets_free(struct agent_sockets *sockets)
{
    if (!sockets)
        return;
    g_ptr_array_unref(sockets->all);
    g_hash_table_unref(sockets->by_ref);
    g_free(sockets);
}

void agent_sockets_plan(AgentRestore *r)
{
    const struct fmt_unix_socket *rec;

    if (fmt_image_count(r->img, FMT_SOCKET) == 0)
        return;
    r->sockets = g_new0(struct agent_sockets, 1);
    r->sockets->all = g_ptr_array_new_with_free_func(g_free);
    r->sockets->by_ref = g_hash_table_new(g_int64_hash, g_int64_equal);
    for (size_t i = 0; FMT_NEXT(r->img, UNIX, i, rec); i++) {
        struct agent_sock *s = g_new0(struct agent_sock, 1);

        s->unix_rec = rec;
        s->rec = fmt_image_by_ref(r->img, rec->socket, FMT_SOCKET);
        s->fd = s->name.at = -1;
        g_ptr_array_add(r->sockets->all, s);
        if (!g_hash_table_insert(r->sockets->by_ref, (void *)&s->rec->rec.objref, s))
            agent_refuse(r, "socket", 0, -1, "a socket is in the image twice");
    }
    if (r->sockets->all->len + agent_netlink_count(r) != fmt_image_count(r->img, FMT_SOCKET))
        agent_refuse(r, "socket", 0, -1, "the image has sockets of which it says too little");
    else
        agent_unix_plan(r);
}

// The first one brings all of them: unix sockets know each other, and messages carry sockets.
static bool make_all(AgentRestore *r, GError **error)
{
    if (r->sockets->made)
        return true;
    r->sockets->made = true;
    const bool made = agent_netlink_make(r, error) && agent_unix_make(r, error);

    // The pids are needed now.
    return agent_makers_end(r, made ? error : NULL) && made;
}

static bool connect_all(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    if (!make_all(r, error))
        return false;
    const struct agent_sock *s = agent_sock_find(r, f->object);
    const int fd = s ? s->fd : agent_file_fd(r, f->rec.objref);

    if (fcntl(fd, F_SETFL, f->flags & (O_NONBLOCK | O_APPEND | O_DIRECT | O_NOATIME)) < 0)
        return agent_fail_errno(error, "socket flags");
    agent_file_set_fd(r, f->rec.objref, fd);
    return true;
}

static bool place_all(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    (void)f;
    for (guint i = 0; !r->sockets->placed && i < r->sockets->all->len; i++) {
        struct agent_sock *s = g_ptr_array_index(r->sockets->all, i);

        if (!agent_sock_name_place(&s->name, error))
            return false;
    }
    r->sockets->placed = true;
    return true;
}

void agent_sockets_end(AgentRestore *r, bool kept)
{
    if (!kept)
        agent_makers_end(r, NULL);
    for (guint i = 0; r->sockets && i < r->sockets->all->len; i++)
        agent_sock_name_clear(&((struct agent_sock *)g_ptr_array_index(r->sockets->all, i))->name,
                              kept);
}

const struct agent_file_kind agent_file_socket = {
    .kind = FMT_FILE_SOCKET,
    .name = "socket",
    .plan = plan,
    .later = {[AGENT_FILE_CONNECT] = connect_all, [AGENT_FILE_ARM] = place_all},
};
