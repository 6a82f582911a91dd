// SPDX-License-Identifier: GPL-2.0-or-later
// What a process can only be given by calls of i386: signal actions, robust lists.

#include <signal.h>
#include <string.h>

#include "guestagent/engine.h"
#include "guestagent/ia32.h"

#define ROBUST_LIST_BYTES 12 // struct compat_robust_list_head
#define SIGSET_BYTES      8

// struct compat_sigaction
struct ia32_sigaction {
    uint32_t handler, flags, restorer, mask[2];
};

bool agent_ia32_calls(const AgentProc *p)
{
    const struct fmt_sigaction *a;

    if (!p->mm)
        return false;
    for (guint i = 0; i < p->tasks->len; i++) {
        const struct fmt_task *t = ((AgentTask *)g_ptr_array_index(p->tasks, i))->rec;

        if (t->compat_robust_list || (t->compat_call && t->restart != FMT_RESTART_NONE))
            return true;
    }
    for (size_t i = 0; FMT_NEXT(p->r->img, SIGACTION, i, a); i++) {
        if (a->sighand == p->rec->sighand && a->flags & AGENT_SA_IA32)
            return true;
    }
    return p->mm->ia32;
}

bool agent_ia32_sigaction(const struct agent_tracee *t, const struct fmt_sigaction *a,
                          GError **error)
{
    const struct ia32_sigaction action = {
        .handler = (uint32_t)a->handler,
        .flags = (uint32_t)(a->flags & ~AGENT_SA_IA32),
        .restorer = (uint32_t)a->restorer,
        .mask = {(uint32_t)a->mask, (uint32_t)(a->mask >> 32)},
    };
    uint64_t at;

    return agent_remote_put(t, 0, &action, sizeof action, &at, error) &&
           agent_remote_ia32(t, "rt_sigaction", IA32_RT_SIGACTION, NULL, error, a->signo, at, 0,
                             SIGSET_BYTES);
}

static bool finish_task(AgentTask *t, GError **error)
{
    return !t->rec->compat_robust_list ||
           agent_remote_ia32(&t->tracee, "set_robust_list", IA32_SET_ROBUST_LIST, NULL, error,
                             t->rec->compat_robust_list, ROBUST_LIST_BYTES);
}

const struct agent_aspect agent_aspect_ia32 = {
    .name = "calls of i386",
    .plan = agent_stub_plan,
    .finish_task = finish_task,
};
