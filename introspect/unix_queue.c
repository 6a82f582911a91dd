// SPDX-License-Identifier: GPL-2.0-or-later
// What waits in unix sockets: bytes, datagrams, the files they carry, and connections to be
// accepted.
#include "introspect/reader.h"
#include "introspect/skb.h"
#include "introspect/task.h"
#include "introspect/unix.h"

#include <sys/socket.h>

/*
 * A buffer of the receive queue is what one call has sent (a stream cuts long ones), with a struct
 * unix_skb_parms in its control block: the sender's ids where the receiver is to know them
 * (SO_PASSCRED), the files it carries, and how much of it has been read. A buffer of a listening
 * socket stands for a connection: its owner is the socket that accept() will return.
 */

#define MAX_RIGHTS 253 // SCM_MAX_FD

struct queue {
    struct intro_ctx *c;
    struct intro_sock s;
    GArray *sent;
    struct gva oob; // the buffer with the byte of MSG_OOB, 0 for none
    bool oob_found;
};

static bool corrupt(const struct queue *q, struct gva skb, const char *what, GError **error)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "sk_buff at %#" G_GINT64_MODIFIER "x of the unix_sock at %#" G_GINT64_MODIFIER
                "x: %s",
                skb.addr, q->s.sk.addr, what);
    return false;
}

static bool add_connection(struct queue *q, struct gva skb, GError **error)
{
    struct gva sk;
    uint64_t ref;

    if (!intro_get_ptr(q->c->k, skb, M_skb_sk, &sk, error))
        return false;
    if (!sk.addr || intro_object_ref(q->c, sk))
        return corrupt(q, skb, "a connection without a socket of its own", error);
    if (!(ref = intro_unix_sock(q->c, sk, error)))
        return false;
    const struct intro_sock *end =
        &g_array_index(q->c->sockets, struct intro_sock, q->c->sockets->len - 1);
    if (end->rec->state != FMT_SOCKET_CONNECTED)
        return corrupt(q, skb, "a connection that is none", error);
    end->rec->state = FMT_SOCKET_PENDING;
    end->unix_rec->listener = q->s.rec->rec.objref;
    return true;
}

static bool add_rights(struct queue *q, struct gva skb, struct gva fp, uint64_t message,
                       GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(q->c->k);
    uint64_t n = rd(&r, fp, M_scm_fp_count);

    if (!rd_done(&r, error))
        return false;
    if (n > MAX_RIGHTS)
        return corrupt(q, skb, "too many files", error);
    for (uint64_t i = 0; i < n; i++) {
        struct gva file = rd_ptr_at(&r, rd_elem(&r, fp, M_scm_fp_files, i, 8));
        if (!rd_done(&r, error))
            return false;
        uint64_t ref = intro_file(q->c, file, error);
        if (!ref) {
            g_prefix_error(error, "a file in flight: ");
            return false;
        }
        struct fmt_unix_right *right = fmt_image_add(q->c->img, FMT_UNIX_RIGHT);
        right->message = message;
        right->file = ref;
    }
    return true;
}

static bool add_message(struct queue *q, struct gva skb, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(q->c->k);
    struct gva cb = intro_member_addr(q->c->k, skb, M_skb_cb);
    struct gva pid = rd_ptr(&r, cb, M_unixcb_pid), fp = rd_ptr(&r, cb, M_unixcb_fp);
    struct fmt_unix_message *rec = fmt_image_add(q->c->img, FMT_UNIX_MESSAGE);
    struct intro_sent sent = {rec, rd_ptr(&r, skb, M_skb_sk)};

    rec->socket = q->s.rec->rec.objref;
    rec->oob = q->oob.addr == skb.addr;
    q->oob_found |= rec->oob;
    rec->consumed_bytes = q->s.rec->type == SOCK_STREAM ? rd(&r, cb, M_unixcb_consumed) : 0;
    if (pid.addr) {
        rec->has_cred = 1;
        rec->pid = intro_pid_nr(&r, pid, intro_pid_level(&r, q->c->root_task));
        rec->uid = rd(&r, cb, M_unixcb_uid);
        rec->gid = rd(&r, cb, M_unixcb_gid);
    }
    if (!rd_done(&r, error) || !(rec->data = intro_skb_data(q->c->k, skb, error)))
        return false;
    if (rec->consumed_bytes > g_bytes_get_size(rec->data))
        return corrupt(q, skb, "more was read than it has", error);
    g_array_append_val(q->sent, sent);
    return !fp.addr || add_rights(q, skb, fp, rec->rec.objref, error);
}

static bool add_one(struct gva skb, void *user, GError **error)
{
    struct queue *q = user;

    return q->s.rec->state == FMT_SOCKET_LISTENING ? add_connection(q, skb, error)
                                                   : add_message(q, skb, error);
}

bool intro_unix_queue(struct intro_ctx *c, guint i, GArray *sent, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct queue q = {.c = c, .s = g_array_index(c->sockets, struct intro_sock, i), .sent = sent};

    q.oob = GVA(rd_opt(&r, q.s.sk, M_unix_oob_skb, 0));
    if (!rd_done(&r, error) || !intro_walk_receive_queue(c->k, q.s.sk, add_one, &q, error))
        return false;
    if (q.oob.addr && !q.oob_found)
        return corrupt(&q, q.oob, "a byte out of band that is not in the queue", error);
    return true;
}
