// SPDX-License-Identifier: GPL-2.0-or-later
// What each thread has registered with the kernel, and small properties set by prctl.

#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

static bool name(AgentTask *t, GError **error)
{
    const char *comm = t->rec->comm ? t->rec->comm : t->proc->rec->comm;
    char bytes[16] = ""; // TASK_COMM_LEN
    gsize len = comm ? strlen(comm) : 0;
    uint64_t at;

    if (t->rec->comm_bytes)
        comm = g_bytes_get_data(t->rec->comm_bytes, &len);
    if (!comm)
        return true;
    memcpy(bytes, comm, MIN(len, sizeof bytes - 1));
    return (agent_remote_put(&t->tracee, 0, bytes, sizeof bytes, &at, error) &&
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
    const uint32_t tid = (uint32_t)rec->tid;

    if (!name(t, error) || !registrations(t, error))
        return false;
    // As the kernel does it: where nothing can be written there, nothing is.
    if (rec->set_child_tid)
        agent_remote_write(tr, rec->set_child_tid, &tid, sizeof tid, NULL);
    if (rec->timerslack_ns && !agent_remote(tr, "PR_SET_TIMERSLACK", SYS_prctl, NULL, error,
                                            PR_SET_TIMERSLACK, rec->timerslack_ns))
        return false;
    return agent_remote(tr, "personality", SYS_personality, NULL, error, rec->personality);
}

// MEMBARRIER_STATE_* of the kernel (sched/mm.h), and the command that sets each.
static const struct {
    uint64_t state;
    int command;
} barriers[] = {
    {1 << 1, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED},
    {1 << 3, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED},
    {1 << 5, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE},
    {1 << 7, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ},
};

static bool finish(AgentProc *p, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(barriers); i++) {
        if (p->mm->membarrier & barriers[i].state &&
            !agent_remote(&agent_leader(p)->tracee, "membarrier", SYS_membarrier, NULL, error,
                          barriers[i].command, 0))
            return false;
    }
    return !p->rec->subreaper || agent_remote(&agent_leader(p)->tracee, "PR_SET_CHILD_SUBREAPER",
                                              SYS_prctl, NULL, error, PR_SET_CHILD_SUBREAPER, 1);
}

static void plan(AgentRestore *r)
{
    const int64_t have = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (size_t j = 0; p->mm && j < G_N_ELEMENTS(barriers); j++) {
            if (p->mm->membarrier & barriers[j].state &&
                (have < 0 || !(have & barriers[j].command)))
                agent_refuse(r, "membarrier", p->rec->pid, -1,
                             "it uses a kind of membarrier (%#x) that this kernel lacks",
                             (unsigned)barriers[j].command);
        }
    }
}

const struct agent_aspect agent_aspect_thread = {
    .name = "registrations",
    .plan = plan,
    .finish = finish,
    .finish_task = finish_task,
};

static void plan_parent_death(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (t->rec->pdeath_signal - 1 < 64 && !p->parent &&
                !agent_signal_is_ignored(t, t->rec->pdeath_signal))
                agent_note(r, "parent-death", p->rec->pid, -1,
                           "its parent stays behind: no signal will tell of its end");
        }
    }
}

// What a change of credentials clears.
static bool after_cred(AgentTask *t, GError **error)
{
    const struct agent_tracee *tr = &t->tracee;

    // The root's end of its parent is another matter: see parting.c.
    if (t->rec->pdeath_signal - 1 < 64 &&
        !agent_remote(tr, "PR_SET_PDEATHSIG", SYS_prctl, NULL, error, PR_SET_PDEATHSIG,
                      t->rec->pdeath_signal))
        return false;
    return t != agent_leader(t->proc) || agent_remote(tr, "PR_SET_DUMPABLE", SYS_prctl, NULL, error,
                                                      PR_SET_DUMPABLE, t->proc->mm->dumpable == 1);
}

const struct agent_aspect agent_aspect_after_cred = {
    .name = "dumpable",
    .plan = plan_parent_death,
    .finish_task = after_cred,
};
