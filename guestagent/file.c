// SPDX-License-Identifier: GPL-2.0-or-later
// Open file descriptions: opened by the agent, above all descriptors of the image; the processes
// inherit them.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

static const struct agent_file_kind *const kinds[] = {
    &agent_file_reg,     &agent_file_dir,      &agent_file_chr,     &agent_file_pipe,
    &agent_file_memfd,   &agent_file_place,    &agent_file_mqueue,  &agent_file_socket,
    &agent_file_eventfd, &agent_file_signalfd, &agent_file_timerfd, &agent_file_process,
    &agent_file_pidfd,   &agent_file_inotify,  &agent_file_lost,    &agent_file_tty,
    &agent_file_epoll, // of any of the others: last
};

const struct agent_file_kind *agent_file_kind(uint64_t kind)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (kinds[i]->kind == kind)
            return kinds[i];
    }
    return NULL;
}

static void add(AgentRestore *r, uint64_t objref)
{
    const struct fmt_file *rec = fmt_image_by_ref(r->img, objref, FMT_FILE);

    if (!rec || g_hash_table_contains(r->files, &rec->rec.objref))
        return;
    struct agent_file *f = g_new0(struct agent_file, 1);

    f->rec = rec;
    f->fd = -1;
    g_hash_table_insert(r->files, (void *)&rec->rec.objref, f);
}

// Those that a descriptor or a mapping needs; others are there for people (a controlling terminal).
static void collect(AgentRestore *r)
{
    const struct fmt_fd *fd;
    const struct fmt_vma *vma;
    const struct fmt_mm *mm;
    const struct fmt_unix_right *right;
    const struct fmt_epoll_item *item;
    uint64_t top = 2;

    r->files = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    for (size_t i = 0; FMT_NEXT(r->img, FD, i, fd); i++) {
        add(r, fd->file);
        top = MAX(top, fd->fd);
    }
    for (size_t i = 0; FMT_NEXT(r->img, VMA, i, vma); i++)
        add(r, vma->object);
    for (size_t i = 0; FMT_NEXT(r->img, MM, i, mm); i++)
        add(r, mm->exe);
    for (size_t i = 0; FMT_NEXT(r->img, UNIX_RIGHT, i, right); i++)
        add(r, right->file);
    for (size_t i = 0; FMT_NEXT(r->img, EPOLL_ITEM, i, item); i++) {
        add(r, item->file);
        top = MAX(top, item->fd);
    }
    r->fd_base = (int)MIN(top + 1, G_MAXINT / 2);
}

static void plan_numbers(AgentRestore *r)
{
    g_autofree char *text = NULL;
    // The agent's own: one for each file, two for each object, and a few per process.
    const uint64_t need = (uint64_t)r->fd_base + g_hash_table_size(r->files) +
                          2 * fmt_image_count(r->img, FMT_PIPE) +
                          2 * fmt_image_count(r->img, FMT_SHM) +
                          3 * fmt_image_count(r->img, FMT_SOCKET) + 4 * r->procs->len + 64;
    const uint64_t limit = g_file_get_contents("/proc/sys/fs/nr_open", &text, NULL, NULL)
                               ? g_ascii_strtoull(text, NULL, 10)
                               : 1 << 20;

    if (need > limit)
        agent_refuse(r, "nr-open", 0, -1,
                     "descriptors up to %" G_GUINT64_FORMAT
                     " are needed, fs.nr_open is %" G_GUINT64_FORMAT,
                     need, limit);
}

void agent_file_user(AgentRestore *r, uint64_t objref, uint64_t *ret_pid, int64_t *ret_fd)
{
    const struct fmt_fd *fd;
    const struct fmt_vma *vma;
    const struct fmt_task *task;

    *ret_pid = 0;
    *ret_fd = -1;
    for (size_t i = 0; FMT_NEXT(r->img, FD, i, fd); i++) {
        if (fd->file != objref)
            continue;
        for (size_t j = 0; FMT_NEXT(r->img, TASK, j, task); j++) {
            const struct fmt_proc *proc = fmt_image_by_ref(r->img, task->proc, FMT_PROC);

            if (task->files != fd->files || !proc)
                continue;
            *ret_pid = proc->pid;
            *ret_fd = (int64_t)fd->fd;
            return;
        }
    }
    for (size_t i = 0; FMT_NEXT(r->img, VMA, i, vma); i++) {
        const AgentProc *p = vma->object == objref ? agent_mm_owner(r, vma->mm) : NULL;

        if (p) {
            *ret_pid = p->rec->pid;
            return;
        }
    }
}

void agent_files_plan(AgentRestore *r)
{
    GHashTableIter iter;
    struct agent_file *f;

    collect(r);
    plan_numbers(r);
    g_hash_table_iter_init(&iter, r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        const struct agent_file_kind *kind = agent_file_kind(f->rec->kind);

        if (kind)
            kind->plan(r, f->rec);
        else if (f->rec->kind == FMT_FILE_OTHER)
            agent_refuse_file(r, "file-kind", f->rec->rec.objref, "%s is not supported",
                              f->rec->path ? f->rec->path : "an open file of this kind");
        else
            agent_refuse_file(r, "file-kind", f->rec->rec.objref,
                              "a file of kind %" G_GUINT64_FORMAT " is not supported",
                              f->rec->kind);
    }
}

