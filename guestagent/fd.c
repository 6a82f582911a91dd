// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptor tables: what the process inherited from the agent goes to its place, the rest away.

#include <fcntl.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

static int by_number(gconstpointer a, gconstpointer b)
{
    const struct fmt_fd *x = *(struct fmt_fd *const *)a, *y = *(struct fmt_fd *const *)b;

    return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static GPtrArray *table(const AgentTask *t)
{
    GPtrArray *ret = g_ptr_array_new();
    struct fmt_fd *fd;

    for (size_t i = 0; FMT_NEXT(t->proc->r->img, FD, i, fd); i++) {
        if (fd->files == t->rec->files)
            g_ptr_array_add(ret, fd);
    }
    g_ptr_array_sort(ret, by_number);
    return ret;
}

static void plan_table(AgentRestore *r, const AgentTask *t)
{
    const uint64_t pid = t->proc->rec->pid;
    g_autoptr(GPtrArray) fds = table(t);

    for (guint i = 0; i < fds->len; i++) {
        const struct fmt_fd *fd = g_ptr_array_index(fds, i);

        if (i > 0 && fd->fd == ((struct fmt_fd *)g_ptr_array_index(fds, i - 1))->fd)
            agent_refuse(r, "fd", pid, (int64_t)fd->fd, "it is in the image twice");
        if (fd->fd >= G_MAXINT / 2 || !fmt_image_by_ref(r->img, fd->file, FMT_FILE))
            agent_refuse(r, "fd", pid, (int64_t)fd->fd, "the image has no file for it");
    }
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (t->rec->files && agent_has_it_first(t, agent_task_files))
                plan_table(r, t);
        }
    }
}

static bool close_range_remote(const struct agent_tracee *t, uint64_t first, uint64_t last,
                               GError **error)
{
    return first > last ||
           agent_remote(t, "close_range", SYS_close_range, NULL, error, first, last, 0);
}

static bool set_close_on_exec(const struct agent_tracee *t, const struct fmt_fd *fd, GError **error)
{
    return agent_remote(t, "F_SETFD", SYS_fcntl, NULL, error, fd->fd, F_SETFD,
                        fd->cloexec ? FD_CLOEXEC : 0);
}

static bool place(AgentTask *task, const struct fmt_fd *fd, GError **error)
{
    AgentRestore *r = task->proc->r;
    const struct agent_tracee *t = &task->tracee;
    const bool late = agent_file_is_late(r, fd->file);
    int64_t from = agent_file_fd(r, fd->file);

    // It comes under the lowest number that is free, which may be the one that is wanted.
    if (late && !agent_remote(t, "pidfd_getfd", SYS_pidfd_getfd, &from, error,
                              (uint64_t)r->own_pidfd, (uint64_t)from))
        return false;
    if ((uint64_t)from == fd->fd)
        return set_close_on_exec(t, fd, error);
    return agent_remote(t, "dup3", SYS_dup3, NULL, error, (uint64_t)from, fd->fd,
                        fd->cloexec ? O_CLOEXEC : 0) &&
           (!late || agent_remote(t, "close", SYS_close, NULL, error, (uint64_t)from));
}

static bool build_table(AgentTask *task, GError **error)
{
    const struct agent_tracee *t = &task->tracee;
    g_autoptr(GPtrArray) fds = table(task);
    g_autoptr(GArray) kept = agent_exe_kept(task->proc->r, task->rec->files);
    uint64_t next = 0; // first number that is not settled yet

    for (guint i = 0; i < fds->len; i++) {
        const struct fmt_fd *fd = g_ptr_array_index(fds, i);

        if ((fd->fd > 0 && !close_range_remote(t, next, fd->fd - 1, error)) ||
            !place(task, fd, error)) {
            g_prefix_error(error, "descriptor %" G_GUINT64_FORMAT ": ", fd->fd);
            return false;
        }
        next = fd->fd + 1;
    }
    // Ours are above all of the image.
    for (guint i = 0; i < kept->len; i++) {
        const uint64_t fd = (uint64_t)g_array_index(kept, int, i);

        if (fd > next && !close_range_remote(t, next, fd - 1, error))
            return false;
        next = fd + 1;
    }
    return close_range_remote(t, next, ~0u, error);
}

// Each table by the first thread that has it.
static bool build(AgentProc *p, GError **error)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (t->rec->files && agent_has_it_first(t, agent_task_files) && !build_table(t, error))
            return false;
    }
    return true;
}

const struct agent_aspect agent_aspect_fd = {
    .name = "descriptors",
    .plan = plan,
    .build = build,
};
