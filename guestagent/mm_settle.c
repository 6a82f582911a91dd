// SPDX-License-Identifier: GPL-2.0-or-later
// What mappings and address spaces get when all contents are there: keys, locks, seals, what a fork
// and a core dump do with them.

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

// Younger than the headers that we build with.
#define MADV_GUARD 102 // MADV_GUARD_INSTALL, 6.13
#define NR_mseal   462 // 6.10
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 // 6.11
#endif
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65 // 6.3
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67 // 6.4
#define PR_GET_MEMORY_MERGE 68
#endif

#define N_PKEYS          16
#define DUMP_FILTER      0x33
#define EXEC_ONLY_BYTES  4096
#define VMA_LOCKED_FLAGS (FMT_VMA_LOCKED | FMT_VMA_LOCKONFAULT)

/* ---- what this kernel must be able to do ---- */

static bool has_pkeys(void)
{
    const int key = pkey_alloc(0, 0);

    return key >= 0 && pkey_free(key) == 0;
}

static bool has_guards(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const bool has = page != MAP_FAILED && madvise(page, 4096, MADV_GUARD) == 0;

    if (page != MAP_FAILED)
        munmap(page, 4096);
    return has;
}

static bool has_droppable(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);

    return page != MAP_FAILED && munmap(page, 4096) == 0;
}

static bool has_seals(void)
{
    return syscall(NR_mseal, 0, 0, 0) == 0;
}

static bool has_mdwe(void)
{
    return prctl(PR_GET_MDWE, 0, 0, 0, 0) >= 0;
}

static bool has_merge_any(void)
{
    return prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) >= 0;
}

static bool uses_pkeys(const AgentProc *p)
{
    for (guint i = 0; i < p->vmas->len; i++)
        if (((const struct fmt_vma *)g_ptr_array_index(p->vmas, i))->pkey)
            return true;
    return p->mm->pkeys != 0;
}

static bool uses_guards(const AgentProc *p)
{
    const struct fmt_guard *guard;

    for (size_t i = 0; FMT_NEXT(p->r->img, GUARD, i, guard); i++)
        if (guard->mm == p->mm->rec.objref)
            return true;
    return false;
}

static bool uses_flag(const AgentProc *p, uint64_t flag)
{
    for (guint i = 0; i < p->vmas->len; i++)
        if (((const struct fmt_vma *)g_ptr_array_index(p->vmas, i))->flags & flag)
            return true;
    return false;
}

static bool uses_droppable(const AgentProc *p)
{
    return uses_flag(p, FMT_VMA_DROPPABLE);
}

static bool uses_seals(const AgentProc *p)
{
    return uses_flag(p, FMT_VMA_SEALED);
}

static bool uses_mdwe(const AgentProc *p)
{
    return p->mm->mdwe != 0;
}

static bool uses_merge_any(const AgentProc *p)
{
    return p->mm->merge_any != 0;
}

static const struct {
    bool (*uses)(const AgentProc *p);
    bool (*has)(void);
    const char *kind, *what;
} abilities[] = {
    {uses_pkeys, has_pkeys, "pkey", "memory protection keys"},
    {uses_guards, has_guards, "guard", "guard areas (MADV_GUARD_INSTALL)"},
    {uses_droppable, has_droppable, "droppable", "droppable memory (MAP_DROPPABLE)"},
    {uses_seals, has_seals, "mseal", "sealed mappings (mseal)"},
    {uses_mdwe, has_mdwe, "mdwe", "memory that cannot become executable (PR_SET_MDWE)"},
    {uses_merge_any, has_merge_any, "memory-merge", "memory to merge (PR_SET_MEMORY_MERGE)"},
};

void agent_mm_settle_plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (size_t j = 0; p->mm && j < G_N_ELEMENTS(abilities); j++)
            if (abilities[j].uses(p) && !abilities[j].has())
                agent_refuse(r, abilities[j].kind, p->rec->pid, -1,
                             "it has %s, which this machine does not offer", abilities[j].what);
    }
}

/* ---- protection keys ---- */

