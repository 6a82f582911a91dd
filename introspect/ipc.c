// SPDX-License-Identifier: GPL-2.0-or-later
// The objects of System V IPC that go along: which of the namespace's the tree alone uses.
#include "introspect/ipc.h"

#include <string.h>

/*
 *   users in the tree   users outside   what becomes of the object
 *   some                none            goes along; a move takes it away from the source
 *   some                some            refused: external-ipc
 *   none                some            stays
 *   none                none            goes along where its owner is a user of the tree, for a
 *                                       program may keep an id that it has not used yet, or that
 *                                       its parent used; it stays in the source as well
 */
#define MAX_OBJECTS  32768
#define PIDTYPE_TGID 1 // enum pid_type, include/linux/pid.h

// In the order of ipc_namespace.ids and of enum fmt_ipc_kind.
static const struct intro_ipc_kind *const kinds[] = {
    [FMT_IPC_SEM] = &intro_ipc_sem,
    [FMT_IPC_MSG] = &intro_ipc_msg,
    [FMT_IPC_SHM] = &intro_ipc_shm,
};

/* ---- users ---- */

uint64_t intro_ipc_pid(struct intro_ipc *ipc, IntroReader *r, struct gva pid)
{
    uint64_t nr = intro_pid_nr(r, pid, ipc->level);

    if (!pid.addr || r->error)
        return 0;
    if (g_hash_table_contains(ipc->tree, GSIZE_TO_POINTER(pid.addr)))
        ipc->inside = true;
    else if (rd_u64_at(
                 r, GVA(intro_member_addr(r->k, pid, M_pid_tgid_tasks).addr + 8 * PIDTYPE_TGID))) {
        ipc->others = true; // it lives
        ipc->outside = intro_pid_nr(r, pid, 0);
    }
    return nr;
}

void intro_ipc_task(struct intro_ipc *ipc, IntroReader *r, struct gva task)
{
    struct gva signal = rd_ptr(r, task, M_task_signal);
    struct gva pids = intro_member_addr(r->k, signal, M_signal_pids);

    if (!r->error)
        intro_ipc_pid(ipc, r, rd_ptr_at(r, GVA(pids.addr + 8 * PIDTYPE_TGID)));
}

static bool find_tree(struct intro_ipc *ipc, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(ipc->c->k);
    GHashTableIter iter;
    void *at, *ref;

    ipc->level = intro_pid_level(&r, ipc->c->root_task);
    g_hash_table_iter_init(&iter, ipc->c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        const struct fmt_cred *cred =
            fmt_image_by_ref(ipc->c->img, GPOINTER_TO_SIZE(ref), FMT_CRED);
        if (cred)
            g_hash_table_add(ipc->uids, GSIZE_TO_POINTER(cred->euid));
        if (!fmt_image_by_ref(ipc->c->img, GPOINTER_TO_SIZE(ref), FMT_PROC))
            continue;
        struct gva pids = intro_member_addr(r.k, GVA(GPOINTER_TO_SIZE(at)), M_signal_pids);
        struct gva pid = rd_ptr_at(&r, GVA(pids.addr + 8 * PIDTYPE_TGID));
        g_hash_table_add(ipc->tree, GSIZE_TO_POINTER(pid.addr));
    }
    return rd_done(&r, error);
}

/* ---- objects ---- */

static void read_perm(IntroReader *r, struct gva perm, struct fmt_ipc *rec)
{
    rec->id = rd(r, perm, M_ipc_perm_id);
    rec->key = rd(r, perm, M_ipc_perm_key) & UINT32_MAX;
    rec->mode = rd(r, perm, M_ipc_perm_mode);
    rec->uid = rd(r, perm, M_ipc_perm_uid);
    rec->gid = rd(r, perm, M_ipc_perm_gid);
    rec->cuid = rd(r, perm, M_ipc_perm_cuid);
    rec->cgid = rd(r, perm, M_ipc_perm_cgid);
}

// What has no living user may be meant for the tree where it is of the same people.
static bool is_of_our_people(const struct intro_ipc *ipc, const struct fmt_ipc *perm)
{
    return g_hash_table_contains(ipc->uids, GSIZE_TO_POINTER(perm->uid)) ||
           g_hash_table_contains(ipc->uids, GSIZE_TO_POINTER(perm->cuid));
}

