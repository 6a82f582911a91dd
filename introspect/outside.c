// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptor tables and directories that a thread outside of the tree shares (CLONE_FILES,
// CLONE_FS).
#include "introspect/process.h"
#include "introspect/reader.h"
#include "introspect/task.h"

static const struct kind {
    enum fmt_type type;
    enum intro_member users, of_task;
    const char *refusal, *what;
} kinds[] = {
    {FMT_FILES, M_files_count, M_task_files, "shared-files", "descriptors"},
    {FMT_FS, M_fs_users, M_task_fs, "shared-fs", "directories and umask"},
};

// The threads of the tree that use the table; the process of one of them is to blame.
static uint64_t n_threads(struct intro_ctx *c, const struct kind *kind, uint64_t ref)
{
    const struct fmt_task *task;
    uint64_t n = 0;

    for (size_t i = 0; FMT_NEXT(c->img, TASK, i, task); i++) {
        const struct fmt_proc *proc = fmt_image_by_ref(c->img, task->proc, FMT_PROC);
        if ((kind->type == FMT_FILES ? task->files : task->fs) != ref)
            continue;
        c->pid = proc ? proc->pid : c->opt->pid;
        n++;
    }
    return n;
}

struct search {
    struct intro_ctx *c;
    const struct kind *kind;
    struct gva at;
    const struct intro_process *process; // outside of the tree
    bool found;
};

static bool look_at(struct gva task, void *user, GError **error)
{
    struct search *s = user;
    struct gva at;

    if (!intro_get_ptr(s->c->k, task, s->kind->of_task, &at, error))
        return false;
    if (at.addr != s->at.addr || s->found)
        return true;
    s->found = true;
    intro_refuse(s->c, s->kind->refusal, "shares its %s with process %u (%s), outside of the tree",
                 s->kind->what, s->process->pid, s->process->comm);
    return true;
}

static bool find_outside(struct intro_ctx *c, const struct kind *kind, struct gva at,
                         GError **error)
{
    g_autoptr(GPtrArray) processes = intro_list_processes(c->k, false, error);
    struct search s = {.c = c, .kind = kind, .at = at};

    for (guint i = 0; processes && i < processes->len; i++) {
        struct gva signal;

        s.process = processes->pdata[i];
        if (!intro_get_ptr(c->k, s.process->task, M_task_signal, &signal, error))
            return false;
        if (!intro_object_ref(c, signal) &&
            !intro_walk_threads(c->k, s.process->task, look_at, &s, error))
            return false;
    }
    return processes != NULL;
}

static bool check_peers(struct intro_ctx *c, GError **error)
{
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
            struct gva table = GVA(GPOINTER_TO_SIZE(at));
            uint64_t users;

            if (!fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), kinds[i].type))
                continue;
            // Somebody may look into it for a moment: that counts as well, so ask who.
            if (!intro_get(c->k, table, kinds[i].users, &users, error) ||
                (users > n_threads(c, &kinds[i], GPOINTER_TO_SIZE(ref)) &&
                 !find_outside(c, &kinds[i], table, error)))
                return false;
        }
    }
    return true;
}

bool intro_tables_check_peers(struct intro_ctx *c, GError **error)
{
    bool ok = check_peers(c, error);

    c->pid = c->opt->pid;
    return ok;
}
