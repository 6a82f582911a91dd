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

    if (!p->stub && is_own((int)map.exe_fd))
        map.exe_fd = ~0u;
    if (auxv_bytes > 0) {
        if (!agent_remote_put(t, sizeof map, auxv, auxv_bytes, &at, error))
            return false;
        map.auxv = (__u64 *)(uintptr_t)at;
    }
    if (!agent_remote_put(t, 0, &map, sizeof map, &at, error) ||
        !agent_remote(t, "PR_SET_MM_MAP", SYS_prctl, NULL, error, PR_SET_MM, PR_SET_MM_MAP, at,
                      sizeof map))
        return false;
    return !mm->thp_disable ||
           agent_remote(t, "PR_SET_THP_DISABLE", SYS_prctl, NULL, error, PR_SET_THP_DISABLE, 1);
}

const struct agent_aspect agent_aspect_exe = {
    .name = "program",
    .per_mm = true,
    .plan = plan,
    .build = build,
};
