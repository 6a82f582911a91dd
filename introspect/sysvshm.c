// SPDX-License-Identifier: GPL-2.0-or-later
// System V shared memory (struct shmid_kernel): the segment; its memory is a SHM (shm.c).
#include "introspect/ipc.h"

#define SHM_DEST   01000 // include/linux/shm.h: to go with the last attachment
#define SHM_LOCKED 02000

#define VM_NORESERVE 0x00200000ull

static bool find_inode(struct intro_ipc *ipc, struct gva segment, struct gva *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(ipc->c->k);

    *ret = rd_ptr(&r, rd_ptr(&r, segment, M_shm_file), M_file_inode);
    return rd_done(&r, error);
}

// Of what the tree has attached, intro_shm_check_peers() looks for others.
static bool users(struct intro_ipc *ipc, struct gva segment, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(ipc->c->k);
    struct gva inode;

    if (!find_inode(ipc, segment, &inode, error))
        return false;
    if (intro_object_ref(ipc->c, inode)) {
        ipc->inside = true;
        return true;
    }
    intro_ipc_pid(ipc, &r, rd_ptr(&r, segment, M_shm_cprid));
    intro_ipc_pid(ipc, &r, rd_ptr(&r, segment, M_shm_lprid));
    if (rd(&r, segment, M_shm_nattch))
        ipc->others = true;
    return rd_done(&r, error);
}

static bool read_object(struct intro_ipc *ipc, struct gva segment, struct fmt_ipc *rec,
                        GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(ipc->c->k);
    struct gva inode;
    bool is_shm;

    if (!find_inode(ipc, segment, &inode, error) || !intro_is_shm(ipc->c, inode, &is_shm, error))
        return false;
    rec->size = rd(&r, segment, M_shm_segsz);
    rec->pid1 = intro_ipc_pid(ipc, &r, rd_ptr(&r, segment, M_shm_cprid));
    rec->pid2 = intro_ipc_pid(ipc, &r, rd_ptr(&r, segment, M_shm_lprid));
    rec->time1_s = (int64_t)rd(&r, segment, M_shm_atime);
    rec->time2_s = (int64_t)rd(&r, segment, M_shm_dtime);
    rec->ctime_s = (int64_t)rd(&r, segment, M_shm_ctime);
    rec->flags |= rec->mode & SHM_DEST ? FMT_IPC_REMOVED : 0;
    rec->flags |= rec->mode & SHM_LOCKED ? FMT_IPC_LOCKED : 0;
    rec->mode &= 0777;
    if (!is_shm) {
        intro_refuse(ipc->c, "hugetlb",
                     "uses the System V shared memory %" G_GUINT64_FORMAT
                     ", which has huge pages (SHM_HUGETLB)",
                     rec->id);
        return rd_done(&r, error);
    }
    if (!rd_done(&r, error) || !(rec->shm = intro_shm(ipc->c, inode, error)))
        return false;
    const struct fmt_shm *shm = fmt_image_by_ref(ipc->c->img, rec->shm, FMT_SHM);
    struct gva info = intro_container(ipc->c->k, inode, M_shmem_inode);
    if (!(shm->flags & FMT_SHM_HUGETLB)) // that is no shmem_inode_info
        rec->flags |= rd_opt(&r, info, M_shmem_flags, 0) & VM_NORESERVE ? FMT_IPC_NORESERVE : 0;
    return rd_done(&r, error);
}

const struct intro_ipc_kind intro_ipc_shm = {
    .name = "System V shared memory",
    .perm = M_shm_perm,
    .users = users,
    .read = read_object,
};
