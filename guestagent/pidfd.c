// SPDX-License-Identifier: GPL-2.0-or-later
// Pidfds: opened once the processes and threads are there.

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/fork.h"

#define THREAD O_EXCL // PIDFD_THREAD, since 6.9

// 0 for one that is gone.
static pid_t target_of(AgentRestore *r, const struct fmt_file *f)
{
    for (guint i = 0; f->object && i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->rec.objref == f->object)
            return agent_leader(p)->tracee.tid;
        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (t->rec->rec.objref == f->object)
                return t->tracee.tid;
        }
    }
    return 0;
}

static int open_pidfd(pid_t pid, const struct fmt_file *f)
{
    return (int)syscall(SYS_pidfd_open, pid, (unsigned)f->flags & (O_NONBLOCK | THREAD));
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const int probe = open_pidfd(getpid(), f);

    if (probe < 0)
        agent_refuse_file(r, "pidfd", f->rec.objref, "a pidfd%s: %s",
                          f->flags & THREAD ? " of a thread" : "", g_strerror(errno));
    else
        close(probe);
    if (f->object && !fmt_image_by_ref(r->img, f->object, FMT_PROC) &&
        !fmt_image_by_ref(r->img, f->object, FMT_TASK) &&
        !fmt_image_by_ref(r->img, f->object, FMT_FILE))
        agent_refuse_file(r, "pidfd", f->rec.objref, "a pidfd of what is no process");
}

static bool status(const struct fmt_file *f, int fd, GError **error)
{
    return fd >= 0 && agent_fd_status(fd, f, error);
}

// Of a process that has ended, and was waited for, before anybody looks. All files for it are
// opened while its pid is there.
static bool open_gone(AgentRestore *r, const struct fmt_file *first, GError **error)
{
    const pid_t child = agent_fork_high(0);
    GHashTableIter iter;
    struct agent_file *f;
    bool ok = true;

    if (child == 0)
        _exit(0);
    if (child < 0)
        return agent_fail_errno(error, "fork");
    g_hash_table_iter_init(&iter, r->files);
    while (ok && g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        if (f->rec != first &&
            (f->rec->kind != FMT_FILE_PIDFD || f->rec->object != first->rec.objref || f->fd >= 0))
            continue;
        ok = agent_file_late(r, f->rec, open_pidfd(child, f->rec), error) &&
             status(f->rec, f->fd, error);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return ok;
}

static bool open_late(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const pid_t pid = target_of(r, f);

    if (pid)
        return agent_file_late(r, f, open_pidfd(pid, f), error) &&
               status(f, agent_file_fd(r, f->rec.objref), error);
    // Opened with the first of them, which comes before it.
    if (agent_file_fd(r, f->rec.objref) >= 0)
        return true;
    return open_gone(r, f, error);
}

const struct agent_file_kind agent_file_pidfd = {
    .kind = FMT_FILE_PIDFD,
    .name = "pidfd",
    .plan = plan,
    .later = {[AGENT_FILE_LATE] = open_late},
};
