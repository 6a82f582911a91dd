// SPDX-License-Identifier: GPL-2.0-or-later
// File locks: taken again by those who held them, once nobody closes inherited descriptors any
// more.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "guestagent/engine.h"

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#endif
#ifndef F_SETLEASE
#define F_SETLEASE 1024
#endif

// A thread that has the file open, and its descriptor.
struct holder {
    AgentTask *task;
    int fd;
};

// How well a thread fits: who took the lock by the descriptor that he used is best.
static int fitness(const struct fmt_lock *lock, const AgentTask *t, const struct fmt_fd *fd)
{
    return 1 + 2 * (t->proc->rec->pid == lock->pid) +
           (lock->kind == FMT_LOCK_LEASE && fd->fd == lock->fd);
}

static struct holder find_holder(AgentRestore *r, const struct fmt_lock *lock)
{
    struct holder best = {NULL, -1};
    const struct fmt_fd *fd;
    int how_good = 0;

    for (size_t i = 0; FMT_NEXT(r->img, FD, i, fd); i++) {
        if (fd->file != lock->file || (lock->files && fd->files != lock->files))
            continue;
        for (guint j = 0; j < r->procs->len; j++) {
            const AgentProc *p = g_ptr_array_index(r->procs, j);

            for (guint k = 0; p->rec->state != FMT_PROC_ZOMBIE && k < p->tasks->len; k++) {
                AgentTask *t = g_ptr_array_index(p->tasks, k);

                if (t->rec->files != fd->files || fitness(lock, t, fd) <= how_good)
                    continue;
                how_good = fitness(lock, t, fd);
                best = (struct holder){t, (int)fd->fd};
            }
        }
    }
    return best;
}

/* ---- plan ---- */

// A lock of somebody on this machine, as a line of /proc/locks tells.
struct local_lock {
    char family; // F: flock, P: fcntl and open file description locks, L: lease
    bool write;
    dev_t dev;
    uint64_t ino, start, end;
};

static bool parse(const char *line, struct local_lock *ret)
{
    char family[16], mode[16], access[16], end[24];
    unsigned major, minor;

    if (sscanf(line,
               "%*u: %15s %15s %15s %*d %x:%x:%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %23s",
               family, mode, access, &major, &minor, &ret->ino, &ret->start, end) != 8)
        return false;
    ret->family = family[0] == 'O' ? 'P' : family[0];
    ret->write = strcmp(access, "WRITE") == 0;
    ret->dev = makedev(major, minor);
    ret->end = strcmp(end, "EOF") == 0 ? G_MAXINT64 : g_ascii_strtoull(end, NULL, 10);
    return true;
}

static bool conflicts(const struct fmt_lock *lock, const struct local_lock *with)
{
    static const char families[] = {
        [FMT_LOCK_FLOCK] = 'F',
        [FMT_LOCK_POSIX] = 'P',
        [FMT_LOCK_OFD] = 'P',
        [FMT_LOCK_LEASE] = 'L',
    };

    if (families[lock->kind] != with->family || (lock->type != F_WRLCK && !with->write))
        return false;
    return with->family != 'P' || (lock->start <= with->end && with->start <= lock->end);
}

static void plan_lock(AgentRestore *r, const struct fmt_lock *lock, char **lines)
{
    const struct fmt_file *f = fmt_image_by_ref(r->img, lock->file, FMT_FILE);
    const char *path = f && f->path && f->path[0] == '/' ? f->path : NULL;
    struct local_lock local;
    struct stat st;

    if (lock->kind > FMT_LOCK_LEASE || lock->type > F_WRLCK || lock->end > G_MAXINT64 ||
        lock->start > lock->end || (lock->kind == FMT_LOCK_POSIX && !find_holder(r, lock).task)) {
        agent_refuse_file(r, "file-lock", lock->file, "its lock of %s cannot be taken",
                          f && f->path ? f->path : "a file");
        return;
    }
    if (!path || f->deleted || stat(path, &st) < 0)
        return;
    for (char **line = lines; line && *line; line++) {
        if (parse(*line, &local) && local.dev == st.st_dev && local.ino == st.st_ino &&
            conflicts(lock, &local))
            agent_refuse_file(r, "file-lock", lock->file, "%s is locked by another process here",
                              path);
    }
}

static void plan(AgentRestore *r)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    const struct fmt_lock *lock;

    if (fmt_image_count(r->img, FMT_LOCK) == 0)
        return;
    if (g_file_get_contents("/proc/locks", &text, NULL, NULL))
        lines = g_strsplit(text, "\n", -1);
    for (size_t i = 0; FMT_NEXT(r->img, LOCK, i, lock); i++)
        plan_lock(r, lock, lines);
}

/* ---- taking ---- */

static struct flock range(const struct fmt_lock *lock)
{
    return (struct flock){
        .l_type = (short)lock->type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)lock->start,
        .l_len = lock->end == G_MAXINT64 ? 0 : (off_t)(lock->end - lock->start + 1),
    };
}

static int flock_operation(const struct fmt_lock *lock)
{
    return (lock->type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB;
}

static bool take_remote(const struct holder *h, const struct fmt_lock *lock, GError **error)
{
    const struct agent_tracee *t = &h->task->tracee;
    const struct flock bytes = range(lock);
    uint64_t at;

    switch (lock->kind) {
    case FMT_LOCK_FLOCK:
        return agent_remote(t, "flock", SYS_flock, NULL, error, (uint64_t)h->fd,
                            (uint64_t)flock_operation(lock));
    case FMT_LOCK_LEASE:
        return agent_remote(t, "F_SETLEASE", SYS_fcntl, NULL, error, (uint64_t)h->fd, F_SETLEASE,
                            lock->type);
    default:
        return agent_remote_put(t, 0, &bytes, sizeof bytes, &at, error) &&
               agent_remote(t, "F_SETLK", SYS_fcntl, NULL, error, (uint64_t)h->fd,
                            lock->kind == FMT_LOCK_OFD ? F_OFD_SETLK : F_SETLK, at);
    }
}

// The file is only mapped, or on its way through a socket: the lock is the open file's all the
// same.
static bool take_here(AgentRestore *r, const struct fmt_lock *lock, GError **error)
{
    const int fd = agent_file_fd(r, lock->file);
    struct flock bytes = range(lock);
    int ret = -1;

    if (fd < 0)
        return true; // nothing refers to it
    if (lock->kind == FMT_LOCK_FLOCK)
        ret = flock(fd, flock_operation(lock));
    else if (lock->kind == FMT_LOCK_OFD)
        ret = fcntl(fd, F_OFD_SETLK, &bytes);
    else if (lock->kind == FMT_LOCK_LEASE)
        ret = fcntl(fd, F_SETLEASE, (int)lock->type);
    return ret == 0 || agent_fail_errno(error, "lock");
}

static bool finish(AgentProc *p, GError **error)
{
    const bool first = p == g_ptr_array_index(p->r->procs, 0);
    const struct fmt_lock *lock;

    for (size_t i = 0; FMT_NEXT(p->r->img, LOCK, i, lock); i++) {
        const struct holder h = find_holder(p->r, lock);
        const struct fmt_file *f = fmt_image_by_ref(p->r->img, lock->file, FMT_FILE);

        if (h.task ? h.task->proc == p && !take_remote(&h, lock, error)
                   : first && !take_here(p->r, lock, error)) {
            g_prefix_error(error, "%s: ", f->path ? f->path : "a file");
            return false;
        }
    }
    return true;
}

const struct agent_aspect agent_aspect_flock = {
    .name = "file locks",
    .plan = plan,
    .finish = finish,
};
