// SPDX-License-Identifier: GPL-2.0-or-later
// Whom a file tells when something happens to it: owner and signal (F_SETOWN, F_SETSIG), dnotify.
#include "introspect/fd.h"
#include "introspect/file.h"
#include "introspect/reader.h"
#include "introspect/task.h"

#define MAX_MARKS     (1u << 16)
#define PIDTYPE_PGID  2 // enum pid_type, include/linux/pid.h; it counts like F_OWNER_*
#define PIDTYPE_COUNT 4

// Whether anybody has the number still; a struct pid outlives who had it.
static bool is_alive(IntroReader *r, struct gva pid, uint64_t type)
{
    struct gva heads = intro_member_addr(r->k, pid, M_pid_tasks);

    return type < PIDTYPE_COUNT && rd_u64_at(r, GVA(heads.addr + 8 * type)) != 0;
}

static bool read_owner(struct intro_opened *o, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);
    bool is_pointer = intro_place(o->c->k, M_file_owner)->size_bytes == 8;
    struct gva owner = is_pointer ? rd_ptr(&r, o->file, M_file_owner)
                                  : intro_member_addr(o->c->k, o->file, M_file_owner);

    if (owner.addr) {
        struct gva pid = rd_ptr(&r, owner, M_fown_pid);
        o->rec->owner_sig = rd(&r, owner, M_fown_signum);
        o->rec->owner_type = rd(&r, owner, M_fown_type);
        o->rec->owner_uid = rd(&r, owner, M_fown_uid);
        o->rec->owner_euid = rd(&r, owner, M_fown_euid);
        if (pid.addr && is_alive(&r, pid, o->rec->owner_type)) {
            o->rec->owner_pid = intro_pid_nr(&r, pid, intro_pid_level(&r, o->c->root_task));
            // Seen from the tree, somebody without a number.
            if (!o->rec->owner_pid)
                intro_refuse(o->c, "file-owner",
                             "has %s send signals to a process of another pid namespace", o->name);
        }
    }
    return rd_done(&r, error);
}

/* ---- dnotify (fs/notify/dnotify/dnotify.c) ---- */

static bool is_told(IntroReader *r, struct gva mark, struct gva file)
{
    struct gva dn = rd_ptr(r, intro_container(r->k, mark, M_dnotify_mark), M_dnotify_dn);

    for (unsigned i = 0; dn.addr && i < MAX_MARKS; i++) {
        if (rd_ptr(r, dn, M_dnotify_file).addr == file.addr)
            return true;
        dn = rd_ptr(r, dn, M_dnotify_next);
    }
    return false;
}

static bool check_dnotify(struct intro_opened *o, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);
    struct gva symbol, group, node;

    if (!intro_has(o->c->k, M_inode_marks) || !intro_has(o->c->k, M_dnotify_mark) ||
        !intro_symbol(o->c->k, "dnotify_group", &symbol, NULL))
        return true;
    struct gva marks = rd_ptr(&r, o->inode, M_inode_marks);
    if (!marks.addr)
        return rd_done(&r, error);
    group = rd_ptr_at(&r, symbol);
    node = rd_ptr(&r, marks, M_connector_list);
    for (unsigned i = 0; node.addr && i < MAX_MARKS; i++) {
        struct gva mark = intro_container(o->c->k, node, M_mark_obj_list);
        if (rd_ptr(&r, mark, M_mark_group).addr == group.addr && is_told(&r, mark, o->file))
            intro_refuse(o->c, "dnotify", "is told of changes in the directory %s (F_NOTIFY)",
                         o->name);
        node = rd_ptr_at(&r, node); // hlist_node.next
    }
    return rd_done(&r, error);
}

bool intro_file_owner(struct intro_opened *o, GError **error)
{
    return read_owner(o, error) && check_dnotify(o, error);
}

/* ---- whether the owner goes along ---- */

static bool is_in_tree(const FmtImage *img, const struct fmt_file *file)
{
    const struct fmt_proc *proc;
    const struct fmt_task *task;

    for (size_t i = 0; FMT_NEXT(img, PROC, i, proc); i++)
        if (proc->pid == file->owner_pid)
            return true;
    // A group of a leader that has ended keeps the number.
    for (size_t i = 0; file->owner_type != PIDTYPE_PGID && FMT_NEXT(img, TASK, i, task); i++)
        if (task->tid == file->owner_pid)
            return true;
    return false;
}

void intro_file_check_owners(struct intro_ctx *c)
{
    const struct fmt_file *file;

    for (size_t i = 0; FMT_NEXT(c->img, FILE, i, file); i++) {
        if (!file->owner_pid || is_in_tree(c->img, file))
            continue;
        intro_blame_holder(c, file->rec.objref);
        intro_refuse(
            c, "file-owner", "has %s send signals to %s %" G_GUINT64_FORMAT ", outside of the tree",
            file->path ? file->path : "an open file",
            file->owner_type == PIDTYPE_PGID ? "process group" : "process", file->owner_pid);
    }
    c->fd = -1;
}
