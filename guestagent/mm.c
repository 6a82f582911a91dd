// SPDX-License-Identifier: GPL-2.0-or-later
// The address space: mappings as the image has them, and their contents.

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guestagent/engine.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA           0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

#define LA47_END 0x7ffffffff000ull

// Properties of a mapping that madvise sets.
static const struct {
    uint64_t flag;
    int advice;
    bool hint; // a kernel without it runs the program as well
    const char *name;
} advices[] = {
    {FMT_VMA_DONTDUMP, MADV_DONTDUMP, false, "MADV_DONTDUMP"},
    {FMT_VMA_HUGEPAGE, MADV_HUGEPAGE, true, "MADV_HUGEPAGE"},
    {FMT_VMA_NOHUGEPAGE, MADV_NOHUGEPAGE, true, "MADV_NOHUGEPAGE"},
    {FMT_VMA_MERGEABLE, MADV_MERGEABLE, true, "MADV_MERGEABLE"},
    {FMT_VMA_SEQ_READ, MADV_SEQUENTIAL, true, "MADV_SEQUENTIAL"},
    {FMT_VMA_RAND_READ, MADV_RANDOM, true, "MADV_RANDOM"},
};

bool agent_mm_is_owner(const AgentProc *p)
{
    return p->mm && agent_mm_owner(p->r, p->rec->mm) == p;
}

AgentProc *agent_mm_owner(AgentRestore *r, uint64_t mm)
{
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->mm && p->mm->rec.objref == mm)
            return p;
    }
    return NULL;
}

const struct fmt_vma *agent_mm_vma(const AgentProc *p, uint64_t addr)
{
    guint low = 0, high = p->vmas->len;

    while (low < high) {
        const guint middle = (low + high) / 2;
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, middle);

        if (addr < vma->start)
            high = middle;
        else if (addr >= vma->end)
            low = middle + 1;
        else
            return vma;
    }
    return NULL;
}

static uint64_t sysctl(const char *path, uint64_t fallback)
{
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? g_ascii_strtoull(text, NULL, 10)
                                                        : fallback;
}

static bool has_la57(void)
{
    g_autofree char *text = NULL;

    return g_file_get_contents("/proc/cpuinfo", &text, NULL, NULL) && strstr(text, " la57");
}

static void plan_vma(AgentRestore *r, const AgentProc *p, const struct fmt_vma *vma)
{
    g_autofree char *where = g_strdup_printf(
        "mapping %" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", vma->start, vma->end);

    if (vma->start >= vma->end || vma->start % 4096 || vma->end % 4096)
        agent_refuse(r, "vma", p->rec->pid, -1, "%s is no range of pages", where);
    if (vma->end > LA47_END && !has_la57())
        agent_refuse(r, "address-space", p->rec->pid, -1,
                     "%s lies beyond the 47 bits of address that this machine has", where);
    if (vma->kind > FMT_VMA_VVAR)
        agent_refuse(r, "vma-kind", p->rec->pid, -1,
                     "%s is of kind %" G_GUINT64_FORMAT ", which is not supported", where,
                     vma->kind);
    if (vma->flags & FMT_VMA_SYNC)
        agent_refuse(r, "map-sync", p->rec->pid, -1, "%s was made with MAP_SYNC", where);
    if (vma->kind == FMT_VMA_FILE && !fmt_image_by_ref(r->img, vma->object, FMT_FILE))
        agent_refuse(r, "vma", p->rec->pid, -1, "%s has no file in the image", where);
    if (vma->kind == FMT_VMA_SHM && !fmt_image_by_ref(r->img, vma->object, FMT_SHM))
        agent_refuse(r, "vma", p->rec->pid, -1, "%s has no shared memory in the image", where);
}

static void plan_memory(AgentRestore *r)
{
    g_autofree char *text = NULL;
    const char *line;
    const uint64_t need = fmt_image_head(r->img)->n_pages * 4096;

    if (!g_file_get_contents("/proc/meminfo", &text, NULL, NULL) ||
        !(line = strstr(text, "MemAvailable:")))
        return;
    const uint64_t have = g_ascii_strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024;

    if (need > have)
        agent_refuse(r, "memory", 0, -1,
                     "the image has %" G_GUINT64_FORMAT
                     " MiB of memory, this machine has %" G_GUINT64_FORMAT " MiB available",
                     need >> 20, have >> 20);
}

// With flags (PR_THP_DISABLE_EXCEPT_ADVISED), which Linux knows since 6.18.
static bool knows_thp_flags(uint64_t thp_disable)
{
    const bool knows = prctl(PR_SET_THP_DISABLE, 1, thp_disable & ~UINT64_C(1), 0, 0) == 0;

    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    return knows;
}

static void plan(AgentRestore *r)
{
    const uint64_t max_maps = sysctl("/proc/sys/vm/max_map_count", 65530);

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);
        uint64_t end = 0;

        if (p->rec->state == FMT_PROC_ZOMBIE)
            continue;
        if (!p->mm) {
            agent_refuse(r, "mm", p->rec->pid, -1, "the image has no address space of it");
            continue;
        }
        if (p->mm->thp_disable > 1 && !knows_thp_flags(p->mm->thp_disable))
            agent_note(r, "madvise", p->rec->pid, -1,
                       "this kernel cannot keep huge pages to memory that asks for them "
                       "(PR_THP_DISABLE_EXCEPT_ADVISED)");
        // vdso, its data and the scratch memory come on top
        if (p->vmas->len + 8 > max_maps)
            agent_refuse(r, "max-map-count", p->rec->pid, -1,
                         "it has %u mappings, vm.max_map_count is %" G_GUINT64_FORMAT, p->vmas->len,
                         max_maps);
        for (guint j = 0; j < p->vmas->len; j++) {
            const struct fmt_vma *vma = g_ptr_array_index(p->vmas, j);

            plan_vma(r, p, vma);
            if (vma->start < end)
                agent_refuse(r, "vma", p->rec->pid, -1,
                             "mapping %" G_GINT64_MODIFIER "x overlaps the one before it",
                             vma->start);
            end = vma->end;
        }
    }
    plan_memory(r);
    agent_mm_settle_plan(r);
}

