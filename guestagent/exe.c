// SPDX-License-Identifier: GPL-2.0-or-later
// What the kernel notes about the program itself: where its parts are, its executable, dumpable.

#include <linux/prctl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->mm && !fmt_image_by_ref(r->img, p->mm->exe, FMT_FILE))
            agent_refuse(r, "exe", p->rec->pid, -1, "the image does not say which program it is");
        if (p->mm && p->mm->dumpable == 2)
            agent_note(r, "dumpable", p->rec->pid, -1,
                       "it may be dumped by root only (2); it will not be dumpable at all");
    }
}

// The program that the process has from the agent, which the kernel does not let us set again while
// it is mapped.
static bool is_own(int fd)
{
    struct stat own, exe;

    return stat("/proc/self/exe", &own) == 0 && fstat(fd, &exe) == 0 && own.st_dev == exe.st_dev &&
           own.st_ino == exe.st_ino;
}

/*
 * A file that we make is open for writing until it has its contents, and as long the kernel lets
 * nobody execute it. Such a program is told of when they are there, by a descriptor that the
 * process has kept until then. -1: not needed.
 */
static int late_fd(const AgentProc *p)
{
    const struct fmt_file *exe = fmt_image_by_ref(p->r->img, p->mm->exe, FMT_FILE);

    return exe->kind == FMT_FILE_REG && agent_inode_fd(p->r, exe->object) >= 0
               ? agent_file_fd(p->r, p->mm->exe)
               : -1;
}

// By whose descriptors: a leader that has ended has none.
static AgentTask *keeper(const AgentProc *p)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (t->rec->files)
            return t;
    }
    return agent_leader(p);
}

// Whether q has its program by the same descriptor of the same table.
static bool shares(const AgentProc *p, const AgentProc *q)
{
    return agent_mm_is_owner(q) && q->late_exe == p->late_exe &&
           keeper(q)->rec->files == keeper(p)->rec->files;
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

GArray *agent_exe_kept(AgentRestore *r, uint64_t files)
{
    GArray *kept = g_array_new(false, false, sizeof(int));

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);
        int fd;

        if (p->rec->state == FMT_PROC_ZOMBIE || !agent_mm_is_owner(p) ||
            keeper(p)->rec->files != files || (fd = late_fd(p)) < 0)
            continue;
        g_array_append_val(kept, fd);
    }
    g_array_sort(kept, by_number);
    return kept;
}

// Runs after the mappings: the kernel lets the executable be changed only while nothing of the old
// one is mapped.
static bool build(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const struct fmt_mm *mm = p->mm;
    size_t auxv_bytes = 0;
    const void *auxv = mm->auxv ? g_bytes_get_data(mm->auxv, &auxv_bytes) : NULL;
    struct prctl_mm_map map = {
        .start_code = mm->start_code,
        .end_code = mm->end_code,
        .start_data = mm->start_data,
        .end_data = mm->end_data,
        .start_brk = mm->start_brk,
        .brk = mm->brk,
        .start_stack = mm->start_stack,
        .arg_start = mm->arg_start,
        .arg_end = mm->arg_end,
        .env_start = mm->env_start,
        .env_end = mm->env_end,
        .auxv_size = auxv_bytes,
        .exe_fd = agent_file_fd(p->r, mm->exe),
    };
    uint64_t at;

    p->late_exe = late_fd(p);
    if (p->late_exe >= 0 || (!p->stub && is_own((int)map.exe_fd)))
        map.exe_fd = ~0u;
    if (auxv_bytes > 0) {
        if (!agent_remote_put(t, sizeof map, auxv, auxv_bytes, &at, error))
            return false;
        map.auxv = (__u64 *)(uintptr_t)at;
    }
    return agent_remote_put(t, 0, &map, sizeof map, &at, error) &&
           agent_remote(t, "PR_SET_MM_MAP", SYS_prctl, NULL, error, PR_SET_MM, PR_SET_MM_MAP, at,
                        sizeof map);
}

static bool is_last(const AgentProc *p)
{
    const GPtrArray *procs = p->r->procs;

    for (guint i = procs->len; i-- > 0;) {
        const AgentProc *q = g_ptr_array_index(procs, i);

        if (q == p)
            break;
        if (q->rec->state != FMT_PROC_ZOMBIE && shares(p, q))
            return false;
    }
    return true;
}

static bool finish(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &keeper(p)->tracee;
    const uint64_t fd = (uint64_t)p->late_exe;

    if (p->late_exe < 0)
        return true;
    return agent_remote(t, "PR_SET_MM_EXE_FILE", SYS_prctl, NULL, error, PR_SET_MM,
                        PR_SET_MM_EXE_FILE, fd, 0, 0) &&
           (!is_last(p) || agent_remote(t, "close", SYS_close, NULL, error, fd));
}

const struct agent_aspect agent_aspect_exe = {
    .name = "program",
    .per_mm = true,
    .plan = plan,
    .build = build,
    .finish = finish,
};
