// SPDX-License-Identifier: GPL-2.0-or-later
// Files below /proc/PID: opened once the process has its address space, which some of them hold.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

static const AgentTask *find(const AgentProc *p, uint64_t tid)
{
    if (p->rec->pid == tid)
        return agent_leader(p);
    for (guint i = 0; i < p->tasks->len; i++) {
        const AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (t->rec->tid == tid)
            return t;
    }
    return NULL;
}

// The thread that the path speaks of, a process's main one as a rule; NULL for none of ours.
// *ret_rest is what follows its number.
static const AgentTask *task_of(AgentRestore *r, const struct fmt_file *f, const char **ret_rest)
{
    char *rest = NULL;
    const uint64_t pid = f->path && g_str_has_prefix(f->path, "/proc/")
                             ? g_ascii_strtoull(f->path + 6, &rest, 10)
                             : 0;

    for (guint i = 0; pid && i < r->procs->len; i++) {
        const AgentTask *t = find(g_ptr_array_index(r->procs, i), pid);

        if (t && (*rest == '/' || !*rest)) {
            *ret_rest = rest;
            return t;
        }
    }
    return NULL;
}

// /task/TID and what follows, with the number that the thread has here.
static char *translate_task(const AgentProc *p, const char *rest)
{
    char *after;

    if (!g_str_has_prefix(rest, "/task/") || !g_ascii_isdigit(rest[6]))
        return g_strdup(rest);
    const uint64_t tid = g_ascii_strtoull(rest + 6, &after, 10);

    const AgentTask *t = find(p, tid);

    return t ? g_strdup_printf("/task/%d%s", t->tracee.tid, after) : g_strdup(rest);
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const char *rest;
    struct stat st;

    if (!task_of(r, f, &rest)) {
        agent_refuse_file(r, "proc-file", f->rec.objref, "%s is of no process of the image",
                          f->path ? f->path : "a file of /proc");
        return;
    }
    g_autofree char *like = g_strconcat("/proc/self", rest, NULL);

    // Those of threads and descriptors are not there yet.
    if (!strpbrk(rest, "0123456789") && lstat(like, &st) < 0)
        agent_refuse_file(r, "file-missing", f->rec.objref, "%s: %s", like, g_strerror(errno));
    if (r->opt.new_pid_namespace)
        agent_note_file(r, "proc-file", f->rec.objref,
                        "%s shows under the number that /proc has for it here", f->path);
}

// The descriptor that fdinfo/NUMBER speaks of, -1 where it is something else.
static int64_t described(const char *rest)
{
    const char *name = strstr(rest, "/fdinfo/");
    uint64_t fd;

    return name && g_ascii_string_to_unsigned(name + strlen("/fdinfo/"), 10, 0, G_MAXINT, &fd, NULL)
               ? (int64_t)fd
               : -1;
}

// Descriptors are not in their places yet, and one that is missing has no such file: until it is
// open, another stands for it. What it says is read from the one that is there then.
static bool open_described(AgentRestore *r, const AgentProc *p, uint64_t fd, const char *path,
                           int flags, int *ret, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    if (!agent_remote(t, "dup3", SYS_dup3, NULL, error, (uint64_t)r->own_pidfd, fd, O_CLOEXEC))
        return false;
    const int opened = open(path, flags), saved = errno;

    if (!agent_remote(t, "close", SYS_close, NULL, error, fd)) {
        if (opened >= 0)
            close(opened);
        return false;
    }
    errno = saved;
    *ret = opened;
    return true;
}

static bool open_late(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const char *rest;
    const AgentTask *t = task_of(r, f, &rest);
    const AgentProc *p = t->proc;
    g_autofree char *below = translate_task(p, rest);
    g_autofree char *path = g_strdup_printf("/proc/%d%s", t->tracee.tid, below);
    const int flags = (int)(f->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) | O_NOCTTY | O_CLOEXEC;
    const int64_t of = described(below);
    int fd = open(path, flags);

    if (fd < 0 && errno == ENOENT && of >= 0 &&
        !open_described(r, p, (uint64_t)of, path, flags, &fd, error))
        return false;
    return agent_file_late(r, f, fd, error);
}

// What it says up to there is made anew: now that it says what it will.
static bool seek(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    return f->pos == 0 || f->flags & O_PATH ||
           lseek(agent_file_fd(r, f->rec.objref), (off_t)f->pos, SEEK_SET) == (off_t)f->pos ||
           agent_fail_errno(error, "seek to %" G_GUINT64_FORMAT, f->pos);
}

const struct agent_file_kind agent_file_process = {
    .kind = FMT_FILE_PROCESS,
    .name = "file of a process",
    .plan = plan,
    .later = {[AGENT_FILE_LATE] = open_late, [AGENT_FILE_ARM] = seek},
};
