// SPDX-License-Identifier: GPL-2.0-or-later
// POSIX message queues (struct mqueue_inode_info): messages, limits, who is to be notified.
#include "introspect/fd.h"
#include "introspect/ipc.h"
#include "introspect/task.h"

#define MAX_PRIORITIES (1u << 16)
#define MAX_MESSAGES   (1u << 20)

struct visitor {
    IntroKernel *k;
    GPtrArray *levels; // of GByteArray: messages of a priority, in ascending order
};

static bool visit_message(struct gva node, void *user, GError **error)
{
    struct visitor *v = user;

    return intro_msg(v->k, intro_container(v->k, node, M_msg_msg_list),
                     g_ptr_array_index(v->levels, v->levels->len - 1), error);
}

static bool visit_priority(struct gva node, void *user, GError **error)
{
    struct visitor *v = user;
    struct gva level = intro_container(v->k, node, M_mqueue_node_rb);

    g_ptr_array_add(v->levels, g_byte_array_new());
    return intro_walk_list(v->k, intro_member_addr(v->k, level, M_mqueue_node_list), MAX_MESSAGES,
                           visit_message, v, error);
}

static bool read_messages(IntroKernel *k, struct gva queue, struct fmt_mqueue *rec, GError **error)
{
    g_autoptr(GPtrArray) levels =
        g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    g_autoptr(GByteArray) all = g_byte_array_new();
    struct visitor v = {k, levels};
    struct gva top;

    if (!intro_get_ptr(k, queue, M_mqueue_tree, &top, error) ||
        !intro_walk_rbtree(k, top, MAX_PRIORITIES, visit_priority, &v, error))
        return false;
    for (guint i = levels->len; i-- > 0;) {
        const GByteArray *level = g_ptr_array_index(levels, i);
        if (level->len)
            g_byte_array_append(all, level->data, level->len);
    }
    if (all->len)
        rec->messages = g_byte_array_free_to_bytes(g_steal_pointer(&all));
    return true;
}

static void read_notification(struct intro_ctx *c, IntroReader *r, struct gva queue,
                              struct fmt_mqueue *rec)
{
    struct gva owner = rd_ptr(r, queue, M_mqueue_notify_owner);
    struct gva event = intro_member_addr(c->k, queue, M_mqueue_notify);

    if (!owner.addr)
        return;
    rec->notify_pid = intro_pid_nr(r, owner, intro_pid_level(r, c->root_task));
    rec->notify = rd(r, event, M_sigevent_notify);
    rec->notify_signo = rd(r, event, M_sigevent_signo);
    rd_bytes(r, event, M_sigevent_value, &rec->notify_value, 8);
    if (rec->notify == 2 /* SIGEV_THREAD */)
        intro_refuse(c, "mq-notify-thread",
                     "waits for the message queue %s with a thread (mq_notify, SIGEV_THREAD)",
                     rec->name);
}

uint64_t intro_mqueue(struct intro_ctx *c, struct gva inode, const char *name, bool unlinked,
                      GError **error)
{
    uint64_t known = intro_object_ref(c, inode);
    g_auto(IntroReader) r = INTRO_READER(c->k);

    if (known)
        return known;
    struct gva queue = intro_container(c->k, inode, M_mqueue_inode);
    if (!intro_check_spinlock(c->k, intro_member_addr(c->k, queue, M_mqueue_lock), "mqueue", error))
        return 0;
    struct fmt_mqueue *rec = intro_object_add(c, inode, FMT_MQUEUE);
    rec->name = g_strdup(name);
    rec->unlinked = unlinked;
    rec->mode = rd(&r, inode, M_inode_mode) & 07777;
    rec->uid = rd(&r, inode, M_inode_uid);
    rec->gid = rd(&r, inode, M_inode_gid);
    rec->maxmsg = rd(&r, queue, M_mqueue_maxmsg);
    rec->msgsize_bytes = rd(&r, queue, M_mqueue_msgsize);
    read_notification(c, &r, queue, rec);
    return rd_done(&r, error) && read_messages(c->k, queue, rec, error) ? rec->rec.objref : 0;
}

// The file system need not be mounted: the name is what counts.
char *intro_mqueue_name(struct intro_ctx *c, struct gva dentry, bool *ret_unlinked, GError **error)
{
    g_autofree char *name = intro_dentry_name(c->k, dentry, error);
    uint64_t hashed;

    if (!name || !intro_get(c->k, dentry, M_dentry_hash_pprev, &hashed, error))
        return NULL;
    *ret_unlinked = !hashed;
    return g_strconcat("/", name, NULL);
}

bool intro_mqueue_check_peers(struct intro_ctx *c, GError **error)
{
    g_autoptr(GHashTable) holders = NULL;
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        const struct fmt_mqueue *queue =
            fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), FMT_MQUEUE);
        if (!queue)
            continue;
        if (!holders && !(holders = intro_outside_holders(c, error)))
            return false;
        const char *holder = g_hash_table_lookup(holders, at);
        intro_blame_holder(c, queue->rec.objref);
        if (holder)
            intro_refuse(c, "external-queue", "has the message queue %s open, as has %s",
                         queue->name, holder);
    }
    c->fd = -1;
    return true;
}
