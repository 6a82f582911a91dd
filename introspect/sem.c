// SPDX-License-Identifier: GPL-2.0-or-later
// System V semaphores (struct sem_array): values, who changed them last, what is to be undone.
#include "introspect/ipc.h"

#define MAX_SEMS    32000 // SEMMSL of the kernel's own limits
#define MAX_WAITERS (1u << 20)

struct visitor {
    struct intro_ipc *ipc;
    uint64_t nsems;
    struct fmt_ipc *rec; // of the set, NULL while only users are wanted
};

static bool visit_waiter(struct gva node, void *user, GError **error)
{
    struct visitor *v = user;
    g_auto(IntroReader) r = INTRO_READER(v->ipc->c->k);
    struct gva queue = intro_container(r.k, node, M_sem_queue_list);

    intro_ipc_task(v->ipc, &r, rd_ptr(&r, queue, M_sem_queue_sleeper));
    return rd_done(&r, error);
}

static GBytes *read_adjustments(IntroReader *r, struct gva undo, uint64_t nsems)
{
    struct gva place = intro_member_addr(r->k, undo, M_sem_undo_adj);
    bool is_pointer = intro_place(r->k, M_sem_undo_adj)->size_bytes == 8 &&
                      intro_place(r->k, M_sem_undo_adj)->n_elements == 1;
    struct gva from = is_pointer ? rd_ptr_at(r, place) : place;
    g_autofree uint8_t *adjust = g_malloc0(nsems * 2);
    bool any = false;

    if (r->error || !intro_read(r->k, from, adjust, nsems * 2, &r->error))
        return NULL;
    for (uint64_t i = 0; i < nsems * 2; i++)
        any = any || adjust[i];
    return any ? g_bytes_new(adjust, nsems * 2) : NULL;
}

static bool visit_undo(struct gva node, void *user, GError **error)
{
    struct visitor *v = user;
    struct intro_ctx *c = v->ipc->c;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva undo = intro_container(c->k, node, M_sem_undo_list_id);
    struct gva list = rd_ptr(&r, undo, M_sem_undo_ulp);
    uint64_t task = list.addr ? intro_object_ref(c, list) : 0;

    if (!rd_done(&r, error))
        return false;
    if (!fmt_image_by_ref(c->img, task, FMT_TASK)) {
        // Whose it is cannot be told from here; the number of its process is not worth a search.
        v->ipc->others |= list.addr != 0;
        return true;
    }
    v->ipc->inside = true;
    if (!v->rec)
        return true;
    g_autoptr(GBytes) adjust = read_adjustments(&r, undo, v->nsems);
    if (adjust) {
        struct fmt_ipc_undo *rec = fmt_image_add(c->img, FMT_IPC_UNDO);
        rec->task = task;
        rec->ipc = v->rec->rec.objref;
        rec->adjust = g_steal_pointer(&adjust);
    }
    return rd_done(&r, error);
}

static bool read_nsems(struct intro_ipc *ipc, struct gva set, uint64_t *ret, GError **error)
{
    if (!intro_get(ipc->c->k, set, M_sem_nsems, ret, error))
        return false;
    if (*ret > 0 && *ret <= MAX_SEMS)
        return true;
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "sem_array at %#" G_GINT64_MODIFIER "x: %" G_GUINT64_FORMAT " semaphores", set.addr,
                *ret);
    return false;
}

static struct gva nth(struct intro_ipc *ipc, struct gva set, uint64_t i)
{
    struct gva sems = intro_member_addr(ipc->c->k, set, M_sem_sems);

    return GVA(sems.addr + i * intro_sizeof(ipc->c->k, T_sem));
}

static bool visit_list(struct visitor *v, struct gva object, enum intro_member list,
                       intro_node_fn fn, GError **error)
{
    return intro_walk_list(v->ipc->c->k, intro_member_addr(v->ipc->c->k, object, list), MAX_WAITERS,
                           fn, v, error);
}