static bool advise(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    for (size_t i = 0; i < G_N_ELEMENTS(advices); i++) {
        const uint64_t args[6] = {vma->start, vma->end - vma->start, advices[i].advice};
        int64_t ret;

        if (!(vma->flags & advices[i].flag))
            continue;
        if (!agent_remote_raw(t, SYS_madvise, args, &ret, error))
            return false;
        if (ret == 0)
            continue;
        if (!advices[i].hint)
            return agent_fail(error, "%s at %" G_GINT64_MODIFIER "x: %s", advices[i].name,
                              vma->start, g_strerror((int)-ret));
        agent_note(p->r, "madvise", p->rec->pid, -1, "this kernel does not take %s",
                   advices[i].name);
    }
    return true;
}

static bool give_name(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    uint64_t at;
    int64_t ret;

    // Names in brackets are the kernel's own: [heap], [stack].
    if ((vma->kind != FMT_VMA_ANON && vma->kind != FMT_VMA_SHM) || !vma->name ||
        vma->name[0] == '[')
        return true;
    if (!agent_remote_put(t, 0, vma->name, strlen(vma->name) + 1, &at, error))
        return false;
    const uint64_t args[6] = {PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma->start, vma->end - vma->start,
                              at};

    return agent_remote_raw(t, SYS_prctl, args, &ret, error); // a kernel without names does without
}

uint64_t agent_mm_prot(const struct fmt_vma *vma)
{
    return (vma->flags & FMT_VMA_READ ? PROT_READ : 0) |
           (vma->flags & FMT_VMA_WRITE ? PROT_WRITE : 0) |
           (vma->flags & FMT_VMA_EXEC ? PROT_EXEC : 0);
}

static uint64_t map_flags(const struct fmt_vma *vma)
{
    uint64_t type = fmt_vma_is_shared(vma) ? MAP_SHARED : MAP_PRIVATE;

    type = vma->flags & FMT_VMA_DROPPABLE ? MAP_DROPPABLE : type;
    return type | MAP_FIXED_NOREPLACE | (vma->kind == FMT_VMA_ANON ? MAP_ANONYMOUS : 0) |
           (vma->flags & FMT_VMA_NORESERVE ? MAP_NORESERVE : 0) |
           (vma->flags & FMT_VMA_GROWSDOWN ? MAP_GROWSDOWN : 0);
}

// A mapping that was writable once, so that what it may need was accounted for, and still is; and
// huge pages, which cannot be written with force. It stays open until it has its contents.
bool agent_mm_is_open(const struct fmt_vma *vma)
{
    return !fmt_vma_is_shared(vma) && !(vma->flags & FMT_VMA_WRITE) &&
           vma->flags & (FMT_VMA_ACCOUNT | FMT_VMA_HUGETLB);
}

static bool is_forced(const struct fmt_vma *vma)
{
    return !(vma->flags & FMT_VMA_WRITE) && !agent_mm_is_open(vma);
}

