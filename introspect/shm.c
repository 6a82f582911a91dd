// SPDX-License-Identifier: GPL-2.0-or-later
// Memory that several mappings share and no path leads to: shared anonymous memory and memfds.
#include "introspect/fd.h"
#include "introspect/process.h"
#include "introspect/reader.h"

#include <fcntl.h>
#include <string.h>

/*
 * All of it is files on the kernel's own mounts of tmpfs (mm/shmem.c) and hugetlbfs, told apart by
 * the names the kernel gives them: "dev/zero" for mmap(MAP_SHARED | MAP_ANONYMOUS), "anon_hugepage"
 * for mmap(MAP_HUGETLB), which has such a file when it is private as well, "memfd:NAME", "SYSVkey",
 * and those of graphics drivers.
 */

#define KERNEL_SB_KERNMOUNT (1u << 22) // include/linux/fs.h: mounted by the kernel for itself

#define MAX_MAPPINGS (1u << 20)

static const struct {
    const char *prefix; // of the name
    enum fmt_shm_kind kind;
    const char *refusal, *what;
} kinds[] = {
    {"dev/zero", FMT_SHM_ANON, NULL, NULL},
    {"anon_hugepage", FMT_SHM_ANON, NULL, NULL},
    {"memfd:", FMT_SHM_MEMFD, NULL, NULL},
    {"SYSV", FMT_SHM_SYSV, NULL, NULL}, // intro_ipc() has more to say of it
    {"", FMT_SHM_ANON, "kernel-memory", "memory of a driver"},
};

bool intro_is_shm(struct intro_ctx *c, struct gva inode, bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva sb = rd_ptr(&r, inode, M_inode_sb);
    struct gva name = rd_ptr(&r, rd_ptr(&r, sb, M_sb_type), M_fstype_name);
    uint64_t flags = rd(&r, sb, M_sb_flags);

    if (!rd_done(&r, error))
        return false;
    g_autofree char *fstype = intro_read_str(c->k, name, 64, error);
    if (!fstype)
        return false;
    *ret = flags & KERNEL_SB_KERNMOUNT &&
           (strcmp(fstype, "tmpfs") == 0 || strcmp(fstype, "hugetlbfs") == 0);
    return true;
}

// The name of the only dentry that such an inode has.
static char *inode_name(IntroKernel *k, struct gva inode, GError **error)
{
    struct gva alias;

    if (!intro_get_ptr(k, inode, M_inode_dentry, &alias, error))
        return NULL;
    if (!alias.addr) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "inode at %#" G_GINT64_MODIFIER "x: shared memory without a dentry",
                    inode.addr);
        return NULL;
    }
    return intro_dentry_name(k, intro_container(k, alias, M_dentry_alias), error);
}

static bool is_hugetlb(struct intro_ctx *c, struct gva inode, bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva sb = rd_ptr(&r, inode, M_inode_sb);
    struct gva name = rd_ptr(&r, rd_ptr(&r, sb, M_sb_type), M_fstype_name);

    if (!rd_done(&r, error))
        return false;
    g_autofree char *fstype = intro_read_str(c->k, name, 64, error);
    *ret = g_strcmp0(fstype, "hugetlbfs") == 0;
    return fstype != NULL;
}

static bool read_shm(struct intro_ctx *c, struct gva inode, const char *name, struct fmt_shm *rec,
                     GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    bool huge;
    size_t i = 0;

    if (!is_hugetlb(c, inode, &huge, error))
        return false;
    rec->size_bytes = rd(&r, inode, M_inode_size);
    rec->mode = rd(&r, inode, M_inode_mode) & 07777;
    rec->uid = rd(&r, inode, M_inode_uid);
    rec->gid = rd(&r, inode, M_inode_gid);
    uint64_t seals =
        huge ? rd(&r, intro_container(c->k, inode, M_hugetlbfs_inode), M_hugetlbfs_seals)
             : rd(&r, intro_container(c->k, inode, M_shmem_inode), M_shmem_seals);
    uint64_t block_bits = rd(&r, inode, M_inode_blkbits);
    const int64_t atime_ns = rd_time_ns(&r, inode, M_inode_atime_sec, M_inode_atime_nsec);
    const int64_t mtime_ns = rd_time_ns(&r, inode, M_inode_mtime_sec, M_inode_mtime_nsec);
    if (!rd_done(&r, error))
        return false;
    if (huge) {
        rec->flags |= FMT_SHM_HUGETLB;
        rec->huge_page_bytes = UINT64_C(1) << (block_bits & 63);
    }

    while (!g_str_has_prefix(name, kinds[i].prefix))
        i++;
    rec->kind = kinds[i].kind;
    if (kinds[i].refusal)
        intro_refuse(c, kinds[i].refusal, "uses %s (%s)", kinds[i].what, name);
    if (rec->kind == FMT_SHM_MEMFD) {
        rec->name = g_strdup(name + strlen(kinds[i].prefix));
        rec->seals = seals;
        rec->atime_ns = atime_ns;
        rec->mtime_ns = mtime_ns;
        if (!huge && !intro_pagecache_reserved(c->k, inode, &rec->reserved, error))
            return false;
        if (seals & 0x20 /* F_SEAL_EXEC */ && !(rec->mode & 0111))
            rec->flags |= FMT_SHM_NOEXEC_SEAL;
    } else if (rec->kind == FMT_SHM_SYSV) {
        rec->name = g_strdup(name);
    }
    return intro_pagecache(c, inode, rec->rec.objref, 0, rec->size_bytes, FMT_PAGES_DATA, error);
}