// Descriptors of the image may be higher than what we are allowed; so are ours.
static bool raise_limit(AgentRestore *r, GError **error)
{
    struct rlimit limit;
    const uint64_t need = (uint64_t)r->fd_base + 2 * g_hash_table_size(r->files) +
                          2 * fmt_image_count(r->img, FMT_SHM) +
                          3 * fmt_image_count(r->img, FMT_SOCKET) + 4 * r->procs->len + 1024;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return agent_fail_errno(error, "RLIMIT_NOFILE");
    r->saved_nofile[0] = limit.rlim_cur;
    r->saved_nofile[1] = limit.rlim_max;
    if (limit.rlim_cur >= need)
        return true;
    limit.rlim_cur = need;
    limit.rlim_max = MAX(limit.rlim_max, need);
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return agent_fail_errno(error, "descriptors up to %" G_GUINT64_FORMAT, need);
    return true;
}

// For processes that are there already: by a pidfd of ours, which they inherit.
static bool open_own_pidfd(AgentRestore *r, GError **error)
{
    r->own_pidfd = agent_fd_up(r, (int)syscall(SYS_pidfd_open, getpid(), 0), error);
    return r->own_pidfd >= 0;
}

bool agent_file_late(AgentRestore *r, const struct fmt_file *f, int fd, GError **error)
{
    struct agent_file *file = g_hash_table_lookup(r->files, &f->rec.objref);

    file->fd = agent_fd_up(r, fd, error);
    file->late = true;
    return file->fd >= 0;
}

bool agent_file_is_late(AgentRestore *r, uint64_t objref)
{
    const struct agent_file *f = g_hash_table_lookup(r->files, &objref);

    return f && f->late;
}

static bool open_all(AgentRestore *r, GError **error)
{
    GHashTableIter iter;
    struct agent_file *f;

    g_hash_table_iter_init(&iter, r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        const struct agent_file_kind *kind = agent_file_kind(f->rec->kind);

        if (kind->later[AGENT_FILE_LATE] && !r->own_pidfd && !open_own_pidfd(r, error))
            return false;
        if (!kind->open)
            continue;
        f->fd = kind->open(r, f->rec, error);
        if (f->fd < 0) {
            if (f->rec->path)
                g_prefix_error(error, "%s: ", f->rec->path);
            return false;
        }
    }
    return true;
}

bool agent_files_open(AgentRestore *r, GError **error)
{
    GPtrArray *deleted;

    if (!raise_limit(r, error) || !agent_way_make(r, error) ||
        !(deleted = agent_deleted_directories(r, error)))
        return false;
    const bool ok = open_all(r, error);

    agent_deleted_directories_drop(deleted);
    agent_aside_leave(r);
    return ok;
}

static int by_objref(gconstpointer a, gconstpointer b)
{
    const struct agent_file *x = *(struct agent_file *const *)a;
    const struct agent_file *y = *(struct agent_file *const *)b;

    return x->rec->rec.objref < y->rec->rec.objref ? -1 : 1;
}

bool agent_files_stage(AgentRestore *r, enum agent_file_stage stage, GError **error)
{
    g_autoptr(GPtrArray) files = g_ptr_array_new();
    GHashTableIter iter;
    void *file;

    g_hash_table_iter_init(&iter, r->files);
    while (g_hash_table_iter_next(&iter, NULL, &file))
        g_ptr_array_add(files, file);
    g_ptr_array_sort(files, by_objref);
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        for (guint j = 0; kinds[i]->later[stage] && j < files->len; j++) {
            const struct agent_file *f = g_ptr_array_index(files, j);

            if (f->rec->kind != kinds[i]->kind || kinds[i]->later[stage](r, f->rec, error))
                continue;
            g_prefix_error(error, "%s: ", f->rec->path ? f->rec->path : kinds[i]->name);
            return false;
        }
    }
    return true;
}

void agent_files_close(AgentRestore *r)
{
    for (guint i = 0; i < r->fds->len; i++)
        close(g_array_index(r->fds, int, i));
    g_array_set_size(r->fds, 0);
    if (r->saved_nofile[1]) {
        const struct rlimit limit = {r->saved_nofile[0], r->saved_nofile[1]};

        setrlimit(RLIMIT_NOFILE, &limit);
        r->saved_nofile[1] = 0;
    }
}

int agent_file_fd(AgentRestore *r, uint64_t objref)
{
    const struct agent_file *f = g_hash_table_lookup(r->files, &objref);

    return f ? f->fd : -1;
}

int agent_fd_up(AgentRestore *r, int fd, GError **error)
{
    if (fd < 0) {
        agent_fail_errno(error, "open");
        return -1;
    }
    if (fd < r->fd_base) {
        const int up = fcntl(fd, F_DUPFD_CLOEXEC, r->fd_base);

        if (up < 0)
            agent_fail_errno(error, "F_DUPFD");
        close(fd);
        fd = up;
    }
    if (fd >= 0)
        g_array_append_val(r->fds, fd);
    return fd;
}

void agent_file_set_fd(AgentRestore *r, uint64_t objref, int fd)
{
    struct agent_file *f = g_hash_table_lookup(r->files, &objref);

    if (f)
        f->fd = fd;
}

bool agent_fd_status(int fd, const struct fmt_file *f, GError **error)
{
    const int keep = O_APPEND | O_NONBLOCK | O_NOATIME;

    return fcntl(fd, F_SETFL, (int)f->flags & keep) == 0 || agent_fail_errno(error, "status flags");
}

int agent_reopen(AgentRestore *r, int fd, int flags, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    return agent_fd_up(r, open(path, flags | O_CLOEXEC | O_NOCTTY), error);
}

void agent_fd_close(AgentRestore *r, int fd)
{
    for (guint i = 0; i < r->fds->len; i++) {
        if (g_array_index(r->fds, int, i) != fd)
            continue;
        g_array_remove_index_fast(r->fds, i);
        close(fd);
        return;
    }
}
