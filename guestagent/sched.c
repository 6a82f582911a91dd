// SPDX-License-Identifier: GPL-2.0-or-later
// Scheduling: policy, nice value, affinity, I/O priority. Set from outside, no remote calls needed.

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

#define IOPRIO_WHO_PROCESS 1

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            const uint64_t policy = t->rec->policy & ~(uint64_t)SCHED_RESET_ON_FORK;

            if (policy > SCHED_IDLE || policy == 4)
                agent_refuse(r, "scheduler", p->rec->pid, -1,
                             "thread %" G_GUINT64_FORMAT " has scheduling policy %" G_GUINT64_FORMAT
                             ", which is not supported",
                             t->rec->tid, t->rec->policy);
        }
    }
}

static bool set_policy(const AgentTask *t, GError **error)
{
    const struct sched_param param = {.sched_priority = (int)t->rec->rt_priority};
    const pid_t tid = t->tracee.tid;

    if (sched_setscheduler(tid, (int)t->rec->policy, &param) < 0)
        return agent_fail_errno(error, "thread %d: scheduling policy", tid);
    if (setpriority(PRIO_PROCESS, (id_t)tid, (int)t->rec->nice) < 0)
        return agent_fail_errno(error, "thread %d: nice value", tid);
    if (t->rec->ioprio && syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, (int)t->rec->ioprio) < 0)
        return agent_fail_errno(error, "thread %d: I/O priority", tid);
    return true;
}

// The CPUs that the thread may use, of those that are here. With none of them here it may use all,
// as the kernel does when a CPU goes away.
static bool set_affinity(const AgentTask *t, GError **error)
{
    gsize bytes = 0;
    const uint8_t *mask =
        t->rec->cpus_allowed ? g_bytes_get_data(t->rec->cpus_allowed, &bytes) : NULL;

    if (!mask)
        return true;
    if (syscall(SYS_sched_setaffinity, t->tracee.tid, bytes, mask) == 0)
        return true;
    if (errno != EINVAL)
        return agent_fail_errno(error, "thread %d: affinity", t->tracee.tid);
    agent_note(t->proc->r, "affinity", t->proc->rec->pid, -1,
               "none of the CPUs of thread %" G_GUINT64_FORMAT " is here; it may use all",
               t->rec->tid);
    return true;
}

static bool finish_task(AgentTask *t, GError **error)
{
    return set_policy(t, error) && set_affinity(t, error);
}

const struct agent_aspect agent_aspect_sched = {
    .name = "scheduling",
    .plan = plan,
    .finish_task = finish_task,
};
