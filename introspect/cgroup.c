// SPDX-License-Identifier: GPL-2.0-or-later
// The cgroup of a process (struct css_set): its path in the hierarchy of version 2.
#include "introspect/context.h"
#include "introspect/process.h"
#include "introspect/reader.h"

#define MAX_DEPTH      256
#define MAX_NAME_BYTES 256
#define MAX_LINKS      64 // hierarchies

// From the root of its hierarchy; NULL with an error in the reader.
static char *cgroup_path(IntroReader *r, struct gva cgroup)
{
    struct gva node = rd_ptr(r, cgroup, M_cgroup_kn);
    g_autoptr(GString) path = g_string_new("");

    for (unsigned n = 0; node.addr && !r->error; n++) {
        struct gva parent = rd_ptr(r, node, M_kernfs_parent);

        if (!parent.addr || n == MAX_DEPTH)
            break;
        struct gva name_at = rd_ptr(r, node, M_kernfs_name);
        g_autofree char *name =
            r->error ? NULL : intro_read_str(r->k, name_at, MAX_NAME_BYTES, &r->error);
        if (!name)
            break;
        g_string_prepend(path, name);
        g_string_prepend_c(path, '/');
        node = parent;
    }
    if (r->error)
        return NULL;
    if (path->len == 0)
        g_string_append_c(path, '/');
    return g_utf8_make_valid(path->str, -1);
}

struct link_walk {
    struct intro_ctx *c;
    struct gva unified; // what is read by itself
};

// Of version 1, where something other than the root may mean limits.
static bool read_link(struct gva node, void *user, GError **error)
{
    struct link_walk *w = user;
    g_auto(IntroReader) r = INTRO_READER(w->c->k);
    struct gva cgroup =
        rd_ptr(&r, intro_container(w->c->k, node, M_cset_link_list), M_cset_link_cgroup);

    if (!r.error && cgroup.addr != w->unified.addr) {
        g_autofree char *path = cgroup_path(&r, cgroup);

        if (path && path[1])
            intro_note(w->c, FMT_NOTE_LOSS, "cgroup",
                       "its place %s in a hierarchy of cgroups version 1 does not go along", path);
    }
    return rd_done(&r, error);
}

// In the hierarchy of version 2; 0 where the kernel has none.
static struct gva unified(IntroReader *r, struct gva task)
{
    if (!intro_has(r->k, M_task_cgroups) || !intro_has(r->k, M_kernfs_parent))
        return GVA(0);
    return rd_ptr(r, rd_ptr(r, task, M_task_cgroups), M_css_set_unified);
}

bool intro_cgroup(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct link_walk walk = {c, unified(&r, leader)};

    if (r.error || !walk.unified.addr)
        return rd_done(&r, error);
    proc->cgroup = cgroup_path(&r, walk.unified);
    if (rd_opt(&r, walk.unified, M_cgroup_e_freeze, 0))
        intro_note(c, FMT_NOTE_LOSS, "cgroup",
                   "it is frozen by its cgroup %s, and runs in the target", proc->cgroup);
    struct gva set = rd_ptr(&r, leader, M_task_cgroups);
    return rd_done(&r, error) &&
           intro_walk_list(c->k, intro_member_addr(c->k, set, M_css_set_links), MAX_LINKS,
                           read_link, &walk, error);
}

bool intro_thread_cgroup(struct intro_ctx *c, struct gva task, const struct fmt_proc *proc,
                         struct fmt_task *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva cgroup = unified(&r, task);
    g_autofree char *path = r.error || !cgroup.addr ? NULL : cgroup_path(&r, cgroup);

    if (g_strcmp0(path, proc->cgroup) != 0)
        rec->cgroup = g_steal_pointer(&path);
    return rd_done(&r, error);
}

char *intro_process_cgroup(IntroKernel *k, struct gva task, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva cgroup;
    char *path;

    if (!intro_has(k, M_task_cgroups) || !intro_has(k, M_kernfs_parent)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED, "this kernel has no cgroups");
        return NULL;
    }
    cgroup = unified(&r, task);
    path = r.error || !cgroup.addr ? NULL : cgroup_path(&r, cgroup);
    if (!rd_done(&r, error))
        g_clear_pointer(&path, g_free);
    else if (!path)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "task_struct at %#" G_GINT64_MODIFIER "x: it is in no cgroup", task.addr);
    return path;
}
