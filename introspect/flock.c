// SPDX-License-Identifier: GPL-2.0-or-later
// File locks: flock, fcntl (POSIX), open file description locks, leases; and who waits for them.
#include "introspect/flock.h"

#include "introspect/fd.h"
#include "introspect/reader.h"

#include <fcntl.h>

/*
 * All locks on a file, of all processes, hang on its inode in three lists (fs/locks.c). A lock is
 * the tree's where its owner is: the struct file for flock, open file description locks and leases,
 * the files_struct for those of fcntl. Whoever waits hangs below the lock that he waits for: a
 * waiter of the tree enters his call again and finds the lock held, so it must be a lock of the
 * tree that he waits for.
 *
 * A struct file_lock or file_lease begins with a struct file_lock_core since 6.9; before, all of it
 * was struct file_lock.
 */

// include/linux/filelock.h, these values since 5.1 at least.
#define KERNEL_FL_DELEG             0x004
#define KERNEL_FL_DOWNGRADE_PENDING 0x100
#define KERNEL_FL_UNLOCK_PENDING    0x200
#define KERNEL_FL_OFDLCK            0x400
#define KERNEL_FL_LAYOUT            0x800
#define KERNEL_F_UNLCK              2

#define MAX_LOCKS      (1u << 20)
#define MAX_WAIT_DEPTH 64

// One inode.
struct lock_walk {
    struct intro_ctx *c;
    enum fmt_lock_kind kind; // of the list; FMT_LOCK_POSIX stands for FMT_LOCK_OFD as well
    uint64_t file;           // a FILE of the tree with this inode, for messages
    unsigned depth;
};

static const struct {
    enum intro_member list;
    enum fmt_lock_kind kind;
} lists[] = {
    {M_flctx_flock, FMT_LOCK_FLOCK},
    {M_flctx_posix, FMT_LOCK_POSIX},
    {M_flctx_lease, FMT_LOCK_LEASE},
};

static const char *path_of(const struct lock_walk *w)
{
    const struct fmt_file *file = fmt_image_by_ref(w->c->img, w->file, FMT_FILE);

    return file && file->path ? file->path : "a file";
}

static void read_range(IntroReader *r, struct gva core, struct fmt_lock *rec)
{
    struct gva lock =
        intro_has(r->k, M_lock_core) ? intro_container(r->k, core, M_lock_core) : core;

    rec->start = rd(r, lock, M_lock_start);
    rec->end = rd(r, lock, M_lock_end);
}

// The descriptor that si_fd tells when somebody wants the file.
static void read_lease(IntroReader *r, struct gva core, struct fmt_lock *rec)
{
    struct gva lease =
        intro_has(r->k, M_lease_core) ? intro_container(r->k, core, M_lease_core) : core;
    struct gva fasync = rd_ptr(r, lease, M_lease_fasync);

    rec->fd = fasync.addr ? rd(r, fasync, M_fasync_fd) : 0;
}

static bool record_lock(struct lock_walk *w, struct gva core, uint64_t file, uint64_t files,
                        uint64_t flags, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(w->c->k);
    struct fmt_lock *rec = fmt_image_add(w->c->img, FMT_LOCK);

    rec->file = file;
    rec->files = files;
    rec->kind = flags & KERNEL_FL_OFDLCK ? FMT_LOCK_OFD : w->kind;
    rec->type = rd(&r, core, M_lock_type);
    rec->pid = rd(&r, core, M_lock_pid) & UINT32_MAX;
    if (w->kind == FMT_LOCK_POSIX)
        read_range(&r, core, rec);
    else if (w->kind == FMT_LOCK_LEASE)
        read_lease(&r, core, rec);
    if (!rd_done(&r, error))
        return false;
    intro_blame_holder(w->c, file);
    if (flags & (KERNEL_FL_DOWNGRADE_PENDING | KERNEL_FL_UNLOCK_PENDING))
        intro_refuse(w->c, "lease", "is just being asked to give its lease of %s up", path_of(w));
    else if (flags & (KERNEL_FL_DELEG | KERNEL_FL_LAYOUT) || rec->type >= KERNEL_F_UNLCK)
        intro_refuse(w->c, "file-lock", "has an unusual lock on %s", path_of(w));
    return true;
}