static bool take_object(struct intro_ipc *ipc, const struct intro_ipc_kind *kind,
                        enum fmt_ipc_kind number, struct gva object, const struct fmt_ipc *perm,
                        GError **error)
{
    g_autofree char *who = NULL;

    ipc->inside = ipc->others = false;
    ipc->outside = 0;
    if (!kind->users(ipc, object, error))
        return false;
    if (ipc->inside ? false : ipc->others || !is_of_our_people(ipc, perm))
        return true;
    if (ipc->outside)
        who = g_strdup_printf("process %" G_GUINT64_FORMAT ", which is", ipc->outside);
    if (ipc->others)
        intro_refuse(ipc->c, "external-ipc",
                     "uses the %s %" G_GUINT64_FORMAT ", as does %s outside of the tree",
                     kind->name, perm->id, who ? who : "somebody");

    const bool owned = ipc->inside && !ipc->others;
    struct fmt_ipc *rec = intro_object_add(ipc->c, object, FMT_IPC);
    struct fmt_record head = rec->rec;
    *rec = *perm;
    rec->rec = head;
    rec->kind = number;
    rec->flags = owned ? FMT_IPC_OWNED : 0;
    return kind->read(ipc, object, rec, error);
}

struct walk {
    struct intro_ipc *ipc;
    enum fmt_ipc_kind kind;
};

static bool visit(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    const struct walk *w = user;
    IntroKernel *k = w->ipc->c->k;
    const struct intro_ipc_kind *kind = kinds[w->kind];
    struct gva object = intro_container(k, GVA(entry), kind->perm);
    struct gva perm = GVA(entry);
    g_auto(IntroReader) r = INTRO_READER(k);
    struct fmt_ipc rec = {0};

    if (entry & 1 || rd(&r, perm, M_ipc_perm_deleted))
        return rd_done(&r, error); // a place that is taken while the object is being made
    read_perm(&r, perm, &rec);
    if (!rd_done(&r, error) || !intro_check_spinlock(k, intro_member_addr(k, perm, M_ipc_perm_lock),
                                                     "kern_ipc_perm", error))
        return false;
    if (take_object(w->ipc, kind, w->kind, object, &rec, error))
        return true;
    g_prefix_error(error, "%s %" G_GUINT64_FORMAT ": ", kind->name, rec.id);
    return false;
}

static bool walk_namespace(struct intro_ipc *ipc, struct gva ns, GError **error)
{
    IntroKernel *k = ipc->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        struct gva ids = rd_elem(&r, ns, M_ipc_ns_ids, i, intro_sizeof(k, T_ipc_ids));
        struct walk w = {ipc, i};
        if (!intro_check_rwsem_write(k, intro_member_addr(k, ids, M_ipc_ids_lock), "ipc_ids",
                                     error) ||
            !intro_walk_xarray(k, intro_member_addr(k, ids, M_ipc_ids_idr), 0, UINT32_MAX, visit,
                               &w, error))
            return false;
    }
    return true;
}

// A segment that is attached, but of another namespace than the root's.
static void check_segments(struct intro_ctx *c)
{
    const struct fmt_shm *shm;
    const struct fmt_ipc *ipc;

    for (size_t i = 0; FMT_NEXT(c->img, SHM, i, shm); i++) {
        bool found = shm->kind != FMT_SHM_SYSV;
        for (size_t j = 0; !found && FMT_NEXT(c->img, IPC, j, ipc); j++)
            found = ipc->shm == shm->rec.objref;
        if (!found)
            intro_refuse(c, "sysv-shm",
                         "uses the System V shared memory %s of another IPC namespace", shm->name);
    }
}

bool intro_ipc(struct intro_ctx *c, GError **error)
{
    g_autoptr(GHashTable) tree = g_hash_table_new(NULL, NULL), uids = g_hash_table_new(NULL, NULL);
    struct intro_ipc ipc = {.c = c, .tree = tree, .uids = uids};
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva nsproxy = rd_ptr(&r, c->root_task, M_task_nsproxy);
    struct gva ns = nsproxy.addr ? rd_ptr(&r, nsproxy, M_nsproxy_ipc_ns) : GVA(0);

    if (!rd_done(&r, error))
        return false;
    if (!intro_has(c->k, M_sem_perm) || !ns.addr) // without CONFIG_SYSVIPC
        return true;
    c->fd = -1;
    if (!find_tree(&ipc, error) || !walk_namespace(&ipc, ns, error)) {
        g_prefix_error(error, "System V IPC: ");
        return false;
    }
    check_segments(c);
    return true;
}
