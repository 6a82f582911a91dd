// SPDX-License-Identifier: GPL-2.0-or-later
// Seccomp: strict mode and filters, oldest first.
//
// They are set before the credentials, which may not allow it any more, and with
// PTRACE_O_SUSPEND_SECCOMP, so that what the agent has the thread do after that is not judged by
// them. That ends when the thread is let go.
//
// What all threads of a process have in common is set once, for all (TSYNC): a filter is then the
// same object again, which a later TSYNC of the program demands.

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/bpf.h"
#include "guestagent/engine.h"

#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

#define KNOWN_FLAGS (SECCOMP_FILTER_FLAG_LOG)

static const struct fmt_seccomp_filter *newest(const AgentTask *t)
{
    return t->rec->seccomp == SECCOMP_MODE_FILTER
               ? fmt_image_by_ref(t->proc->r->img, t->rec->seccomp_filter, FMT_SECCOMP_FILTER)
               : NULL;
}

// The filters of a thread, oldest first; NULL where they do not end.
static GPtrArray *chain_of(const AgentTask *t)
{
    FmtImage *img = t->proc->r->img;
    const size_t most = fmt_image_count(img, FMT_SECCOMP_FILTER);
    g_autoptr(GPtrArray) chain = g_ptr_array_new();

    for (const struct fmt_seccomp_filter *f = newest(t); f;
         f = fmt_image_by_ref(img, f->prev, FMT_SECCOMP_FILTER)) {
        if (chain->len == most)
            return NULL;
        g_ptr_array_insert(chain, 0, (gpointer)f);
    }
    return g_steal_pointer(&chain);
}

bool agent_seccomp_sees_place(const AgentTask *t)
{
    g_autoptr(GPtrArray) chain = chain_of(t);

    for (guint i = 0; chain && i < chain->len; i++) {
        const struct fmt_seccomp_filter *f = g_ptr_array_index(chain, i);
        gsize bytes;
        const struct sock_filter *insns = g_bytes_get_data(f->program, &bytes);

        if (agent_bpf_sees_place(insns, bytes / sizeof *insns))
            return true;
    }
    return false;
}

/* ---- plan ---- */

static const char *wrong_with(const struct fmt_seccomp_filter *f)
{
    gsize bytes = 0;
    const struct sock_filter *insns = f->program ? g_bytes_get_data(f->program, &bytes) : NULL;

    if (bytes % sizeof *insns || !agent_bpf_is_valid(insns, bytes / sizeof *insns) ||
        f->flags & ~(uint64_t)KNOWN_FLAGS)
        return "is not well formed";
    // With no program a kernel that knows the flags gets as far as reading it.
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, f->flags | SECCOMP_FILTER_FLAG_TSYNC, NULL) ==
            0 ||
        errno != EFAULT)
        return "has flags that this kernel does not know, or seccomp is not to be had here";
    return NULL;
}

// A thread that sleeps goes on by a call of its own, restart_syscall, which a filter may not
// expect.
static void plan_restart(AgentRestore *r, AgentTask *t, const GPtrArray *chain)
{
    if (!agent_is_restarted(t))
        return;
    for (guint i = 0; i < chain->len; i++) {
        const struct fmt_seccomp_filter *f = g_ptr_array_index(chain, i);
        gsize bytes;
        const struct sock_filter *insns = g_bytes_get_data(f->program, &bytes);

        if (agent_bpf_allows_restart(insns, bytes / sizeof *insns, t->rec->compat_call,
                                     t->rec->rip))
            continue;
        t->starts_over = true;
        agent_note(r, "timeout", t->proc->rec->pid, -1,
                   "thread %" G_GUINT64_FORMAT " sleeps, and its seccomp filter does not allow "
                   "restart_syscall: its timeout starts over",
                   t->rec->tid);
        return;
    }
}

