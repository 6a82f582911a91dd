// SPDX-License-Identifier: GPL-2.0-or-later
// The plan of a restore: the tree as the engine will build it, and every reason against it.

#include <stdarg.h>
#include <string.h>
#include <sys/utsname.h>

#include "formats/cpu_features.h"
#include "guestagent/engine.h"
#include "guestagent/lineage.h"
#include "guestagent/plan.h"

void agent_refusal_free(struct agent_refusal *refusal)
{
    if (!refusal)
        return;
    g_free(refusal->kind);
    g_free(refusal->text);
    g_free(refusal);
}

GPtrArray *agent_refusal_list_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)agent_refusal_free);
}

static void add(GPtrArray *list, const char *kind, uint64_t pid, int64_t fd, const char *format,
                va_list args)
{
    g_autofree char *text = g_strdup_vprintf(format, args);

    // Many mappings of one file say the same.
    for (guint i = 0; i < list->len; i++) {
        const struct agent_refusal *have = g_ptr_array_index(list, i);

        if (have->pid == pid && have->fd == fd && strcmp(have->text, text) == 0)
            return;
    }
    struct agent_refusal *refusal = g_new0(struct agent_refusal, 1);

    refusal->kind = g_strdup(kind);
    refusal->pid = pid;
    refusal->fd = fd;
    refusal->text = g_steal_pointer(&text);
    g_ptr_array_add(list, refusal);
}

void agent_refuse(AgentRestore *r, const char *kind, uint64_t pid, int64_t fd, const char *format,
                  ...)
{
    va_list args;

    va_start(args, format);
    add(r->refusals, kind, pid, fd, format, args);
    va_end(args);
}

void agent_note(AgentRestore *r, const char *kind, uint64_t pid, int64_t fd, const char *format,
                ...)
{
    va_list args;

    va_start(args, format);
    add(r->notes, kind, pid, fd, format, args);
    va_end(args);
}

void agent_refuse_file(AgentRestore *r, const char *kind, uint64_t objref, const char *format, ...)
{
    uint64_t pid;
    int64_t fd;
    va_list args;

    agent_file_user(r, objref, &pid, &fd);
    va_start(args, format);
    add(r->refusals, kind, pid, fd, format, args);
    va_end(args);
}

void agent_note_file(AgentRestore *r, const char *kind, uint64_t objref, const char *format, ...)
{
    uint64_t pid;
    int64_t fd;
    va_list args;

    agent_file_user(r, objref, &pid, &fd);
    va_start(args, format);
    add(r->notes, kind, pid, fd, format, args);
    va_end(args);
}

static void proc_free(void *data)
{
    AgentProc *p = data;

    g_ptr_array_unref(p->tasks);
    g_ptr_array_unref(p->vmas);
    agent_vdso_free(p->here);
    g_ptr_array_unref(p->children);
    if (p->old_vdso)
        g_byte_array_unref(p->old_vdso);
    g_free(p);
}

static int by_start(gconstpointer a, gconstpointer b)
{
    const struct fmt_vma *x = *(struct fmt_vma *const *)a, *y = *(struct fmt_vma *const *)b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static AgentProc *new_proc(AgentRestore *r, const struct fmt_proc *rec)
{
    AgentProc *p = g_new0(AgentProc, 1);
    struct fmt_task *task;
    struct fmt_vma *vma;

    p->r = r;
    p->rec = rec;
    p->mem = -1;
    p->mm = fmt_image_by_ref(r->img, rec->mm, FMT_MM);
    p->tasks = g_ptr_array_new_with_free_func(g_free);
    p->vmas = g_ptr_array_new();
    p->children = g_ptr_array_new();
    for (size_t i = 0; FMT_NEXT(r->img, TASK, i, task); i++) {
        if (task->proc != rec->rec.objref)
            continue;
        AgentTask *t = g_new0(AgentTask, 1);

        t->proc = p;
        t->rec = task;
        // Whatever the order in the image, the leader is first here.
        g_ptr_array_insert(p->tasks, task->tid == rec->pid ? 0 : -1, t);
    }
    for (size_t i = 0; p->mm && FMT_NEXT(r->img, VMA, i, vma); i++) {
        if (vma->mm == rec->mm)
            g_ptr_array_add(p->vmas, vma);
    }
    g_ptr_array_sort(p->vmas, by_start);
    return p;
}

// Records that no image has.
struct temp_records {
    struct fmt_proc proc;
    struct fmt_task task;
};

static void temp_free(void *data)
{
    AgentProc *p = data;

    g_free((void *)p->rec); // is the first of them
    proc_free(p);
}

AgentProc *agent_proc_new_temp(AgentRestore *r, uint64_t pid, uint64_t exit_signal)
{
    struct temp_records *records = g_new0(struct temp_records, 1);
    AgentProc *p = g_new0(AgentProc, 1);
    AgentTask *t = g_new0(AgentTask, 1);

    records->proc.pid = records->task.tid = pid;
    records->proc.exit_signal = exit_signal;
    t->proc = p;
    t->rec = &records->task;
    *p = (AgentProc){.r = r, .rec = &records->proc, .mem = -1};
    p->tasks = g_ptr_array_new_with_free_func(g_free);
    p->vmas = g_ptr_array_new();
    p->children = g_ptr_array_new();
    g_ptr_array_add(p->tasks, t);
    return p;
}

static AgentTask *find_thread(const AgentProc *p, uint64_t tid)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (t->rec->tid == tid)
            return t;
    }
    return NULL;
}

