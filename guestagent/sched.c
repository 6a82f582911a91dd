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

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif
#ifndef SCHED_FLAG_RESET_ON_FORK
#define SCHED_FLAG_RESET_ON_FORK 1
#endif

#ifndef SCHED_ATTR_SIZE_VER0
struct sched_attr {
    uint32_t size, sched_policy;
    uint64_t sched_flags;
    int32_t sched_nice;
    uint32_t sched_priority;
    uint64_t sched_runtime, sched_deadline, sched_period;
};
#endif

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            const uint64_t policy = t->rec->policy & ~(uint64_t)SCHED_RESET_ON_FORK;

            if (policy > SCHED_DEADLINE || policy == 4)
                agent_refuse(r, "scheduler", p->rec->pid, -1,
                             "thread %" G_GUINT64_FORMAT " has scheduling policy %" G_GUINT64_FORMAT
                             ", which is not supported",
                             t->rec->tid, t->rec->policy);
        }
    }
}

static bool set_policy(const AgentTask *t, GError **error)
{
    const struct fmt_task *rec = t->rec;
    const pid_t tid = t->tracee.tid;
    struct sched_attr attr = {
        .size = sizeof attr,
        .sched_policy = (uint32_t)(rec->policy & ~(uint64_t)SCHED_RESET_ON_FORK),
        .sched_flags = rec->sched_flags,
        .sched_nice = (int32_t)rec->nice,
        .sched_priority = (uint32_t)rec->rt_priority,
        .sched_runtime = rec->sched_runtime_ns,
        .sched_deadline = rec->sched_deadline_ns,
        .sched_period = rec->sched_period_ns,
    };

    if (rec->policy & SCHED_RESET_ON_FORK)
        attr.sched_flags |= SCHED_FLAG_RESET_ON_FORK;
    // Those of real time keep a nice value for when they are that no longer.
    if (setpriority(PRIO_PROCESS, (id_t)tid, (int)rec->nice) < 0)
        return agent_fail_errno(error, "thread %d: nice value", tid);
    if (syscall(SYS_sched_setattr, tid, &attr, 0) < 0)
        return agent_fail_errno(error, "thread %d: scheduling policy", tid);
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
