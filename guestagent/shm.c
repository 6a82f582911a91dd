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

// Younger than the headers that we build with, 6.3.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC        0x0010U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

// What r->objects keeps of a SHM.
struct shm_fds {
    int fd;       // for reading and writing
    int readonly; // of the same
    bool is_used; // by a file of the image as well
};

/* ---- plan ---- */

static bool same_size(const struct fmt_shm *a, const struct fmt_shm *b)
{
    return a->flags & b->flags & FMT_SHM_HUGETLB && a->huge_page_bytes == b->huge_page_bytes;
}

static bool maps_private(const AgentProc *p, uint64_t shm)
{
    for (guint i = 0; p && i < p->vmas->len; i++) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);

        if (vma->object == shm && !fmt_vma_is_shared(vma))
            return true;
    }
    return false;
}

// Huge pages that the kernel sets aside when the mappings of an object are made: for all that is
// mapped shared, and for each private mapping that a process has not inherited.
static uint64_t huge_pages_needed(AgentRestore *r, const struct fmt_shm *shm)
{
    const struct fmt_vma *vma;
    // A segment has all of its pages set aside as it is made.
    uint64_t shared = shm->kind == FMT_SHM_SYSV ? shm->size_bytes : 0, private = 0;

    for (size_t i = 0; FMT_NEXT(r->img, VMA, i, vma); i++) {
        const AgentProc *p = agent_mm_owner(r, vma->mm);

        if (vma->object != shm->rec.objref || vma->flags & FMT_VMA_NORESERVE)
            continue;
        if (fmt_vma_is_shared(vma))
            shared = MAX(shared, vma->offset_bytes + (vma->end - vma->start));
        else if (p && !maps_private(p->parent, vma->object))
        private += vma->end - vma->start;
    }
    return (MIN(shared, shm->size_bytes) + private) / shm->huge_page_bytes;
}

static uint64_t huge_pages_number(uint64_t bytes, const char *what)
{
    g_autofree char *text = NULL;
    g_autofree char *path = g_strdup_printf(
        "/sys/kernel/mm/hugepages/hugepages-%" G_GUINT64_FORMAT "kB/%s", bytes / 1024, what);

    return g_file_get_contents(path, &text, NULL, NULL) ? g_ascii_strtoull(text, NULL, 10) : 0;
}

// For all objects with pages of this size at once; `first` is the first of them.
static void plan_huge(AgentRestore *r, const struct fmt_shm *first)
{
    const uint64_t bytes = first->huge_page_bytes;
    const struct fmt_shm *shm;
    uint64_t need = 0;

    if (bytes < 4096 || bytes & (bytes - 1)) {
        agent_refuse(r, "hugetlb", 0, -1, "huge pages of %" G_GUINT64_FORMAT " bytes", bytes);
        return;
    }
    for (size_t i = 0; FMT_NEXT(r->img, SHM, i, shm); i++) {
        if (same_size(shm, first) && shm->rec.objref < first->rec.objref)
            return;
        need += same_size(shm, first) ? huge_pages_needed(r, shm) : 0;
    }
    const uint64_t have = huge_pages_number(bytes, "free_hugepages") -
                          huge_pages_number(bytes, "resv_hugepages") +
                          huge_pages_number(bytes, "nr_overcommit_hugepages") -
                          huge_pages_number(bytes, "surplus_hugepages");

    if (need > have)
        agent_refuse(r, "hugetlb", 0, -1,
                     "it needs %" G_GUINT64_FORMAT " huge pages of %" G_GUINT64_FORMAT
                     " kB, this machine has %" G_GUINT64_FORMAT " to give",
                     need, bytes / 1024, have);
}

static void plan_exec_seal(AgentRestore *r, const struct fmt_shm *shm)
{
    const int fd = memfd_create("vmgraft-plan", MFD_CLOEXEC | MFD_NOEXEC_SEAL);

    if (fd < 0)
        agent_refuse(r, "memfd", 0, -1, "memfd %s has the seal F_SEAL_EXEC: %s", shm->name,
                     g_strerror(errno));
    else
        close(fd);
}

void agent_shm_plan(AgentRestore *r)
{
    const struct fmt_shm *shm;

    for (size_t i = 0; FMT_NEXT(r->img, SHM, i, shm); i++) {
        if (shm->flags & FMT_SHM_HUGETLB)
            plan_huge(r, shm);
        if (shm->kind == FMT_SHM_MEMFD && shm->seals & F_SEAL_EXEC)
            plan_exec_seal(r, shm);
    }
}

/* ---- making them ---- */