static bool map_object(AgentProc *p, const struct fmt_vma *vma, int *ret, GError **error)
{
    *ret = -1;
    if (vma->kind == FMT_VMA_ANON)
        return true;
    if (vma->kind == FMT_VMA_SHM)
        *ret = agent_shm_map_fd(p->r, vma, error);
    else if ((*ret = agent_file_fd(p->r, vma->object)) < 0)
        return agent_fail(error, "a mapped file is not open");
    return *ret >= 0;
}

// PROT_EXEC alone would take a protection key: such a mapping gets its own in agent_mm_settle().
bool agent_mm_map(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const uint64_t bytes = vma->end - vma->start, prot = agent_mm_prot(vma);
    const uint64_t first = prot | (agent_mm_is_open(vma) ? PROT_READ | PROT_WRITE : 0) |
                           (prot == PROT_EXEC ? PROT_READ : 0);
    int64_t at;
    int fd;

    if (agent_ipc_is_segment(p->r, vma))
        return agent_ipc_attach(p, vma, error) && advise(p, vma, error);
    if (agent_cow_is_inherited(p, vma))
        return agent_cow_take(p, vma, first, error) && advise(p, vma, error) &&
               give_name(p, vma, error);
    if (!map_object(p, vma, &fd, error) ||
        !agent_remote(t, "mmap", SYS_mmap, &at, error, vma->start, bytes, first, map_flags(vma),
                      (uint64_t)(int64_t)fd, vma->kind == FMT_VMA_ANON ? 0 : vma->offset_bytes))
        return false;
    if ((uint64_t)at != vma->start)
        return agent_fail(error, "the kernel gave address %" G_GINT64_MODIFIER "x", at);
    return advise(p, vma, error) && give_name(p, vma, error);
}

// A page that is written where there was none may become a huge one. Only where the source had
// such: a tree whose pages lie far apart would grow.
static bool let_huge(AgentProc *p, bool huge, GError **error)
{
    if (p->no_thp == !huge)
        return true;
    p->no_thp = !huge;
    return agent_remote(&agent_leader(p)->tracee, "PR_SET_THP_DISABLE", SYS_prctl, NULL, error,
                        PR_SET_THP_DISABLE, p->no_thp);
}

static bool settle_huge(AgentProc *p, GError **error)
{
    const uint64_t disable = p->mm->thp_disable;

    if (disable <= 1 || !knows_thp_flags(disable))
        return let_huge(p, disable != 1, error);
    return agent_remote(&agent_leader(p)->tracee, "PR_SET_THP_DISABLE", SYS_prctl, NULL, error,
                        PR_SET_THP_DISABLE, 1, disable & ~UINT64_C(1));
}

static bool build(AgentProc *p, GError **error)
{
    if (!let_huge(p, false, error))
        return false;
    for (guint i = 0; i < p->vmas->len; i++) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);

        if (vma->kind == FMT_VMA_VDSO || vma->kind == FMT_VMA_VVAR)
            continue;
        if (!agent_mm_map(p, vma, error)) {
            g_prefix_error(error,
                           "process %" G_GUINT64_FORMAT ": mapping %" G_GINT64_MODIFIER
                           "x-%" G_GINT64_MODIFIER "x: ",
                           p->rec->pid, vma->start, vma->end);
            return false;
        }
    }
    if (!agent_cow_leave(p, error))
        return false;
    g_autofree char *path = g_strdup_printf("/proc/%d/mem", agent_leader(p)->tracee.tid);

    p->mem = agent_fd_up(p->r, open(path, O_RDWR | O_CLOEXEC), error);
    return p->mem >= 0;
}

static bool finish(AgentProc *p, GError **error)
{
    return settle_huge(p, error) && agent_mm_settle(p, error);
}

static bool write_forced(AgentProc *p, uint64_t addr, const void *data, uint64_t size,
                         GError **error)
{
    while (size > 0) {
        const ssize_t n = pwrite(p->mem, data, size, (off_t)addr);

        if (n <= 0)
            return agent_fail_errno(
                error, "process %" G_GUINT64_FORMAT ": contents at %" G_GINT64_MODIFIER "x",
                p->rec->pid, addr);
        data = (const uint8_t *)data + n;
        addr += n;
        size -= n;
    }
    return true;
}

static bool keep_vdso(AgentProc *p, const struct fmt_vma *vma, uint64_t addr, const void *data,
                      uint64_t size)
{
    if (!data)
        return true;
    if (!p->old_vdso) {
        p->old_vdso = g_byte_array_new();
        g_byte_array_set_size(p->old_vdso, vma->end - vma->start);
        memset(p->old_vdso->data, 0, p->old_vdso->len);
    }
    memcpy(p->old_vdso->data + (addr - vma->start), data, size);
    return true;
}

