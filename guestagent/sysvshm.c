// SPDX-License-Identifier: GPL-2.0-or-later
// System V shared memory: segments, and the mappings that attach them.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/ipc.h"

static const struct fmt_ipc *find(AgentRestore *r, uint64_t shm)
{
    const struct fmt_ipc *rec;

    for (size_t i = 0; FMT_NEXT(r->img, IPC, i, rec); i++)
        if (rec->kind == FMT_IPC_SHM && rec->shm == shm)
            return rec;
    return NULL;
}

// What an attachment takes: whole pages, huge ones where the segment has them.
static uint64_t whole_bytes(AgentRestore *r, const struct fmt_ipc *rec)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, rec->shm, FMT_SHM);
    const uint64_t page = shm && shm->flags & FMT_SHM_HUGETLB ? shm->huge_page_bytes : 4096;

    return (rec->size + page - 1) & ~(page - 1);
}

static void plan(AgentRestore *r, const struct fmt_ipc *rec)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, rec->shm, FMT_SHM);
    const struct fmt_vma *vma;

    if (!shm || shm->kind != FMT_SHM_SYSV || rec->size == 0 || find(r, rec->shm) != rec)
        agent_refuse(r, "ipc", 0, -1, "shared memory %" G_GUINT64_FORMAT " is not well formed",
                     rec->id);
    for (size_t i = 0; FMT_NEXT(r->img, VMA, i, vma); i++)
        if (vma->kind == FMT_VMA_SHM && vma->object == rec->shm &&
            (vma->offset_bytes > whole_bytes(r, rec) ||
             vma->end - vma->start > whole_bytes(r, rec) - vma->offset_bytes))
            agent_refuse(r, "vma", 0, -1,
                         "shared memory %" G_GUINT64_FORMAT " is mapped at %" G_GINT64_MODIFIER
                         "x past its end",
                         rec->id, vma->start);
}

static bool make(AgentRestore *r, const struct agent_tracee *as, const struct fmt_ipc *rec,
                 uint64_t key, int64_t *ret, GError **error)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, rec->shm, FMT_SHM);
    const uint64_t flags = IPC_CREAT | IPC_EXCL | 0600 |
                           (rec->flags & FMT_IPC_NORESERVE ? SHM_NORESERVE : 0) |
                           (shm->flags & FMT_SHM_HUGETLB ? SHM_HUGETLB | agent_huge_bits(shm) : 0);
    const uint64_t args[6] = {key, rec->size, flags};

    return agent_remote_raw(as, SYS_shmget, args, ret, error);
}

/* ---- what the agent itself holds ---- */

// A segment that is to go with its last attachment needs one from now on.
bool agent_ipc_shm_hold(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    void *at = shmat((int)rec->id, NULL, 0);

    if (at == (void *)-1)
        return agent_fail_errno(error, "shmat");
    g_hash_table_insert(r->objects, (void *)&rec->rec.objref, g_memdup2(&at, sizeof at));
    return shmctl((int)rec->id, IPC_RMID, NULL) == 0 || agent_fail_errno(error, "IPC_RMID");
}

void agent_ipc_shm_forget(AgentRestore *r, const struct fmt_ipc *rec)
{
    void **at = g_hash_table_lookup(r->objects, &rec->rec.objref);

    if (at)
        shmdt(*at);
    g_hash_table_remove(r->objects, &rec->rec.objref);
}

static int open_mapping(pid_t tid, uint64_t start, uint64_t end)
{
    g_autofree char *path = g_strdup_printf(
        "/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", tid, start, end);

    return open(path, O_RDWR | O_CLOEXEC);
}

bool agent_ipc_shm_is_left(AgentRestore *r, uint64_t shm)
{
    const struct fmt_ipc *rec = find(r, shm);

    return rec && agent_ipc_is_left(r, rec);
}

// By the mapping of a process where there is one: attaching and detaching leaves traces.
int agent_ipc_shm_open(AgentRestore *r, uint64_t shm)
{
    const struct fmt_ipc *rec = find(r, shm);

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; p->rec->state != FMT_PROC_ZOMBIE && j < p->vmas->len; j++) {
            const struct fmt_vma *vma = g_ptr_array_index(p->vmas, j);

            if (vma->kind == FMT_VMA_SHM && vma->object == shm)
                return open_mapping(agent_leader(p)->tracee.tid, vma->start, vma->end);
        }
    }
    void *at = shmat((int)rec->id, NULL, 0);

    if (at == (void *)-1)
        return -1;
    const uint64_t start = (uintptr_t)at;
    const int fd = open_mapping(getpid(), start, start + whole_bytes(r, rec));
    const int saved = errno;

    shmdt(at);
    errno = saved;
    return fd;
}

/* ---- attachments ---- */