unsigned agent_huge_bits(const struct fmt_shm *shm)
{
    return (unsigned)g_bit_nth_lsf(shm->huge_page_bytes, -1) << MAP_HUGE_SHIFT;
}

static bool is_reserved(AgentRestore *r, const struct fmt_shm *shm)
{
    const struct fmt_vma *vma;

    for (size_t i = 0; FMT_NEXT(r->img, VMA, i, vma); i++)
        if (vma->object == shm->rec.objref && vma->flags & FMT_VMA_NORESERVE)
            return false;
    // Huge pages are set aside by the mappings of the processes.
    return !(shm->flags & FMT_SHM_HUGETLB);
}

// The object behind a shared anonymous mapping is reached through /proc/self/map_files, so that the
// processes map what the kernel makes for mmap(MAP_SHARED | MAP_ANONYMOUS) itself.
static int anonymous(AgentRestore *r, const struct fmt_shm *shm)
{
    const int flags = MAP_SHARED | MAP_ANONYMOUS | (is_reserved(r, shm) ? 0 : MAP_NORESERVE);
    const int huge = shm->flags & FMT_SHM_HUGETLB ? MAP_HUGETLB | (int)agent_huge_bits(shm) : 0;
    void *at = mmap(NULL, shm->size_bytes, PROT_READ | PROT_WRITE, flags | huge, -1, 0);
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
    const bool noexec = shm->flags & FMT_SHM_NOEXEC_SEAL;
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING |
                     (shm->flags & FMT_SHM_HUGETLB ? MFD_HUGETLB | agent_huge_bits(shm) : 0);
    const char *name = shm->name ? shm->name : "";
    int fd;

    // Said in so many words, it does not depend on vm.memfd_noexec; before 6.3 it cannot be said.
    fd = memfd_create(name, flags | (noexec ? MFD_NOEXEC_SEAL : MFD_EXEC));
    if (fd < 0 && errno == EINVAL && !noexec)
        fd = memfd_create(name, flags);
    if (fd >= 0 && (ftruncate(fd, (off_t)shm->size_bytes) < 0 ||
                    (shm->mode && fchmod(fd, shm->mode & 07777) < 0) ||
                    fchown(fd, (uid_t)shm->uid, (gid_t)shm->gid) < 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

// A file that has just been made.
static bool reserve(int fd, const struct fmt_shm *shm, GError **error)
{
    return shm->kind != FMT_SHM_MEMFD || agent_file_reserve(fd, shm->reserved, error);
}

// Made when first asked for.
int agent_shm_fd(AgentRestore *r, uint64_t objref, GError **error)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, objref, FMT_SHM);
    const struct shm_fds *known = g_hash_table_lookup(r->objects, &objref);

    if (known)
        return known->fd;
    if (!shm) {
        agent_fail(error, "the image has no shared memory %" G_GUINT64_FORMAT, objref);
        return -1;
    }
    const int fd = agent_fd_up(r,
                               shm->kind == FMT_SHM_MEMFD  ? memfd(shm)
                               : shm->kind == FMT_SHM_SYSV ? agent_ipc_shm_open(r, objref)
                                                           : anonymous(r, shm),
                               error);

    if (fd < 0) {
        g_prefix_error(error, "shared memory: ");
        return -1;
    }
    // The processes inherit what is open now, nothing that comes later.
    const struct shm_fds fds = {fd, agent_reopen(r, fd, O_RDONLY, error), false};

    if (fds.readonly < 0 || !reserve(fd, shm, error))
        return -1;
    g_hash_table_insert(r->objects, (void *)&shm->rec.objref, g_memdup2(&fds, sizeof fds));
    return fd;
}

// What maps it without the right to write: the program had it open for reading only, or it was
// sealed.
static bool is_readonly(const struct fmt_vma *vma)
{
    return fmt_vma_is_shared(vma) && (vma->flags & (FMT_VMA_SHARED | FMT_VMA_MAYWRITE)) !=
                                         (FMT_VMA_SHARED | FMT_VMA_MAYWRITE);
}

int agent_shm_map_fd(AgentRestore *r, const struct fmt_vma *vma, GError **error)
{
    const struct shm_fds *fds = g_hash_table_lookup(r->objects, &vma->object);

    if (fds)
        return is_readonly(vma) ? fds->readonly : fds->fd;
    agent_fail(error, "the image has no shared memory %" G_GUINT64_FORMAT, vma->object);
    return -1;
}

/* ---- contents ---- */

static bool write_plain(int fd, uint64_t offset, const void *data, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        const ssize_t n =
            pwrite(fd, (const uint8_t *)data + done, size - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += n;
    }
    return true;
}

// Files of huge pages cannot be written to, only mapped.
static bool write_mapped(int fd, uint64_t page_bytes, uint64_t offset, const void *data,
                         uint64_t size)
{
    const uint64_t start = offset & ~(page_bytes - 1);
    const uint64_t bytes = ((offset + size + page_bytes - 1) & ~(page_bytes - 1)) - start;

    // Says where there is no more memory, instead of a SIGBUS.
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)start, (off_t)bytes) < 0)
        return false;
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)start);

    if (at == MAP_FAILED)
        return false;
    memcpy(at + (offset - start), data, size);
    return munmap(at, bytes) == 0;
}