bool agent_has_it_first(const AgentTask *t, uint64_t (*object)(const AgentTask *t))
{
    const GPtrArray *procs = t->proc->r->procs;

    for (guint i = 0; i < procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *other = g_ptr_array_index(p->tasks, j);

            if (other == t || object(other) == object(t))
                return other == t;
        }
    }
    return true;
}

static AgentProc *find(const AgentRestore *r, uint64_t pid)
{
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->pid == pid)
            return p;
    }
    return NULL;
}

static bool add_proc(AgentRestore *r, const struct fmt_proc *rec, GError **error)
{
    AgentProc *p = new_proc(r, rec), *parent = find(r, rec->ppid);
    const char *wrong = NULL;

    if (p->tasks->len == 0 || agent_leader(p)->rec->tid != rec->pid)
        wrong = "has no leader thread";
    else if (find(r, rec->pid))
        wrong = "is in the image twice";
    else if (r->procs->len > 0 && !parent)
        wrong = "has a parent that does not come before it";
    else if (rec->pid == 0 || rec->pid > G_MAXINT)
        wrong = "has an impossible number";
    else if (r->procs->len > 0 && rec->parent_tid && !find_thread(parent, rec->parent_tid))
        wrong = "is the child of a thread that is not there";
    if (!wrong && r->procs->len > 0) {
        p->parent = parent;
        p->parent_task =
            rec->parent_tid ? find_thread(parent, rec->parent_tid) : agent_leader(parent);
        g_ptr_array_add(parent->children, p);
    }
    if (!wrong) {
        g_ptr_array_add(r->procs, p);
        return true;
    }
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE, "process %" G_GUINT64_FORMAT " %s", rec->pid,
                wrong);
    proc_free(p);
    return false;
}

AgentRestore *agent_restore_new(FmtImage *meta, const struct agent_restore_options *opt,
                                GError **error)
{
    AgentRestore *r = g_new0(AgentRestore, 1);
    const struct fmt_proc *rec;

    r->img = fmt_image_ref(meta);
    r->opt = *opt;
    r->procs = g_ptr_array_new_with_free_func(proc_free);
    r->temps = g_ptr_array_new_with_free_func(temp_free);
    r->steps = g_array_new(false, false, sizeof(struct agent_step));
    r->objects = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    r->fds = g_array_new(false, false, sizeof(int));
    r->created = g_ptr_array_new_with_free_func(g_free);
    r->undo = g_array_new(false, false, sizeof(struct agent_undo));
    for (size_t i = 0; FMT_NEXT(meta, PROC, i, rec); i++) {
        if (!add_proc(r, rec, error)) {
            agent_restore_free(r);
            return NULL;
        }
    }
    if (r->procs->len == 0) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE, "the image holds no process");
        agent_restore_free(r);
        return NULL;
    }
    return r;
}

void agent_restore_free(AgentRestore *r)
{
    if (!r)
        return;
    if (r->files)
        g_hash_table_unref(r->files);
    for (guint i = 0; i < r->undo->len; i++)
        g_bytes_unref(g_array_index(r->undo, struct agent_undo, i).before);
    agent_ipc_free(r->ipc);
    g_array_unref(r->undo);
    g_ptr_array_unref(r->created);
    g_clear_pointer(&r->ways, g_ptr_array_unref);
    agent_sockets_free(r->sockets);
    agent_cow_free(r->cow);
    g_array_unref(r->fds);
    g_hash_table_unref(r->objects);
    g_array_unref(r->steps);
    g_ptr_array_unref(r->temps);
    g_ptr_array_unref(r->procs);
    fmt_image_unref(r->img);
    g_free(r);
}

static void plan_cpu(AgentRestore *r)
{
    const struct fmt_cpu *cpu = fmt_image_nth(r->img, FMT_CPU, 0);
    g_autofree char *here = fmt_cpu_features_here();
    g_autofree char *missing = cpu ? fmt_cpu_features_missing(cpu->features, here) : NULL;

    if (missing)
        agent_refuse(r, "cpu-feature", 0, -1,
                     "the program may use what this CPU or kernel does not offer: %s", missing);
}

void agent_plan_machine(AgentRestore *r)
{
    const struct fmt_head *head = fmt_image_head(r->img);
    struct utsname here;

    if (head->forensic)
        agent_refuse(
            r, "forensic", 0, -1,
            "the image was taken with --forensic: it shows the process as it was found and "
            "cannot be restored");
    if (uname(&here) == 0 && (!head->machine || strcmp(head->machine, here.machine) != 0))
        agent_refuse(r, "machine", 0, -1, "the image is from a %s machine, this one is %s",
                     head->machine ? head->machine : "unknown", here.machine);
    plan_cpu(r);
}
