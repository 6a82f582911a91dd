// SPDX-License-Identifier: GPL-2.0-or-later
// Files below /proc/PID: the process that one speaks of must go along as well.
#include "introspect/file.h"

#include <string.h>
#include <sys/stat.h>

static bool parse_pid(const char *name, uint64_t *ret_pid)
{
    return g_str_has_prefix(name, "/proc/") && g_ascii_isdigit(name[6]) &&
           (*ret_pid = g_ascii_strtoull(name + 6, NULL, 10)) != 0;
}

bool intro_is_process_file(const struct intro_opened *o)
{
    uint64_t pid;

    return strcmp(o->fstype, "proc") == 0 && !o->rec->deleted && parse_pid(o->name, &pid);
}

// /proc/TID is there for any thread, though it is not listed.
static bool is_of_tree(const struct intro_ctx *c, uint64_t pid)
{
    const struct fmt_proc *proc;
    const struct fmt_task *task;

    for (size_t i = 0; FMT_NEXT(c->img, PROC, i, proc); i++)
        if (proc->pid == pid)
            return true;
    for (size_t i = 0; FMT_NEXT(c->img, TASK, i, task); i++)
        if (task->tid == pid)
            return true;
    return false;
}

// Once the whole tree is known.
static bool check_process(struct intro_ctx *c, struct gva at, uint64_t ref, GError **error)
{
    const struct fmt_file *file = fmt_image_by_ref(c->img, ref, FMT_FILE);
    uint64_t pid;

    if (!parse_pid(file->path, &pid) || is_of_tree(c, pid))
        return true;
    intro_refuse(c, "proc-file", "has %s open, which is of a process outside of the tree",
                 file->path);
    return true;
}

// Positions in directories that are the same for the same process everywhere: numbers of
// descriptors.
static bool is_by_number(const char *name)
{
    return g_str_has_suffix(name, "/fd") || g_str_has_suffix(name, "/fdinfo");
}

bool intro_record_process_file(struct intro_opened *o, GError **error)
{
    uint64_t ref = intro_inode(o->c, o->inode, error);

    if (!ref)
        return false;
    o->rec->object = ref;
    o->rec->path = g_strdup(o->name);
    if (S_ISDIR(o->mode) && o->rec->pos && !is_by_number(o->name))
        intro_refuse(o->c, "directory-position", "is in the middle of reading the directory %s",
                     o->name);
    intro_later(o->c, check_process, o->file, o->rec->rec.objref);
    return true;
}
