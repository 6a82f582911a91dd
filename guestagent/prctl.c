// SPDX-License-Identifier: GPL-2.0-or-later
// What prctl sets for a thread, beside what thread.c and cred.c see to.

#include <errno.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/fork.h"

// The C library's headers lack it, and the kernel's cannot be had beside them.
#define SET_SYSCALL_USER_DISPATCH_CONFIG 0x4210
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
struct syscall_dispatch {
    uint64_t mode, selector, offset, len;
};

// No remote call will do: it would be dispatched itself, or leave a thread that is to begin a call
// anew elsewhere. Kernels have the request since 6.4; only one that traces somebody can be asked.
static bool can_dispatch(void)
{
    struct syscall_dispatch config;
    int status;
    const pid_t pid = agent_fork_high(0);

    if (pid == 0)
        for (;;)
            pause();
    if (pid < 0)
        return false;

    const bool can = ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_EXITKILL) == 0 &&
                     ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) == 0 &&
                     waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status) &&
                     ptrace(GET_SYSCALL_USER_DISPATCH_CONFIG, pid, sizeof config, &config) == 0;

    kill(pid, SIGKILL);
    while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
        ;
    return can;
}

static void plan_task(AgentRestore *r, const AgentProc *p, const struct fmt_task *t)
{
    static const struct {
        uint64_t bits;
        int which;
    } kinds[] = {
        {FMT_SPECULATION_SSB, PR_SPEC_STORE_BYPASS},
        {FMT_SPECULATION_IB, PR_SPEC_INDIRECT_BRANCH},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        const int here = prctl(PR_GET_SPECULATION_CTRL, kinds[i].which, 0, 0, 0);

        // A CPU that does not speculate like that needs no control.
        if (t->speculation & kinds[i].bits && !(here >= 0 && here & PR_SPEC_PRCTL) &&
            here != PR_SPEC_NOT_AFFECTED)
            agent_note(r, "speculation", p->rec->pid, -1,
                       "this kernel does not control speculation (%s) by process: thread "
                       "%" G_GUINT64_FORMAT " goes without",
                       kinds[i].which == PR_SPEC_STORE_BYPASS ? "store bypass" : "indirect branch",
                       t->tid);
    }
    if (t->io_flusher && !(agent_own_caps() & 1ull << CAP_SYS_RESOURCE))
        agent_refuse(r, "io-flusher", p->rec->pid, -1,
                     "PR_SET_IO_FLUSHER takes CAP_SYS_RESOURCE, which the agent does not have");
    if (t->dispatch && !can_dispatch())
        agent_refuse(r, "syscall-dispatch", p->rec->pid, -1,
                     "thread %" G_GUINT64_FORMAT " has PR_SET_SYSCALL_USER_DISPATCH, which this "
                     "kernel lets nobody set for another (before Linux 6.4)",
                     t->tid);
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len && p->rec->state != FMT_PROC_ZOMBIE; j++)
            plan_task(r, p, ((const AgentTask *)g_ptr_array_index(p->tasks, j))->rec);
    }
}

static bool call(const AgentTask *t, const char *what, uint64_t option, uint64_t a, uint64_t b,
                 uint64_t d, GError **error)
{
    return agent_remote(&t->tracee, what, SYS_prctl, NULL, error, option, a, b, d);
}

// The strictest that was asked for implies the others; a kernel that has no such control was noted.
static bool set_speculation(const AgentTask *t, uint64_t which, uint64_t how, GError **error)
{
    const uint64_t args[6] = {PR_SET_SPECULATION_CTRL, which, how};
    int64_t ret;

    if (how == 0 || !agent_remote_raw(&t->tracee, SYS_prctl, args, &ret, error))
        return how == 0;
    return ret == 0 || ret == -ENODEV || ret == -ENXIO || ret == -EPERM ||
           agent_fail(error, "thread %d: PR_SET_SPECULATION_CTRL: %s", t->tracee.tid,
                      g_strerror((int)-ret));
}

static bool set_speculations(const AgentTask *t, GError **error)
{
    const uint64_t s = t->rec->speculation;

    return set_speculation(t, PR_SPEC_STORE_BYPASS,
                           s & FMT_SPECULATION_SSB_FORCE     ? PR_SPEC_FORCE_DISABLE
                           : s & FMT_SPECULATION_SSB_NOEXEC  ? PR_SPEC_DISABLE_NOEXEC
                           : s & FMT_SPECULATION_SSB_DISABLE ? PR_SPEC_DISABLE
                                                             : 0,
                           error) &&
           set_speculation(t, PR_SPEC_INDIRECT_BRANCH,
                           s & FMT_SPECULATION_IB_FORCE     ? PR_SPEC_FORCE_DISABLE
                           : s & FMT_SPECULATION_IB_DISABLE ? PR_SPEC_DISABLE
                                                            : 0,
                           error);
}

// By whichever thread: it is the process's.
static bool set_ptracer(const AgentTask *t, GError **error)
{
    const uint64_t args[6] = {PR_SET_PTRACER, (uint64_t)t->proc->rec->ptracer};
    int64_t ret;

    if (agent_has_ended(t) || !t->proc->rec->ptracer)
        return true;
    if (!agent_remote_raw(&t->tracee, SYS_prctl, args, &ret, error))
        return false;
    if (ret < 0)
        agent_note(t->proc->r, "ptracer", t->proc->rec->pid, -1,
                   "who may trace it (PR_SET_PTRACER) cannot be set here");
    return true;
}

static bool finish_task(AgentTask *t, GError **error)
{
    const struct fmt_task *rec = t->rec;

    return (!rec->io_flusher || call(t, "PR_SET_IO_FLUSHER", PR_SET_IO_FLUSHER, 1, 0, 0, error)) &&
           (!rec->mce_kill ||
            call(t, "PR_MCE_KILL", PR_MCE_KILL, PR_MCE_KILL_SET,
                 rec->mce_kill == FMT_MCE_EARLY ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE, 0,
                 error)) &&
           (!rec->no_tsc || call(t, "PR_SET_TSC", PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, error)) &&
           set_speculations(t, error) && set_ptracer(t, error);
}

bool agent_prctl_last(const AgentTask *t, GError **error)
{
    const struct syscall_dispatch config = {PR_SYS_DISPATCH_ON, t->rec->dispatch_selector,
                                            t->rec->dispatch_start, t->rec->dispatch_bytes};

    return !t->rec->dispatch ||
           ptrace(SET_SYSCALL_USER_DISPATCH_CONFIG, t->tracee.tid, sizeof config, &config) == 0 ||
           agent_fail_errno(error, "thread %d: PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG",
                            t->tracee.tid);
}

const struct agent_aspect agent_aspect_prctl = {
    .name = "prctl",
    .plan = plan,
    .finish_task = finish_task,
};
