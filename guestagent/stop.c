// SPDX-License-Identifier: GPL-2.0-or-later
// Job control: processes that are stopped, or were continued, and whether wait() has told of it.
//
// A stop is made as at home, by a signal: its tracer sees the signal first and hands it on, then
// every thread is resumed once to take part. The process counts as stopped from then on, although
// its tracer still drives its threads; when they are let go they stay where they are.

#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "guestagent/engine.h"

#define SIGSET_BYTES 8

static const uint64_t all_signals = ~0ull;

static bool is_group_stop(int stop)
{
    return stop >> 8 == PTRACE_EVENT_STOP && (stop & 0x7f) != SIGTRAP;
}

static bool resume(const struct agent_tracee *t, int signo, int *ret_stop, GError **error)
{
    if (ptrace(PTRACE_CONT, t->tid, NULL, (void *)(long)signo) < 0)
        return agent_fail_errno(error, "thread %d", t->tid);
    return agent_remote_wait(t->tid, ret_stop, error);
}

// Default action, and let through. The stopping signals that a terminal sends pass over groups that
// nobody could continue (orphaned ones); the stop does not come about then.
static bool hand_on(const struct agent_tracee *t, int signo, bool *ret_stopped, GError **error)
{
    static const uint64_t by_default[4];
    const uint64_t all_but = ~(1ull << (signo - 1));
    uint64_t at;
    int stop;

    if (signo != SIGSTOP && (!agent_remote_put(t, 0, by_default, sizeof by_default, &at, error) ||
                             !agent_remote(t, "rt_sigaction", SYS_rt_sigaction, NULL, error, signo,
                                           at, 0, SIGSET_BYTES)))
        return false;
    if (!agent_remote_settle(t, error))
        return false;
    if (ptrace(PTRACE_SETSIGMASK, t->tid, SIGSET_BYTES, &all_but) < 0 || kill(t->tid, SIGSTOP) < 0)
        return agent_fail_errno(error, "thread %d", t->tid);
    do {
        if (!resume(t, 0, &stop, error))
            return false;
    } while (stop >> 8 == PTRACE_EVENT_STOP);
    if (stop != SIGSTOP)
        return agent_fail(error, "thread %d: stop %#x instead of SIGSTOP", t->tid, stop);
    // Whatever becomes of the signal, no instruction is run.
    if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
        return agent_fail_errno(error, "thread %d", t->tid);
    if (!resume(t, signo, &stop, error))
        return false;
    *ret_stopped = is_group_stop(stop);
    if (ptrace(PTRACE_SETSIGMASK, t->tid, SIGSET_BYTES, &all_signals) < 0)
        return agent_fail_errno(error, "thread %d: signal mask", t->tid);
    return true;
}

static bool stop_all(AgentProc *p, int signo, GError **error)
{
    bool stopped;
    int stop;

    for (guint i = 1; i < p->tasks->len; i++)
        if (!agent_remote_settle(&((AgentTask *)g_ptr_array_index(p->tasks, i))->tracee, error))
            return false;
    if (!hand_on(&agent_leader(p)->tracee, signo, &stopped, error))
        return false;
    if (!stopped && signo != SIGSTOP) {
        agent_note(p->r, "stop-signal", p->rec->pid, -1,
                   "its parent will be told that it was stopped by SIGSTOP, not by signal %d",
                   signo);
        if (!hand_on(&agent_leader(p)->tracee, SIGSTOP, &stopped, error))
            return false;
    }
    if (!stopped)
        return agent_fail(error, "it cannot be stopped");
    for (guint i = 1; i < p->tasks->len; i++) {
        const AgentTask *t = g_ptr_array_index(p->tasks, i);

        do {
            if (!resume(&t->tracee, 0, &stop, error))
                return false;
        } while (stop >> 8 == PTRACE_EVENT_STOP && !is_group_stop(stop));
        if (!is_group_stop(stop))
            return agent_fail(error, "thread %d: stop %#x", t->tracee.tid, stop);
    }
    return true;
}

// Has the parent ask, so that nobody will be told again.
static bool tell_parent(const AgentProc *p, GError **error)
{
    return !p->parent || agent_remote(&p->parent_task->tracee, "waitid", SYS_waitid, NULL, error,
                                      P_PID, p->rec->pid, 0, WSTOPPED | WNOHANG | __WALL, 0);
}

bool agent_stop(AgentProc *p, GError **error)
{
    const bool stopped = p->rec->state == FMT_PROC_STOPPED;
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    if (!stopped && !p->rec->continued)
        return true;
    if (!stop_all(p, p->rec->stop_signal ? (int)p->rec->stop_signal : SIGSTOP, error))
        return false;
    if (stopped)
        return p->rec->stop_signal || tell_parent(p, error);
    if (kill(t->tid, SIGCONT) < 0)
        return agent_fail_errno(error, "SIGCONT");
    return agent_remote_settle(t, error); // its parent is told by a thread that runs
}