// All keys in the order in which the kernel gives them, lowest first, then away with those that the
// program does not have. mprotect(PROT_EXEC) takes a key for itself when it first needs one.
static bool allocate_keys(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const int64_t execute_only = p->mm->execute_only_pkey;
    const bool has_execute_only = execute_only > 0 && p->mm->pkeys >> execute_only & 1;
    uint64_t have = 0;
    int64_t key;

    if (!p->mm->pkeys)
        return true;
    for (int i = 1; i < N_PKEYS; i++) {
        const uint64_t none[6] = {0};

        if (!agent_remote_raw(t, SYS_pkey_alloc, none, &key, error))
            return false;
        have |= key > 0 && key < N_PKEYS ? 1u << key : 0;
    }
    if ((have & p->mm->pkeys) != p->mm->pkeys)
        return agent_fail(error, "this machine has the protection keys %#x, not %#x",
                          (unsigned)have, (unsigned)p->mm->pkeys);
    if (has_execute_only) {
        if (!agent_remote(t, "pkey_free", SYS_pkey_free, NULL, error, (uint64_t)execute_only) ||
            !agent_remote(t, "mmap", SYS_mmap, &key, error, 0, EXEC_ONLY_BYTES, PROT_READ,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1ull, 0) ||
            !agent_remote(t, "mprotect", SYS_mprotect, NULL, error, (uint64_t)key, EXEC_ONLY_BYTES,
                          PROT_EXEC) ||
            !agent_remote(t, "munmap", SYS_munmap, NULL, error, (uint64_t)key, EXEC_ONLY_BYTES))
            return false;
    }
    for (int i = 1; i < N_PKEYS; i++)
        if (have & ~p->mm->pkeys & 1u << i &&
            !agent_remote(t, "pkey_free", SYS_pkey_free, NULL, error, i))
            return false;
    return true;
}

// PROT_EXEC alone takes the key that nobody can name, unless one is said.
static bool set_key(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const uint64_t prot = agent_mm_prot(vma), bytes = vma->end - vma->start;
    const uint64_t args[6] = {vma->start, bytes, prot, vma->pkey};
    const bool unnamed = vma->pkey && (int64_t)vma->pkey == p->mm->execute_only_pkey;
    int64_t ret = 0;

    if (vma->kind == FMT_VMA_VDSO || vma->kind == FMT_VMA_VVAR || (!vma->pkey && prot != PROT_EXEC))
        return true;
    if (!unnamed && !agent_remote_raw(t, SYS_pkey_mprotect, args, &ret, error))
        return false;
    if (!unnamed && ret == 0)
        return true;
    if (vma->pkey && !unnamed)
        return agent_fail(error, "pkey_mprotect: %s", g_strerror((int)-ret));
    return agent_remote(t, "mprotect", SYS_mprotect, NULL, error, vma->start, bytes, prot);
}

/* ---- mappings ---- */

// A private mapping that never had a page of its own is not accounted for any longer when it is
// closed: it gets one. What was inherited has.
static bool own_page(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    uint8_t byte;

    return vma->kind != FMT_VMA_ANON || agent_cow_is_inherited(p, vma) ||
           (agent_remote_read(t, vma->start, &byte, 1, error) &&
            agent_remote_write(t, vma->start, &byte, 1, error));
}

static bool close_open(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const uint64_t prot = agent_mm_prot(vma);

    if (!agent_mm_is_open(vma))
        return true;
    return own_page(p, vma, error) &&
           (prot == PROT_EXEC || // set_key() does it
            agent_remote(&agent_leader(p)->tracee, "mprotect", SYS_mprotect, NULL, error,
                         vma->start, vma->end - vma->start, prot));
}

