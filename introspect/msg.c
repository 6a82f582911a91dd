// SPDX-License-Identifier: GPL-2.0-or-later
// System V message queues (struct msg_queue), and messages as POSIX queues have them as well.
#include "introspect/ipc.h"

#include <string.h>

#define MAX_MESSAGES    (1u << 20)
#define MAX_QUEUE_BYTES (256u << 20)

struct visitor {
    struct intro_ipc *ipc;
    enum intro_member list, task;
    GByteArray *messages;
};

// The text begins behind struct msg_msg, fills its page, and goes on in a chain of further pages.
static bool read_text(IntroReader *r, struct gva msg, uint8_t *to, uint64_t bytes)
{
    uint64_t header = intro_sizeof(r->k, T_msg_msg);
    struct gva next = rd_ptr(r, msg, M_msg_msg_next), from = msg;

    for (;;) {
        uint64_t n = MIN(bytes, VMM_PAGE_BYTES - header);
        if (r->error || !intro_read(r->k, GVA(from.addr + header), to, n, &r->error))
            return false;
        to += n;
        bytes -= n;
        if (bytes == 0)
            return true;
        from = next;
        header = intro_sizeof(r->k, T_msg_msgseg);
        next = rd_ptr(r, from, M_msg_msgseg_next);
    }
}

bool intro_msg(IntroKernel *k, struct gva msg, GByteArray *messages, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    uint64_t type = rd(&r, msg, M_msg_msg_type), bytes = rd(&r, msg, M_msg_msg_bytes);
    const uint64_t head[2] = {GUINT64_TO_LE(type), GUINT64_TO_LE(bytes)};
    guint before = messages->len;

    if (!rd_done(&r, error))
        return false;
    if (bytes > MAX_QUEUE_BYTES || before + bytes > MAX_QUEUE_BYTES ||
        intro_sizeof(k, T_msg_msg) >= VMM_PAGE_BYTES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "msg_msg at %#" G_GINT64_MODIFIER "x: a message of %" G_GUINT64_FORMAT " bytes",
                    msg.addr, bytes);
        return false;
    }
    guint padded = (guint)(bytes + 7) & ~7u;
    g_byte_array_append(messages, (const guint8 *)head, sizeof(head));
    g_byte_array_set_size(messages, before + sizeof(head) + padded);
    uint8_t *text = messages->data + before + sizeof(head);
    memset(text, 0, padded);
    read_text(&r, msg, text, bytes);
    return rd_done(&r, error);
}

static bool visit_message(struct gva node, void *user, GError **error)
{
    struct visitor *v = user;
    IntroKernel *k = v->ipc->c->k;

    return intro_msg(k, intro_container(k, node, M_msg_msg_list), v->messages, error);
}

static bool visit_waiter(struct gva node, void *user, GError **error)
{
    struct visitor *v = user;
    g_auto(IntroReader) r = INTRO_READER(v->ipc->c->k);

    intro_ipc_task(v->ipc, &r, rd_ptr(&r, intro_container(r.k, node, v->list), v->task));
    return rd_done(&r, error);
}

static bool users(struct intro_ipc *ipc, struct gva queue, GError **error)
{
    IntroKernel *k = ipc->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    struct visitor receivers = {ipc, M_msg_receiver_list, M_msg_receiver_task, NULL};
    struct visitor senders = {ipc, M_msg_sender_list, M_msg_sender_task, NULL};

    intro_ipc_pid(ipc, &r, rd_ptr(&r, queue, M_msg_lspid));
    intro_ipc_pid(ipc, &r, rd_ptr(&r, queue, M_msg_lrpid));
    return rd_done(&r, error) &&
           intro_walk_list(k, intro_member_addr(k, queue, M_msg_receivers), MAX_MESSAGES,
                           visit_waiter, &receivers, error) &&
           intro_walk_list(k, intro_member_addr(k, queue, M_msg_senders), MAX_MESSAGES,
                           visit_waiter, &senders, error);
}

static bool read_object(struct intro_ipc *ipc, struct gva queue, struct fmt_ipc *rec,
                        GError **error)
{
    IntroKernel *k = ipc->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    g_autoptr(GByteArray) messages = g_byte_array_new();
    struct visitor v = {.ipc = ipc, .messages = messages};

    rec->size = rd(&r, queue, M_msg_qbytes);
    rec->pid1 = intro_ipc_pid(ipc, &r, rd_ptr(&r, queue, M_msg_lspid));
    rec->pid2 = intro_ipc_pid(ipc, &r, rd_ptr(&r, queue, M_msg_lrpid));
    rec->time1_s = (int64_t)rd(&r, queue, M_msg_stime);
    rec->time2_s = (int64_t)rd(&r, queue, M_msg_rtime);
    rec->ctime_s = (int64_t)rd(&r, queue, M_msg_ctime);
    if (!rd_done(&r, error) || !intro_walk_list(k, intro_member_addr(k, queue, M_msg_messages),
                                                MAX_MESSAGES, visit_message, &v, error))
        return false;
    if (messages->len)
        rec->messages = g_byte_array_free_to_bytes(g_steal_pointer(&messages));
    return true;
}

const struct intro_ipc_kind intro_ipc_msg = {
    .name = "System V message queue",
    .perm = M_msg_perm,
    .users = users,
    .read = read_object,
};
