// SPDX-License-Identifier: GPL-2.0-or-later
// Working directory, root and umask.

#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

static const struct fmt_fs *fs_of(const AgentProc *p)
{
    return fmt_image_by_ref(p->r->img, agent_leader(p)->rec->fs, FMT_FS);
}

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void plan(AgentRestore *r)
{
    const struct fmt_fs *first = fmt_image_nth(r->img, FMT_FS, 0);

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);
        const struct fmt_fs *fs = fs_of(p);

        if (p->rec->state == FMT_PROC_ZOMBIE)
            continue;
        if (!fs || !fs->cwd || !fs->root) {
            agent_refuse(r, "cwd", p->rec->pid, -1, "its working directory has no path");
            continue;
        }
        if (fs->cwd_inode)
            continue; // of a deleted one the rest is made
        g_autofree char *cwd = g_strconcat(strcmp(fs->root, "/") ? fs->root : "", fs->cwd, NULL);

        if (strcmp(fs->root, first->root) != 0)
            agent_refuse(r, "root", p->rec->pid, -1, "it has another root than the process %s",
                         first->root);
        if (!is_directory(fs->root))
            agent_refuse(r, "root", p->rec->pid, -1, "its root %s is no directory here", fs->root);
        else if (!is_directory(cwd))
            agent_refuse(r, "cwd", p->rec->pid, -1, "its working directory %s is none here", cwd);
    }
}

static bool change(AgentProc *p, const char *what, long nr, const char *path, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    uint64_t at;

    return agent_remote_put(t, 0, path, strlen(path) + 1, &at, error) &&
           agent_remote(t, what, nr, NULL, error, at);
}

static bool change_to_deleted(AgentProc *p, const struct fmt_fs *fs, GError **error)
{
    const int fd = agent_deleted_directory(p->r, fs, error);

    return fd >= 0 &&
           agent_remote(&agent_leader(p)->tracee, "fchdir", SYS_fchdir, NULL, error, (uint64_t)fd);
}

static bool build(AgentProc *p, GError **error)
{
    const struct fmt_fs *fs = fs_of(p);

    return (strcmp(fs->root, "/") == 0 || change(p, "chroot", SYS_chroot, fs->root, error)) &&
           (fs->cwd_inode ? change_to_deleted(p, fs, error)
                          : change(p, "chdir", SYS_chdir, fs->cwd, error)) &&
           agent_remote(&agent_leader(p)->tracee, "umask", SYS_umask, NULL, error, fs->umask);
}

const struct agent_aspect agent_aspect_fs = {
    .name = "directories",
    .plan = plan,
    .build = build,
};
