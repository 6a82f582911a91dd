// SPDX-License-Identifier: GPL-2.0-or-later
// Whom a file tells when something happens to it: F_SETOWN, F_SETSIG, O_ASYNC.
//
// After leases, which make an owner of their own, and after everything that could make a file tell
// something.

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

// The number that a process or thread of the image has here, 0 for none.
static pid_t number_here(AgentRestore *r, uint64_t type, uint64_t nr)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (t->rec->tid == nr && (type == F_OWNER_TID || p->rec->pid == nr))
                return t->tracee.tid;
        }
    }
    return 0;
}

static bool is_in_image(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_task *task;
    const struct fmt_proc *proc;

    for (size_t i = 0; f->owner_type == F_OWNER_TID && FMT_NEXT(r->img, TASK, i, task); i++)
        if (task->tid == f->owner_pid)
            return true;
    for (size_t i = 0; FMT_NEXT(r->img, PROC, i, proc); i++)
        if (proc->pid == f->owner_pid)
            return true;
    return false;
}

static void plan(AgentRestore *r)
{
    GHashTableIter iter;
    struct agent_file *f;

    g_hash_table_iter_init(&iter, r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        if (f->rec->owner_pid && (f->rec->owner_type > F_OWNER_PGRP || !is_in_image(r, f->rec)))
            agent_refuse_file(r, "file-owner", f->rec->rec.objref,
                              "it tells %" G_GUINT64_FORMAT ", which is not in the image",
                              f->rec->owner_pid);
    }
}

// The kernel remembers who says so, and lets the file send only what he may send.
static int set_owner(int fd, const struct fmt_file *f, pid_t pid)
{
    const struct f_owner_ex owner = {.type = (int)f->owner_type, .pid = pid};

    // The system call: of the library's function all threads would take part.
    if (syscall(SYS_setresuid, (uid_t)f->owner_uid, (uid_t)f->owner_euid, 0) < 0)
        return -1;
    const int ret = fcntl(fd, F_SETOWN_EX, &owner);

    return syscall(SYS_setresuid, 0, 0, 0) < 0 ? -1 : ret;
}

static bool set(AgentRestore *r, const struct fmt_file *f, int fd, GError **error)
{
    const pid_t pid = f->owner_pid ? number_here(r, f->owner_type, f->owner_pid) : 0;

    if (f->owner_pid && (!pid || set_owner(fd, f, pid) < 0))
        return agent_fail_errno(error, "owner of an open file");
    if (f->owner_sig && fcntl(fd, F_SETSIG, (int)f->owner_sig) < 0)
        return agent_fail_errno(error, "signal of an open file");
    return true;
}

// By the process: the signal tells the number of the descriptor that it was asked for with.
static bool set_async(AgentProc *p, const struct fmt_file *f, uint64_t fd, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    int64_t flags;

    return agent_remote(t, "F_GETFL", SYS_fcntl, &flags, error, fd, F_GETFL) &&
           agent_remote(t, "F_SETFL", SYS_fcntl, NULL, error, fd, F_SETFL,
                        (uint64_t)flags | O_ASYNC);
}

static bool finish(AgentProc *p, GError **error)
{
    AgentRestore *r = p->r;
    GHashTableIter iter;
    struct agent_file *f;

    g_hash_table_iter_init(&iter, r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        const struct fmt_file *rec = f->rec;
        uint64_t pid;
        int64_t fd;

        if (f->fd < 0 || !(rec->owner_pid || rec->owner_sig || rec->flags & O_ASYNC))
            continue;
        agent_file_user(r, rec->rec.objref, &pid, &fd);
        if (pid != p->rec->pid && (pid || p != g_ptr_array_index(r->procs, 0)))
            continue;
        if (!set(r, rec, f->fd, error) ||
            (rec->flags & O_ASYNC && fd >= 0 && !set_async(p, rec, (uint64_t)fd, error))) {
            g_prefix_error(error, "%s: ", rec->path ? rec->path : "an open file");
            return false;
        }
    }
    return true;
}

const struct agent_aspect agent_aspect_fown = {
    .name = "owners of files",
    .plan = plan,
    .finish = finish,
};
