// SPDX-License-Identifier: GPL-2.0-or-later
// What each thread has registered with the kernel, and small properties set by prctl.

#include <linux/prctl.h>
#include <string.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

static bool name(AgentTask *t, GError **error)
{
    const char *comm = t->rec->comm ? t->rec->comm : t->proc->rec->comm;
    uint64_t at;

    return !comm ||
           (agent_remote_put(&t->tracee, 0, comm, strlen(comm) + 1, &at, error) &&
            agent_remote(&t->tracee, "PR_SET_NAME", SYS_prctl, NULL, error, PR_SET_NAME, at));
}

static bool registrations(AgentTask *t, GError **error)
{
    const struct agent_tracee *tr = &t->tracee;
    const struct fmt_task *rec = t->rec;

    if (!agent_remote(tr, "set_tid_address", SYS_set_tid_address, NULL, error,
                      rec->clear_child_tid))
        return false;
    if (rec->robust_list && !agent_remote(tr, "set_robust_list", SYS_set_robust_list, NULL, error,
                                          rec->robust_list, rec->robust_list_bytes))
        return false;
    return !rec->rseq || agent_remote(tr, "rseq", SYS_rseq, NULL, error, rec->rseq, rec->rseq_bytes,
                                      0, rec->rseq_sig);
}

static bool finish_task(AgentTask *t, GError **error)
{
    const struct agent_tracee *tr = &t->tracee;
    const struct fmt_task *rec = t->rec;

    if (!name(t, error) || !registrations(t, error))
        return false;
    if (rec->timerslack_ns && !agent_remote(tr, "PR_SET_TIMERSLACK", SYS_prctl, NULL, error,
                                            PR_SET_TIMERSLACK, rec->timerslack_ns))
        return false;
    return agent_remote(tr, "personality", SYS_personality, NULL, error, rec->personality);
}

static bool finish(AgentProc *p, GError **error)
{
    return !p->rec->subreaper || agent_remote(&agent_leader(p)->tracee, "PR_SET_CHILD_SUBREAPER",
                                              SYS_prctl, NULL, error, PR_SET_CHILD_SUBREAPER, 1);
}

const struct agent_aspect agent_aspect_thread = {
    .name = "registrations",
    .finish = finish,
    .finish_task = finish_task,
};

// What a change of credentials clears.
static bool after_cred(AgentTask *t, GError **error)
{
    const struct agent_tracee *tr = &t->tracee;

    if (t->rec->pdeath_signal && !agent_remote(tr, "PR_SET_PDEATHSIG", SYS_prctl, NULL, error,
                                               PR_SET_PDEATHSIG, t->rec->pdeath_signal))
        return false;
    return t != agent_leader(t->proc) || agent_remote(tr, "PR_SET_DUMPABLE", SYS_prctl, NULL, error,
                                                      PR_SET_DUMPABLE, t->proc->mm->dumpable == 1);
}

const struct agent_aspect agent_aspect_after_cred = {
    .name = "dumpable",
    .finish_task = after_cred,
};