static bool advise_fork(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    static const struct {
        uint64_t flag;
        int advice;
        const char *name;
    } advices[] = {
        {FMT_VMA_DONTCOPY, MADV_DONTFORK, "MADV_DONTFORK"},
        {FMT_VMA_WIPEONFORK, MADV_WIPEONFORK, "MADV_WIPEONFORK"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(advices); i++)
        if (vma->flags & advices[i].flag &&
            !agent_remote(&agent_leader(p)->tracee, advices[i].name, SYS_madvise, NULL, error,
                          vma->start, vma->end - vma->start, advices[i].advice))
            return false;
    return true;
}

// That memory is locked is what msync() with MS_INVALIDATE is told by EBUSY, and all that it does.
static bool is_locked(const struct agent_tracee *t, const struct fmt_vma *vma)
{
    const uint64_t args[6] = {vma->start, vma->end - vma->start, MS_INVALIDATE};
    int64_t ret;

    return agent_remote_raw(t, SYS_msync, args, &ret, NULL) && ret == -EBUSY;
}

// Locks first without reading anything in, which fails where locking is forbidden; 5.10 has it fail
// after the fact for what cannot be read in (PROT_NONE, behind the end of a file). That could not
// be read in on the source either.
static bool lock(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const uint64_t later[6] = {vma->start, vma->end - vma->start, MLOCK_ONFAULT};
    const uint64_t now[6] = {later[0], later[1], 0};
    int64_t ret;

    if (!(vma->flags & FMT_VMA_LOCKED) || vma->kind == FMT_VMA_VVAR)
        return true;
    if (vma->kind == FMT_VMA_VDSO) // which may lie elsewhere here
        return agent_remote_raw(t, SYS_mlock2, now, &ret, error);
    if (!agent_remote_raw(t, SYS_mlock2, later, &ret, error))
        return false;
    if (ret < 0 && !is_locked(t, vma)) {
        errno = (int)-ret;
        return agent_fail_errno(error, "mlock2");
    }
    return vma->flags & FMT_VMA_LOCKONFAULT || agent_remote_raw(t, SYS_mlock2, now, &ret, error);
}

static bool unmerge(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    const uint64_t args[6] = {vma->start, vma->end - vma->start, MADV_UNMERGEABLE};
    int64_t ret;

    return !p->mm->merge_any || vma->flags & FMT_VMA_MERGEABLE ||
           agent_remote_raw(&agent_leader(p)->tracee, SYS_madvise, args, &ret, error);
}

static bool seal(AgentProc *p, const struct fmt_vma *vma, GError **error)
{
    return !(vma->flags & FMT_VMA_SEALED) || vma->kind == FMT_VMA_VVAR ||
           vma->kind == FMT_VMA_VDSO ||
           agent_remote(&agent_leader(p)->tracee, "mseal", NR_mseal, NULL, error, vma->start,
                        vma->end - vma->start);
}

static bool each(AgentProc *p,
                 bool (*step)(AgentProc *p, const struct fmt_vma *vma, GError **error),
                 GError **error)
{
    for (guint i = 0; i < p->vmas->len; i++) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);

        if (!step(p, vma, error)) {
            g_prefix_error(error,
                           "mapping %" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x: ", vma->start,
                           vma->end);
            return false;
        }
    }
    return true;
}

/* ---- address spaces ---- */

static bool install_guards(AgentProc *p, GError **error)
{
    const struct fmt_guard *guard;

    for (size_t i = 0; FMT_NEXT(p->r->img, GUARD, i, guard); i++)
        if (guard->mm == p->mm->rec.objref &&
            !agent_remote(&agent_leader(p)->tracee, "MADV_GUARD_INSTALL", SYS_madvise, NULL, error,
                          guard->start, guard->end - guard->start, MADV_GUARD))
            return false;
    return true;
}

static bool lock_future(AgentProc *p, GError **error)
{
    const uint64_t onfault = p->mm->def_flags & FMT_VMA_LOCKONFAULT ? MCL_ONFAULT : 0;

    return !(p->mm->def_flags & FMT_VMA_LOCKED) ||
           agent_remote(&agent_leader(p)->tracee, "mlockall", SYS_mlockall, NULL, error,
                        MCL_FUTURE | onfault);
}

static bool merge_any(AgentProc *p, GError **error)
{
    return !p->mm->merge_any || (agent_remote(&agent_leader(p)->tracee, "PR_SET_MEMORY_MERGE",
                                              SYS_prctl, NULL, error, PR_SET_MEMORY_MERGE, 1) &&
                                 each(p, unmerge, error));
}

static bool set_dump_filter(AgentProc *p, GError **error)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%d/coredump_filter", agent_leader(p)->tracee.tid);
    char text[32];

    const int len = snprintf(text, sizeof text, "%#" G_GINT64_MODIFIER "x",
                             p->mm->dump_filter_xor ^ DUMP_FILTER);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && write(fd, text, len) == len;

    if (!ok)
        agent_fail_errno(error, "%s", path);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool refuse_exec_gain(AgentProc *p, GError **error)
{
    return !p->mm->mdwe || agent_remote(&agent_leader(p)->tracee, "PR_SET_MDWE", SYS_prctl, NULL,
                                        error, PR_SET_MDWE, p->mm->mdwe);
}

// What takes away the right to change mappings comes last.
bool agent_mm_settle(AgentProc *p, GError **error)
{
    return each(p, close_open, error) && allocate_keys(p, error) && each(p, set_key, error) &&
           install_guards(p, error) && each(p, advise_fork, error) && merge_any(p, error) &&
           each(p, lock, error) && lock_future(p, error) && set_dump_filter(p, error) &&
           refuse_exec_gain(p, error) && each(p, seal, error);
}