static void plan_task(AgentRestore *r, AgentTask *t)
{
    const uint64_t pid = t->proc->rec->pid;
    g_autoptr(GPtrArray) chain = chain_of(t);
    bool good = chain != NULL;

    if (t->rec->seccomp > SECCOMP_MODE_FILTER ||
        (t->rec->seccomp == SECCOMP_MODE_FILTER && !newest(t))) {
        agent_refuse(r, "seccomp", pid, -1,
                     "the image does not tell the seccomp filter of thread %" G_GUINT64_FORMAT,
                     t->rec->tid);
        return;
    }
    if (prctl(PR_GET_SECCOMP) > 0 || !(agent_own_caps() & 1ull << CAP_SYS_ADMIN))
        agent_refuse(r, "seccomp", pid, -1,
                     "an agent without CAP_SYS_ADMIN, or under seccomp itself, cannot set seccomp");
    for (guint i = 0; chain && i < chain->len; i++) {
        const char *wrong = wrong_with(g_ptr_array_index(chain, i));

        if (wrong)
            agent_refuse(r, "seccomp", pid, -1,
                         "a seccomp filter of thread %" G_GUINT64_FORMAT " %s", t->rec->tid, wrong);
        good = good && !wrong;
    }
    if (!chain)
        agent_refuse(r, "seccomp", pid, -1, "seccomp filters refer to each other");
    if (good)
        plan_restart(r, t, chain);
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (t->rec->seccomp && p->rec->state != FMT_PROC_ZOMBIE)
                plan_task(r, t);
        }
    }
}

/* ---- setting them ---- */

static bool suspend(const AgentTask *t, GError **error)
{
    return ptrace(PTRACE_SETOPTIONS, t->tracee.tid, NULL,
                  AGENT_PTRACE_OPTIONS | PTRACE_O_SUSPEND_SECCOMP) == 0 ||
           agent_fail_errno(error, "thread %d: PTRACE_O_SUSPEND_SECCOMP", t->tracee.tid);
}

static bool add_filter(const AgentTask *t, const struct fmt_seccomp_filter *f, uint64_t more_flags,
                       GError **error)
{
    // What the mitigation of a filter without SPEC_ALLOW has set is restored by itself.
    const uint64_t flags = f->flags | more_flags | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    gsize bytes;
    const void *insns = g_bytes_get_data(f->program, &bytes);
    struct {
        uint64_t len, filter;
    } prog = {bytes / sizeof(struct sock_filter), 0};
    int64_t ret;

    if (!agent_remote_put(&t->tracee, sizeof prog, insns, bytes, &prog.filter, error) ||
        !agent_remote_put(&t->tracee, 0, &prog, sizeof prog, NULL, error) ||
        !agent_remote(&t->tracee, "seccomp", SYS_seccomp, &ret, error, SECCOMP_SET_MODE_FILTER,
                      flags, t->tracee.site->scratch))
        return false;
    return ret == 0 || agent_fail(error, "thread %d: seccomp filters do not agree", (int)ret);
}

static bool set_own(const AgentTask *t, const GPtrArray *chain, guint from, GError **error)
{
    for (guint i = from; i < chain->len; i++) {
        if (!add_filter(t, g_ptr_array_index(chain, i), 0, error))
            return false;
    }
    return t->rec->seccomp != SECCOMP_MODE_STRICT ||
           agent_remote(&t->tracee, "PR_SET_SECCOMP", SYS_prctl, NULL, error, PR_SET_SECCOMP,
                        SECCOMP_MODE_STRICT);
}

static guint common(const GPtrArray *a, const GPtrArray *b, guint most)
{
    guint n = 0;

    while (n < most && n < a->len && n < b->len &&
           g_ptr_array_index(a, n) == g_ptr_array_index(b, n))
        n++;
    return n;
}

static bool finish(AgentProc *p, GError **error)
{
    g_autoptr(GPtrArray) chains = g_ptr_array_new_with_free_func((GDestroyNotify)g_ptr_array_unref);
    guint shared = G_MAXUINT;
    bool any = false;

    for (guint i = 0; i < p->tasks->len; i++) {
        const AgentTask *t = g_ptr_array_index(p->tasks, i);

        g_ptr_array_add(chains, chain_of(t));
        shared = common(g_ptr_array_index(chains, 0), g_ptr_array_index(chains, i), shared);
        any = any || t->rec->seccomp;
    }
    if (!any)
        return true;
    for (guint i = 0; i < p->tasks->len; i++) {
        if (!suspend(g_ptr_array_index(p->tasks, i), error))
            return false;
    }
    const GPtrArray *first = g_ptr_array_index(chains, 0);

    for (guint i = 0; i < shared; i++) {
        if (!add_filter(agent_leader(p), g_ptr_array_index(first, i), SECCOMP_FILTER_FLAG_TSYNC,
                        error))
            return false;
    }
    for (guint i = 0; i < p->tasks->len; i++) {
        if (!set_own(g_ptr_array_index(p->tasks, i), g_ptr_array_index(chains, i), shared, error))
            return false;
    }
    return true;
}

const struct agent_aspect agent_aspect_seccomp = {
    .name = "seccomp",
    .plan = plan,
    .finish = finish,
};