static bool of_same_attachment(const struct fmt_vma *a, const struct fmt_vma *b)
{
    return b->kind == FMT_VMA_SHM && a->object == b->object &&
           a->start - a->offset_bytes == b->start - b->offset_bytes;
}

static bool protect(const struct agent_tracee *t, const struct fmt_vma *vma, GError **error)
{
    const uint64_t attached = vma->flags & FMT_VMA_MAYWRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    const uint64_t prot = (vma->flags & FMT_VMA_READ ? PROT_READ : 0) |
                          (vma->flags & FMT_VMA_WRITE ? PROT_WRITE : 0) |
                          (vma->flags & FMT_VMA_EXEC ? PROT_EXEC : 0);

    return prot == attached || agent_remote(t, "mprotect", SYS_mprotect, NULL, error, vma->start,
                                            vma->end - vma->start, prot);
}

// Attached somewhere as a whole; what is mapped in the image goes to its place, the rest away. They
// stay one attachment: shmdt() takes all of it.
static bool attach_pieces(AgentProc *p, const struct fmt_vma *first, const struct fmt_ipc *rec,
                          uint64_t flags, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const uint64_t whole = whole_bytes(p->r, rec);
    uint64_t done = 0; // bytes of the segment that are at their place, or gone
    int64_t at;

    if (!agent_remote(t, "shmat", SYS_shmat, &at, error, rec->id, 0, flags))
        return false;
    for (guint i = 0; i < p->vmas->len; i++) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);
        const uint64_t bytes = vma->end - vma->start;

        if (!of_same_attachment(first, vma))
            continue;
        if (vma->offset_bytes > done &&
            !agent_remote(t, "munmap", SYS_munmap, NULL, error, (uint64_t)at + done,
                          vma->offset_bytes - done))
            return false;
        if (!agent_remote(t, "mremap", SYS_mremap, NULL, error, (uint64_t)at + vma->offset_bytes,
                          bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, vma->start) ||
            !protect(t, vma, error))
            return false;
        done = vma->offset_bytes + bytes;
    }
    return done >= whole ||
           agent_remote(t, "munmap", SYS_munmap, NULL, error, (uint64_t)at + done, whole - done);
}

bool agent_ipc_attach(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const struct fmt_ipc *rec = find(p->r, vma->object);
    const uint64_t flags = vma->flags & FMT_VMA_MAYWRITE ? 0 : SHM_RDONLY;

    for (guint i = 0; i < p->vmas->len; i++) {
        const struct fmt_vma *other = g_ptr_array_index(p->vmas, i);

        if (other == vma)
            break;
        if (of_same_attachment(vma, other))
            return true; // came with that one
    }
    if (vma->offset_bytes == 0 && vma->end - vma->start == whole_bytes(p->r, rec))
        return agent_remote(t, "shmat", SYS_shmat, NULL, error, rec->id, vma->start, flags) &&
               protect(t, vma, error);
    return attach_pieces(p, vma, rec, flags, error);
}

bool agent_ipc_is_segment(AgentRestore *r, const struct fmt_vma *vma)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, vma->object, FMT_SHM);

    return vma->kind == FMT_VMA_SHM && shm && shm->kind == FMT_SHM_SYSV;
}

/* ---- fill ---- */

// Who attached or detached last.
static bool set_last(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    const struct agent_tracee *as;
    struct shmid_ds ds;
    int64_t at;

    if (rec->pid2 == 0)
        return true;
    if (!(as = agent_ipc_as(r, rec->pid2, error)))
        return false;
    if (shmctl((int)rec->id, IPC_STAT, &ds) == 0 && ds.shm_lpid == as->tid)
        return true;
    return agent_remote(as, "shmat", SYS_shmat, &at, error, rec->id, 0, SHM_RDONLY) &&
           agent_remote(as, "shmdt", SYS_shmdt, NULL, error, (uint64_t)at);
}

static bool fill(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    const bool own = rec->flags & FMT_IPC_LOCKED;
    struct shmid_ds ds = {0};

    agent_ipc_perm(rec, &ds.shm_perm);
    if (shmctl((int)rec->id, IPC_SET, &ds) < 0)
        return agent_fail_errno(error, "permissions");
    if (own && shmctl((int)rec->id, SHM_LOCK, NULL) < 0)
        return agent_fail_errno(error, "SHM_LOCK");
    agent_ipc_shm_forget(r, rec);
    return set_last(r, rec, error);
}

static int remove_segment(int id)
{
    return shmctl(id, IPC_RMID, NULL);
}

const struct agent_ipc_kind agent_ipc_shm = {
    .name = "System V shared memory",
    .list = "/proc/sysvipc/shm",
    .next_id = "/proc/sys/kernel/shm_next_id",
    .plan = plan,
    .make = make,
    .fill = fill,
    .remove = remove_segment,
};
