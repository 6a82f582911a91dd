// SPDX-License-Identifier: GPL-2.0-or-later
// Working directory, root and umask.

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

static const struct fmt_fs *fs_of(const AgentTask *t)
{
    return fmt_image_by_ref(t->proc->r->img, t->rec->fs, FMT_FS);
}

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void plan_task(AgentRestore *r, const AgentTask *t)
{
    const struct fmt_fs *fs = fs_of(t);
    const uint64_t pid = t->proc->rec->pid;

    if (!fs || !fs->cwd || !fs->root) {
        agent_refuse(r, "cwd", pid, -1, "its working directory has no path");
        return;
    }
    const char *cwd = fs->cwd;
    struct stat above;

    if (!is_directory(fs->root))
        agent_refuse(r, "root", pid, -1, "its root %s is no directory here", fs->root);
    else if (fs->cwd_inode && !agent_name_is_possible(cwd, &above))
        agent_refuse(r, "cwd", pid, -1,
                     "its working directory %s was deleted and cannot be made again: %s", cwd,
                     g_strerror(errno));
    else if (!fs->cwd_inode && !agent_way_plan(r, cwd))
        agent_refuse(r, "cwd", pid, -1, "its working directory %s is none here", cwd);
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (!agent_has_ended(t))
                plan_task(r, t);
        }
    }
}

static bool change(const struct agent_tracee *t, const char *what, long nr, const char *path,
                   GError **error)
{
    uint64_t at;

    return agent_remote_put(t, 0, path, strlen(path) + 1, &at, error) &&
           agent_remote(t, what, nr, NULL, error, at);
}

static bool change_to_deleted(const AgentTask *t, const struct fmt_fs *fs, GError **error)
{
    const int fd = agent_inode_fd(t->proc->r, fs->cwd_inode);

    return agent_remote(&t->tracee, "fchdir", SYS_fchdir, NULL, error, (uint64_t)(int64_t)fd);
}

// Threads may each have directories of their own, or share them with another process.
static bool build(AgentProc *p, GError **error)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);
        const struct fmt_fs *fs = fs_of(t);

        if (!fs || !agent_has_it_first(t, agent_task_fs))
            continue;
        if (!(fs->cwd_inode ? change_to_deleted(t, fs, error)
                            : change(&t->tracee, "chdir", SYS_chdir, fs->cwd, error)) ||
            (strcmp(fs->root, "/") != 0 &&
             !change(&t->tracee, "chroot", SYS_chroot, fs->root, error)) ||
            !agent_remote(&t->tracee, "umask", SYS_umask, NULL, error, fs->umask))
            return false;
    }
    return true;
}

const struct agent_aspect agent_aspect_fs = {
    .name = "directories",
    .plan = plan,
    .build = build,
};
