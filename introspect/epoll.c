// SPDX-License-Identifier: GPL-2.0-or-later
// Epoll sets (struct eventpoll): what is watched, and what is ready to be looked at.
#include "introspect/file.h"
#include "introspect/reader.h"

/*
 * An entry (struct epitem) is known by a file and the number under which it was added. Which of
 * them epoll_wait looks at next, and in which order, is a list of its own: level-triggered entries
 * are on it as long as they are ready, edge-triggered ones from the event until it has been
 * fetched.
 *
 * A signalfd is ready by the signals of whoever asks, so an entry for one waits in a queue that
 * belongs to the process that added it, and in none when that process has ended.
 */
#define MAX_ITEMS (1u << 22)

struct set {
    struct intro_ctx *c;
    uint64_t ref;
    GHashTable *places; // address of an epitem -> its place in the list of ready ones
};

static bool note_ready(struct gva node, void *user, GError **error)
{
    struct set *set = user;
    struct gva item = intro_container(set->c->k, node, M_epitem_ready);

    g_hash_table_insert(set->places, GSIZE_TO_POINTER(item.addr),
                        GSIZE_TO_POINTER(g_hash_table_size(set->places) + 1));
    return true;
}

static uint64_t proc_with_queue(struct intro_ctx *c, struct gva queue)
{
    struct gva sighand = intro_container(c->k, queue, M_sighand_signalfd_wqh);
    uint64_t ref = intro_object_ref(c, sighand);
    struct fmt_proc *proc;

    for (size_t i = 0; ref && FMT_NEXT(c->img, PROC, i, proc); i++)
        if (proc->sighand == ref)
            return proc->rec.objref;
    return 0;
}

static bool find_queue(struct intro_ctx *c, struct gva item, struct fmt_epoll_item *rec,
                       GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva wait = GVA(rd_u64_at(&r, intro_member_addr(c->k, item, M_epitem_waits)));
    struct gva head = wait.addr ? rd_ptr(&r, wait, M_epwait_head) : GVA(0);

    if (!rd_done(&r, error))
        return false;
    rec->detached = !head.addr;
    if (head.addr && !(rec->proc = proc_with_queue(c, head)))
        intro_refuse(c, "epoll",
                     "has an epoll set with a signalfd (%" G_GUINT64_FORMAT
                     ") that was added by a process outside of the tree",
                     rec->fd);
    return true;
}

static bool read_item(struct gva node, void *user, GError **error)
{
    struct set *set = user;
    struct intro_ctx *c = set->c;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva item = intro_container(c->k, node, M_epitem_node);
    struct gva at = rd_ptr(&r, item, M_epitem_file);
    const uint64_t fd = rd(&r, item, M_epitem_fd);
    const struct fmt_file *file = fmt_image_by_ref(c->img, intro_object_ref(c, at), FMT_FILE);

    if (!rd_done(&r, error))
        return false;
    // Closed, as far as the program is concerned: no set holds it.
    if (file && file->kind == FMT_FILE_LOST)
        return true;
    if (!file) {
        intro_refuse(c, "epoll",
                     "has an epoll set that watches a file, added as descriptor %" G_GUINT64_FORMAT
                     ", which no process of the tree has open",
                     fd);
        return true;
    }
    struct fmt_epoll_item *rec = fmt_image_add(c->img, FMT_EPOLL_ITEM);
    rec->epoll = set->ref;
    rec->fd = fd;
    rec->file = file->rec.objref;
    rec->events = rd(&r, item, M_epitem_events);
    rec->data = rd(&r, item, M_epitem_data);
    rec->ready = GPOINTER_TO_SIZE(g_hash_table_lookup(set->places, GSIZE_TO_POINTER(item.addr)));
    return rd_done(&r, error) &&
           (file->kind != FMT_FILE_SIGNALFD || find_queue(c, item, rec, error));
}

// Once all files of the tree are known.
static bool read_items(struct intro_ctx *c, struct gva ep, uint64_t ref, GError **error)
{
    g_autoptr(GHashTable) places = g_hash_table_new(NULL, NULL);
    struct set set = {.c = c, .ref = ref, .places = places};
    struct gva root;

    return intro_walk_list(c->k, intro_member_addr(c->k, ep, M_ep_ready), MAX_ITEMS, note_ready,
                           &set, error) &&
           intro_get_ptr(c->k, ep, M_ep_items, &root, error) &&
           intro_walk_rbtree(c->k, root, MAX_ITEMS, read_item, &set, error);
}

bool intro_record_epoll(struct intro_opened *o, GError **error)
{
    struct intro_ctx *c = o->c;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva ep = rd_ptr(&r, o->file, M_file_private);

    // Events that come in while the mutex is held go to another list.
    if (!rd_done(&r, error) ||
        !intro_check_mutex(c->k, intro_member_addr(c->k, ep, M_ep_mutex), "eventpoll", error) ||
        !intro_check_spinlock(c->k, intro_member_addr(c->k, ep, M_ep_lock), "eventpoll", error))
        return false;

    struct fmt_epoll *rec = intro_object_add(c, ep, FMT_EPOLL);
    rec->busy_poll_usecs = rd_opt(&r, ep, M_ep_busy_poll_usecs, 0);
    rec->busy_poll_budget = rd_opt(&r, ep, M_ep_busy_poll_budget, 0);
    rec->prefer_busy_poll = rd_opt(&r, ep, M_ep_prefer_busy_poll, 0);
    if (!rd_done(&r, error))
        return false;
    intro_later(c, read_items, ep, rec->rec.objref);
    o->rec->object = rec->rec.objref;
    return true;
}