static bool users(struct intro_ipc *ipc, struct gva set, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(ipc->c->k);
    struct visitor v = {.ipc = ipc};

    if (!read_nsems(ipc, set, &v.nsems, error) ||
        !visit_list(&v, set, M_sem_pending_alter, visit_waiter, error) ||
        !visit_list(&v, set, M_sem_pending_const, visit_waiter, error) ||
        !visit_list(&v, set, M_sem_list_id, visit_undo, error))
        return false;
    for (uint64_t i = 0; i < v.nsems; i++) {
        struct gva sem = nth(ipc, set, i);
        if (!intro_check_spinlock(ipc->c->k, intro_member_addr(ipc->c->k, sem, M_sem_lock), "sem",
                                  error) ||
            !visit_list(&v, sem, M_sem_one_alter, visit_waiter, error) ||
            !visit_list(&v, sem, M_sem_one_const, visit_waiter, error))
            return false;
        intro_ipc_pid(ipc, &r, rd_ptr(&r, sem, M_sem_pid));
    }
    return rd_done(&r, error);
}

static bool read_object(struct intro_ipc *ipc, struct gva set, struct fmt_ipc *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(ipc->c->k);
    struct visitor v = {.ipc = ipc, .rec = rec};

    if (!read_nsems(ipc, set, &v.nsems, error))
        return false;
    rec->size = v.nsems;
    rec->ctime_s = (int64_t)rd(&r, set, M_sem_ctime);
    g_autofree uint32_t *values = g_new0(uint32_t, 2 * v.nsems);
    for (uint64_t i = 0; i < v.nsems; i++) {
        struct gva sem = nth(ipc, set, i);
        int64_t otime = (int64_t)rd(&r, sem, M_sem_otime);
        values[2 * i] = GUINT32_TO_LE((uint32_t)rd(&r, sem, M_sem_val));
        values[2 * i + 1] =
            GUINT32_TO_LE((uint32_t)intro_ipc_pid(ipc, &r, rd_ptr(&r, sem, M_sem_pid)));
        rec->time1_s = MAX(rec->time1_s, otime);
    }
    rec->values = g_bytes_new(values, 8 * v.nsems);
    return rd_done(&r, error) && visit_list(&v, set, M_sem_list_id, visit_undo, error);
}

const struct intro_ipc_kind intro_ipc_sem = {
    .name = "System V semaphores",
    .perm = M_sem_perm,
    .users = users,
    .read = read_object,
};

/* ---- lists of changes to be undone ---- */

/*
 * Every thread of a program with threads has a list, which they share as a rule (CLONE_SYSVSEM):
 * the agent's do. A list of its own matters where there is something in it.
 */
bool intro_sem_undo(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva list = GVA(rd_opt(&r, task, M_task_sem_undo, 0));

    if (!list.addr || !intro_has(c->k, M_sem_undo_proc))
        return rd_done(&r, error);
    struct gva head = intro_member_addr(c->k, list, M_sem_undo_proc);
    bool empty = rd_u64_at(&r, head) == head.addr;
    const struct fmt_task *first = fmt_image_by_ref(c->img, intro_object_ref(c, list), FMT_TASK);
    struct gva leader = rd_ptr(&r, task, M_task_group_leader);
    uint64_t of_leader = rd_opt(&r, leader, M_task_sem_undo, 0);

    if (!rd_done(&r, error))
        return false;
    if (!first)
        g_hash_table_insert(c->objects, GSIZE_TO_POINTER(list.addr),
                            GSIZE_TO_POINTER(rec->rec.objref));
    if (!empty && (of_leader != list.addr || (first && first->proc != rec->proc)))
        intro_refuse(
            c, "sysv-undo",
            "shares its changes of semaphores to be undone (SEM_UNDO) with another process "
            "(CLONE_SYSVSEM), or does not share them with its threads");
    return true;
}
