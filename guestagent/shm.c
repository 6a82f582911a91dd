// SPDX-License-Identifier: GPL-2.0-or-later
// Memory that several mappings share and no path leads to: shared anonymous mappings and memfds.

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guestagent/engine.h"

void agent_shm_plan(AgentRestore *r)
{
    const struct fmt_shm *shm;

    for (size_t i = 0; FMT_NEXT(r->img, SHM, i, shm); i++) {
        if (shm->flags & FMT_SHM_HUGETLB)
            agent_refuse(r, "hugetlb", 0, -1, "shared memory %s uses hugetlb pages",
                         shm->name ? shm->name : "");
    }
}

// The object behind a shared anonymous mapping is reached through /proc/self/map_files, so that the
// processes map what the kernel makes for mmap(MAP_SHARED | MAP_ANONYMOUS) itself.
static int anonymous(const struct fmt_shm *shm)
{
    void *at =
        mmap(NULL, shm->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd, saved;

    if (at == MAP_FAILED)
        return -1;
    const uint64_t start = (uintptr_t)at, end = start + ((shm->size_bytes + 4095) & ~4095ull);
    g_autofree char *path = g_strdup_printf(
        "/proc/self/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", start, end);

    fd = open(path, O_RDWR | O_CLOEXEC);
    saved = errno;
    munmap(at, shm->size_bytes);
    errno = saved;
    return fd;
}

static int memfd(const struct fmt_shm *shm)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    const char *name = shm->name ? shm->name : "";
    int fd;

    if (g_str_has_prefix(name, "memfd:"))
        name += strlen("memfd:");
#ifdef MFD_NOEXEC_SEAL
    if (shm->flags & FMT_SHM_NOEXEC_SEAL)
        flags |= MFD_NOEXEC_SEAL;
#endif
    fd = memfd_create(name, flags);
    if (fd >= 0 && (ftruncate(fd, (off_t)shm->size_bytes) < 0 ||
                    (shm->mode && fchmod(fd, shm->mode & 07777) < 0) ||
                    fchown(fd, (uid_t)shm->uid, (gid_t)shm->gid) < 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

// Made when first asked for.
int agent_shm_fd(AgentRestore *r, uint64_t objref, GError **error)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, objref, FMT_SHM);
    const int *known = g_hash_table_lookup(r->objects, &objref);

    if (known)
        return *known;
    if (!shm) {
        agent_fail(error, "the image has no shared memory %" G_GUINT64_FORMAT, objref);
        return -1;
    }
    const int fd = agent_fd_up(r,
                               shm->kind == FMT_SHM_MEMFD  ? memfd(shm)
                               : shm->kind == FMT_SHM_SYSV ? agent_ipc_shm_open(r, objref)
                                                           : anonymous(shm),
                               error);

    if (fd < 0) {
        g_prefix_error(error, "shared memory: ");
        return -1;
    }
    g_hash_table_insert(r->objects, (void *)&shm->rec.objref, g_memdup2(&fd, sizeof fd));
    return fd;
}

bool agent_shm_open(AgentRestore *r, GError **error)
{
    const struct fmt_shm *shm;

    for (size_t i = 0; FMT_NEXT(r->img, SHM, i, shm); i++) {
        // Segments are made with the processes there (ipc.c).
        if (shm->kind != FMT_SHM_SYSV && agent_shm_fd(r, shm->rec.objref, error) < 0)
            return false;
    }
    return true;
}

bool agent_shm_seal(AgentRestore *r, GError **error)
{
    const struct fmt_shm *shm;

    for (size_t i = 0; FMT_NEXT(r->img, SHM, i, shm); i++) {
        const int *fd = g_hash_table_lookup(r->objects, &shm->rec.objref);
        uint64_t seals = shm->seals;

        if (!fd || shm->kind != FMT_SHM_MEMFD)
            continue;
        // A memfd made without MFD_ALLOW_SEALING carries this seal from birth.
        if (seals && fcntl(*fd, F_ADD_SEALS, (int)seals) < 0)
            return agent_fail_errno(error, "seals of memfd %s", shm->name);
    }
    return true;
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    uint64_t pid;
    int64_t fd;

    agent_file_user(r, f->rec.objref, &pid, &fd);
    if (!fmt_image_by_ref(r->img, f->object, FMT_SHM))
        agent_refuse(r, "memfd", pid, fd, "the image lacks the memory of a memfd");
}

static int open_memfd(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    static const int access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    const int shm = agent_shm_fd(r, f->object, error);
    int fd;

    if (shm < 0)
        return -1;
    fd = agent_reopen(
        r, shm, access[f->mode & 3] | (f->flags & (O_APPEND | O_NONBLOCK | O_LARGEFILE)), error);
    if (fd >= 0 && f->pos && lseek(fd, (off_t)f->pos, SEEK_SET) < 0) {
        agent_fail_errno(error, "seek");
        return -1;
    }
    return fd;
}

const struct agent_file_kind agent_file_memfd = {
    .kind = FMT_FILE_MEMFD,
    .name = "memfd",
    .plan = plan,
    .open = open_memfd,
};
