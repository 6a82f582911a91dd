// SPDX-License-Identifier: GPL-2.0-or-later
// Pidfds (a struct pid behind a file): which process or thread of the tree each stands for.
#include "introspect/file.h"
#include "introspect/reader.h"
#include "introspect/task.h"

#define KERNEL_PIDFD_THREAD 0200 // O_EXCL
#define PIDTYPE_PID         0    // enum pid_type, include/linux/pid.h
#define PIDTYPE_TGID        1

static bool is_alive(IntroReader *r, struct gva pid)
{
    struct gva heads = intro_member_addr(r->k, pid, M_pid_tasks);

    // A thread that leads nothing has no entry of the second kind.
    return rd_u64_at(r, GVA(heads.addr + 8 * PIDTYPE_PID)) != 0 ||
           rd_u64_at(r, GVA(heads.addr + 8 * PIDTYPE_TGID)) != 0;
}

static uint64_t thread_of_tree(const FmtImage *img, uint64_t tid)
{
    const struct fmt_task *task;

    for (size_t i = 0; FMT_NEXT(img, TASK, i, task); i++)
        if (task->tid == tid)
            return task->rec.objref;
    return 0;
}

static uint64_t process_of_tree(const FmtImage *img, uint64_t pid)
{
    const struct fmt_proc *proc;

    for (size_t i = 0; FMT_NEXT(img, PROC, i, proc); i++)
        if (proc->pid == pid)
            return proc->rec.objref;
    return 0;
}

static struct gva pid_of(IntroReader *r, struct gva file)
{
    struct gva pid = rd_ptr(r, file, M_file_private);

    // With a file system of their own (6.9) the inode is the process's; before, all shared one.
    return pid.addr ? pid : rd_ptr(r, rd_ptr(r, file, M_file_inode), M_inode_private);
}

// Nobody can tell who it was any more, but that it is the same as that of an earlier file.
static bool record_gone(struct intro_ctx *c, struct gva pid, struct fmt_file *file, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    GHashTableIter iter;
    void *at, *ref;

    file->object = 0;
    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        const struct fmt_file *other = fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), FMT_FILE);

        if (other && other->kind == FMT_FILE_PIDFD && other->object == 0 &&
            other->rec.objref < file->rec.objref &&
            pid_of(&r, GVA(GPOINTER_TO_SIZE(at))).addr == pid.addr)
            file->object = other->rec.objref;
    }
    return rd_done(&r, error);
}

// Once the whole tree is known.
static bool find_target(struct intro_ctx *c, struct gva at, uint64_t ref, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct fmt_file *file = fmt_image_by_ref(c->img, ref, FMT_FILE);
    struct gva pid = pid_of(&r, at);
    const bool alive = is_alive(&r, pid);
    const uint64_t number = intro_pid_nr(&r, pid, intro_pid_level(&r, c->root_task));

    if (!rd_done(&r, error))
        return false;
    if (!alive)
        return record_gone(c, pid, file, error);
    if (number)
        file->object = file->flags & KERNEL_PIDFD_THREAD ? thread_of_tree(c->img, number)
                                                         : process_of_tree(c->img, number);
    if (!file->object) {
        intro_refuse(c, "pidfd",
                     "has a pidfd of process %" G_GUINT64_FORMAT ", which is outside of the tree",
                     number);
        file->kind = FMT_FILE_OTHER;
    }
    return true;
}

bool intro_record_pidfd(struct intro_opened *o, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);

    o->rec->path = g_strdup(o->name);
    o->rec->flags |= rd(&r, o->file, M_file_flags) & KERNEL_PIDFD_THREAD;
    intro_later(o->c, find_target, o->file, o->rec->rec.objref);
    return rd_done(&r, error);
}
