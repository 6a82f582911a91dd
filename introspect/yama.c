// SPDX-License-Identifier: GPL-2.0-or-later
// Who may trace a process beside its ancestors (security/yama/yama_lsm.c, PR_SET_PTRACER).
#include "introspect/task.h"

#define MAX_RELATIONS (1u << 20)

static bool add_relation(struct gva node, void *user, GError **error)
{
    struct intro_ctx *c = user;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva relation = intro_container(c->k, node, M_ptrace_relation_node);
    struct gva tracer = rd_ptr(&r, relation, M_ptrace_relation_tracer);
    struct gva tracee = rd_ptr(&r, relation, M_ptrace_relation_tracee);
    const bool invalid = rd(&r, relation, M_ptrace_relation_invalid);

    if (!rd_done(&r, error))
        return false;
    if (invalid || !intro_object_ref(c, tracee))
        return true;
    const struct fmt_task *of = fmt_image_by_ref(c->img, intro_object_ref(c, tracee), FMT_TASK);
    const struct fmt_task *by =
        tracer.addr ? fmt_image_by_ref(c->img, intro_object_ref(c, tracer), FMT_TASK) : NULL;
    struct fmt_proc *proc = of ? fmt_image_by_ref(c->img, of->proc, FMT_PROC) : NULL;
    if (!proc)
        return true;
    proc->ptracer = !tracer.addr ? -1 : by ? (int64_t)by->tid : 0;
    c->pid = proc->pid;
    if (!proc->ptracer)
        intro_note(c, FMT_NOTE_LOSS, "ptracer",
                   "who may trace it (PR_SET_PTRACER) is outside of the tree");
    return true;
}

bool intro_yama(struct intro_ctx *c, GError **error)
{
    struct gva relations;
    bool ok;

    if (!intro_symbol(c->k, "ptracer_relations", &relations, NULL) ||
        !intro_has(c->k, M_ptrace_relation_node) || !intro_has(c->k, M_ptrace_relation_tracer) ||
        !intro_has(c->k, M_ptrace_relation_tracee) || !intro_has(c->k, M_ptrace_relation_invalid))
        return true;
    ok = intro_walk_list(c->k, relations, MAX_RELATIONS, add_relation, c, error);
    c->pid = c->opt->pid;
    return ok;
}