bool agent_shm_zero(AgentRestore *r, uint64_t objref, uint64_t offset, uint64_t size,
                    GError **error)
{
    static const uint8_t zeros[1 << 20];
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, objref, FMT_SHM);

    // Fresh memory is zero already; of a memfd can be seen whether that is a hole.
    for (uint64_t done = 0; shm && shm->kind == FMT_SHM_MEMFD && done < size;) {
        const uint64_t some = MIN(size - done, sizeof zeros);

        if (!agent_shm_write(r, objref, offset + done, zeros, some, error))
            return false;
        done += some;
    }
    return true;
}

bool agent_shm_write(AgentRestore *r, uint64_t objref, uint64_t offset, const void *data,
                     uint64_t size, GError **error)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, objref, FMT_SHM);

    if (shm && agent_ipc_shm_is_left(r, objref))
        return true;
    const int fd = agent_shm_fd(r, objref, error);

    if (fd < 0)
        return false;
    if (offset > shm->size_bytes || size > ((shm->size_bytes + 4095) & ~4095ull) - offset)
        return agent_fail(error, "contents behind the end of shared memory %" G_GUINT64_FORMAT,
                          objref);
    // What lies behind the end, in the last page, can be written through a mapping alone.
    const uint64_t within =
        MIN(size, (shm->size_bytes & ~4095ull) - MIN(offset, shm->size_bytes & ~4095ull));

    if (!(shm->flags & FMT_SHM_HUGETLB
              ? write_mapped(fd, shm->huge_page_bytes, offset, data, size)
              : write_plain(fd, offset, data, within) &&
                    (within == size ||
                     write_mapped(fd, 4096, offset + within, (const uint8_t *)data + within,
                                  size - within))))
        return agent_fail_errno(error, "contents of shared memory %s", shm->name ? shm->name : "");
    return true;
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
        const struct shm_fds *fds = g_hash_table_lookup(r->objects, &shm->rec.objref);
        const uint64_t seals = shm->seals;
        struct timespec times[2];

        if (!fds || shm->kind != FMT_SHM_MEMFD)
            continue;
        agent_times(shm->atime_ns, shm->mtime_ns, times);
        if (shm->mtime_ns && futimens(fds->fd, times) < 0)
            return agent_fail_errno(error, "times of memfd %s", shm->name);
        if (!agent_attributes_give(fds->fd, agent_attributes(r, shm->rec.objref), error)) {
            g_prefix_error(error, "memfd %s: ", shm->name);
            return false;
        }
        // A memfd made without MFD_ALLOW_SEALING carries this seal from birth.
        if (seals && fcntl(fds->fd, F_ADD_SEALS, (int)seals) < 0)
            return agent_fail_errno(error, "seals of memfd %s", shm->name);
    }
    return true;
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    if (!fmt_image_by_ref(r->img, f->object, FMT_SHM))
        agent_refuse_file(r, "memfd", f->rec.objref, "the image lacks the memory of a memfd");
}

/*
 * What memfd_create() returned does not count as a writer, so that such a file can be executed
 * while it is open; one that was opened anew does. A file that looks like the former becomes our
 * own.
 */
static int open_file(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    static const int access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    const int shm = agent_shm_fd(r, f->object, error);
    struct shm_fds *fds = g_hash_table_lookup(r->objects, &f->object);

    if (shm < 0)
        return -1;
    // We write to it at offsets, for which it must not append yet.
    if (!fds->is_used && (f->mode & 3) == 3 && !(f->flags & O_APPEND)) {
        fds->is_used = true;
        return agent_fd_status(shm, f, error) ? shm : -1;
    }
    return agent_reopen(
        r, shm, access[f->mode & 3] | (f->flags & (O_APPEND | O_NONBLOCK | O_LARGEFILE)), error);
}

static int open_memfd(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const int fd = open_file(r, f, error);

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