uint64_t intro_shm(struct intro_ctx *c, struct gva inode, GError **error)
{
    uint64_t known = intro_object_ref(c, inode);

    if (known)
        return known;
    g_autofree char *name = inode_name(c->k, inode, error);
    if (!name)
        return 0;
    struct fmt_shm *rec = intro_object_add(c, inode, FMT_SHM);
    return read_shm(c, inode, name, rec, error) ? rec->rec.objref : 0;
}

/* ---- who else ---- */

#define VM_MAYSHARE 0x80 // include/linux/mm.h

struct sharers {
    struct intro_ctx *c;
    const struct fmt_shm *shm;
    struct gva outside; // an mm_struct that is not of the tree
};

static bool note_sharer(struct gva node, void *user, GError **error)
{
    struct sharers *s = user;
    g_auto(IntroReader) r = INTRO_READER(s->c->k);
    struct gva vma = intro_container(s->c->k, node, M_vma_shared_rb);
    struct gva mm = rd_ptr(&r, vma, M_vma_mm);
    // Private huge pages have a file that forks inherit, and never look at.
    bool looks = s->shm->kind != FMT_SHM_ANON || rd(&r, vma, M_vma_flags) & VM_MAYSHARE;

    if (!rd_done(&r, error))
        return false;
    if (looks && !intro_object_ref(s->c, mm))
        s->outside = mm;
    return true;
}

// A phrase for people; never fails, because the refusal counts more than the name in it.
static char *name_mm(struct intro_ctx *c, struct gva mm)
{
    g_autoptr(GPtrArray) processes = intro_list_processes(c->k, false, NULL);

    for (guint i = 0; processes && i < processes->len; i++) {
        const struct intro_process *p = processes->pdata[i];
        struct gva of_task;
        if (intro_get_ptr(c->k, p->task, M_task_mm, &of_task, NULL) && of_task.addr == mm.addr)
            return g_strdup_printf("process %u (%s)", p->pid, p->comm);
    }
    return g_strdup("a process that was not found");
}

static bool check_mappings(struct intro_ctx *c, struct gva inode, const struct fmt_shm *shm,
                           GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct sharers s = {.c = c, .shm = shm};
    struct gva mapping = rd_ptr(&r, inode, M_inode_mapping);
    struct gva top = rd_ptr(&r, mapping, M_mapping_mmap);

    if (!rd_done(&r, error) ||
        !intro_check_rwsem_write(c->k, intro_member_addr(c->k, mapping, M_mapping_mmap_lock),
                                 "address_space", error) ||
        !intro_walk_rbtree(c->k, top, MAX_MAPPINGS, note_sharer, &s, error))
        return false;
    if (s.outside.addr) {
        g_autofree char *who = name_mm(c, s.outside);
        intro_refuse(c, "external-memory",
                     "shares memory (%s) with %s, which is outside of the tree",
                     shm->name ? shm->name : "anonymous", who);
    }
    return true;
}

static bool check_peers(struct intro_ctx *c, GError **error)
{
    g_autoptr(GHashTable) holders = NULL; // made for the first memfd
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        const struct fmt_shm *shm = fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), FMT_SHM);
        if (!shm)
            continue;
        intro_blame_holder(c, shm->rec.objref);
        if (!check_mappings(c, GVA(GPOINTER_TO_SIZE(at)), shm, error))
            return false;
        if (shm->kind != FMT_SHM_MEMFD)
            continue;
        if (!holders && !(holders = intro_outside_holders(c, error)))
            return false;
        const char *holder = g_hash_table_lookup(holders, at);
        if (holder)
            intro_refuse(c, "external-memory",
                         "shares the memfd %s with %s, which is outside of the tree", shm->name,
                         holder);
    }
    return true;
}

bool intro_shm_check_peers(struct intro_ctx *c, GError **error)
{
    bool ok = check_peers(c, error);

    c->fd = -1;
    return ok;
}