static bool check_waiters(struct lock_walk *w, struct gva core, GError **error);

static bool check_waiter(struct gva node, void *user, GError **error)
{
    struct lock_walk *w = user;
    struct gva core = intro_container(w->c->k, node, M_lock_blocked_member), file;

    if (!intro_get_ptr(w->c->k, core, M_flock_file, &file, error))
        return false;
    uint64_t ref = intro_object_ref(w->c, file);
    if (ref) {
        intro_blame_holder(w->c, ref);
        intro_refuse(w->c, "external-lock",
                     "waits for a lock of %s that a process outside of the tree holds", path_of(w));
    }
    return check_waiters(w, core, error);
}

static bool check_waiters(struct lock_walk *w, struct gva core, GError **error)
{
    if (++w->depth > MAX_WAIT_DEPTH) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "file_lock at %#" G_GINT64_MODIFIER "x: waiters for waiters do not end",
                    core.addr);
        return false;
    }
    bool ok = intro_walk_list(w->c->k, intro_member_addr(w->c->k, core, M_lock_blocked_requests),
                              MAX_LOCKS, check_waiter, w, error);
    w->depth--;
    return ok;
}

static bool read_lock(struct gva node, void *user, GError **error)
{
    struct lock_walk *w = user;
    struct gva core = intro_container(w->c->k, node, M_flock_list);
    g_auto(IntroReader) r = INTRO_READER(w->c->k);
    struct gva file = rd_ptr(&r, core, M_flock_file), owner = rd_ptr(&r, core, M_lock_owner);
    uint64_t flags = rd(&r, core, M_lock_flags);
    bool by_process = w->kind == FMT_LOCK_POSIX && !(flags & KERNEL_FL_OFDLCK);

    if (!rd_done(&r, error))
        return false;
    uint64_t file_ref = intro_object_ref(w->c, file);
    uint64_t files_ref = by_process ? intro_object_ref(w->c, owner) : 0;
    if (!file_ref || !fmt_image_by_ref(w->c->img, file_ref, FMT_FILE) ||
        (by_process && !fmt_image_by_ref(w->c->img, files_ref, FMT_FILES)))
        return check_waiters(w, core, error);
    return record_lock(w, core, file_ref, files_ref, flags, error);
}

static bool read_inode(struct intro_ctx *c, struct gva inode, uint64_t file, GError **error)
{
    struct gva flctx;

    if (!intro_get_ptr(c->k, inode, M_inode_flctx, &flctx, error))
        return false;
    if (!flctx.addr)
        return true;
    if (!intro_check_spinlock(c->k, intro_member_addr(c->k, flctx, M_flctx_lock),
                              "file_lock_context", error))
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++) {
        struct lock_walk w = {.c = c, .kind = lists[i].kind, .file = file};
        if (!intro_walk_list(c->k, intro_member_addr(c->k, flctx, lists[i].list), MAX_LOCKS,
                             read_lock, &w, error))
            return false;
    }
    return true;
}

// Records that are added meanwhile are no objects with an address.
static bool read_all(struct intro_ctx *c, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        struct gva inode;
        if (!fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), FMT_FILE))
            continue;
        if (!intro_get_ptr(c->k, GVA(GPOINTER_TO_SIZE(at)), M_file_inode, &inode, error))
            return false;
        if (g_hash_table_add(seen, GSIZE_TO_POINTER(inode.addr)) &&
            !read_inode(c, inode, GPOINTER_TO_SIZE(ref), error))
            return false;
    }
    return true;
}

bool intro_locks(struct intro_ctx *c, GError **error)
{
    bool ok = read_all(c, error);

    c->fd = -1;
    return ok;
}