static bool compare(AgentProc *p, const struct fmt_vma *vma, uint64_t addr, const void *data,
                    uint64_t size, GError **error)
{
    const struct fmt_file *f = fmt_image_by_ref(p->r->img, vma->object, FMT_FILE);
    const uint64_t offset = vma->offset_bytes + (addr - vma->start);

    return agent_contents_compare(p->r, agent_file_fd(p->r, vma->object), f->path, offset, data,
                                  size, error);
}

// Pages whose contents come from outside: made present and private here, each marked with where it
// is.
static bool mark(AgentProc *p, const struct fmt_vma *vma, uint64_t addr, uint64_t size,
                 GError **error)
{
    const uint64_t n = size / FMT_PAGE_BYTES;
    g_autofree struct agent_place_mark *marks = g_new(struct agent_place_mark, n);
    struct iovec here = {marks, n * sizeof *marks}, there[IOV_MAX];

    for (uint64_t i = 0; i < n; i++)
        marks[i] = (struct agent_place_mark){p->r->opt.place_nonce, addr + i * FMT_PAGE_BYTES};
    if (is_forced(vma)) {
        for (uint64_t i = 0; i < n; i++)
            if (!write_forced(p, marks[i].address, &marks[i], sizeof *marks, error))
                return false;
        return true;
    }
    for (uint64_t i = 0; i < n; i += here.iov_len / sizeof *marks) {
        const uint64_t some = MIN(n - i, IOV_MAX);

        for (uint64_t j = 0; j < some; j++)
            there[j] = (struct iovec){(void *)(uintptr_t)marks[i + j].address, sizeof *marks};
        here = (struct iovec){&marks[i], some * sizeof *marks};
        if (process_vm_writev(agent_leader(p)->tracee.tid, &here, 1, there, some, 0) !=
            (ssize_t)here.iov_len)
            return agent_fail_errno(
                error, "process %" G_GUINT64_FORMAT ": page at %" G_GINT64_MODIFIER "x",
                p->rec->pid, marks[i].address);
    }
    return true;
}

// One piece that lies in one mapping.
static bool piece(AgentProc *p, const struct fmt_vma *vma, enum fmt_pages_kind kind, uint64_t addr,
                  const void *data, uint64_t size, GError **error)
{
    g_autofree void *zeros = NULL;

    if (vma->kind == FMT_VMA_VDSO)
        return keep_vdso(p, vma, addr, data, size);
    if (vma->kind == FMT_VMA_VVAR)
        return true; // the running kernel has its own
    if (kind == FMT_PAGES_CLEAN)
        return vma->kind != FMT_VMA_FILE || compare(p, vma, addr, data, size, error);
    if (kind != FMT_PAGES_PLACED && vma->kind == FMT_VMA_ANON && !data)
        return true; // as mapped
    if (!let_huge(p, vma->huge && p->mm->thp_disable != 1, error))
        return false;
    if (kind == FMT_PAGES_PLACED)
        return mark(p, vma, addr, size, error);
    if (!data)
        data = zeros = g_malloc0(size);
    // What the program may not write itself needs the force of /proc/PID/mem, which copies page by
    // page.
    return is_forced(vma) ? write_forced(p, addr, data, size, error)
                          : agent_remote_write(&agent_leader(p)->tracee, addr, data, size, error);
}

bool agent_mm_pages(AgentRestore *r, const struct fmt_pages *pages, uint64_t addr, const void *data,
                    uint64_t size, GError **error)
{
    AgentProc *p = agent_mm_owner(r, pages->owner);

    while (size > 0) {
        const struct fmt_vma *vma = p ? agent_mm_vma(p, addr) : NULL;

        if (!vma || (fmt_vma_is_shared(vma) && pages->kind != FMT_PAGES_CLEAN)) {
            g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE,
                        "contents for address %" G_GINT64_MODIFIER
                        "x, where the image has no private mapping",
                        addr);
            return false;
        }
        const uint64_t n = MIN(size, vma->end - addr);

        if (!piece(p, vma, pages->kind, addr, data, n, error))
            return false;
        addr += n;
        size -= n;
        data = data ? (const uint8_t *)data + n : NULL;
    }
    return true;
}

const struct agent_aspect agent_aspect_mm = {
    .name = "memory",
    .per_mm = true,
    .plan = plan,
    .build = build,
    .finish = finish,
};
