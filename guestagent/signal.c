// SPDX-License-Identifier: GPL-2.0-or-later
// Signal actions and pending signals. The mask comes with the registers.

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/ia32.h"

#define N_SIGNALS     64
#define SIGSET_BYTES  8
#define SIGINFO_BYTES AGENT_SIGINFO_BYTES

// struct sigaction as rt_sigaction of x86-64 takes it.
struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};

static void plan(AgentRestore *r)
{
    const struct fmt_signal *s;
    const struct fmt_sigaction *a;

    for (size_t i = 0; FMT_NEXT(r->img, SIGNAL, i, s); i++) {
        if (s->signo < 1 || s->signo > N_SIGNALS ||
            (s->info && g_bytes_get_size(s->info) != SIGINFO_BYTES))
            agent_refuse(r, "signal", 0, -1,
                         "a pending signal %" G_GUINT64_FORMAT " is not well formed", s->signo);
        else if (s->signo == SIGKILL)
            agent_refuse(r, "killed", 0, -1, "the process is about to be killed");
    }
    for (size_t i = 0; FMT_NEXT(r->img, SIGACTION, i, a); i++) {
        if (a->signo < 1 || a->signo > N_SIGNALS || a->signo == SIGKILL || a->signo == SIGSTOP)
            agent_refuse(r, "sigaction", 0, -1,
                         "an action for signal %" G_GUINT64_FORMAT " is not well formed", a->signo);
    }
}

static const struct fmt_sigaction *action_of(const AgentProc *p, unsigned signo)
{
    const struct fmt_sigaction *a;

    for (size_t i = 0; FMT_NEXT(p->r->img, SIGACTION, i, a); i++) {
        if (a->sighand == p->rec->sighand && a->signo == signo)
            return a;
    }
    return NULL;
}

// Actions come before pending signals: to ignore a signal discards those that are pending.
static bool set_actions(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    for (unsigned signo = 1; signo <= N_SIGNALS; signo++) {
        const struct fmt_sigaction *a = action_of(p, signo);
        struct kernel_sigaction action = {0};
        struct sigaction ours;
        uint64_t at;

        if (signo == SIGKILL || signo == SIGSTOP)
            continue;
        // Those that neither the image nor the agent has touched are what they should be.
        if (!a && sigaction((int)signo, NULL, &ours) == 0 && ours.sa_handler == SIG_DFL)
            continue;
        if (a && a->flags & AGENT_SA_IA32) {
            if (!agent_ia32_sigaction(t, a, error))
                return false;
            continue;
        }
        if (a)
            action = (struct kernel_sigaction){a->handler, a->flags, a->restorer, a->mask};
        if (!agent_remote_put(t, 0, &action, sizeof action, &at, error) ||
            !agent_remote(t, "rt_sigaction", SYS_rt_sigaction, NULL, error, signo, at, 0,
                          SIGSET_BYTES))
            return false;
    }
    return true;
}

// Takes away what came in while the process was built, such as SIGCHLD of a zombie.
static bool drain(const struct agent_tracee *t, GError **error)
{
    const struct {
        uint64_t set;
        struct __kernel_timespec now;
    } wait = {~0ull, {0, 0}};
    int64_t ret;

    do {
        if (!agent_remote_put(t, 0, &wait, sizeof wait, NULL, error))
            return false;
        const uint64_t args[6] = {t->site->scratch, 0, t->site->scratch + sizeof wait.set,
                                  SIGSET_BYTES};

        if (!agent_remote_raw(t, SYS_rt_sigtimedwait, args, &ret, error))
            return false;
    } while (ret > 0);
    return true;
}

// A thread may send itself anything, so each gets its own from itself.
bool agent_signal_queue(AgentTask *t, bool to_process, uint64_t signo,
                        const uint8_t info[SIGINFO_BYTES], GError **error)
{
    const struct agent_tracee *tr = &t->tracee;
    uint64_t at;

    if (!agent_remote_put(tr, 0, info, SIGINFO_BYTES, &at, error))
        return false;
    return to_process ? agent_remote(tr, "rt_sigqueueinfo", SYS_rt_sigqueueinfo, NULL, error,
                                     t->proc->rec->pid, signo, at)
                      : agent_remote(tr, "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, NULL, error,
                                     t->proc->rec->pid, t->rec->tid, signo, at);
}

static bool queue_one(AgentTask *t, const struct fmt_signal *s, bool to_process, GError **error)
{
    uint8_t info[SIGINFO_BYTES] = {0};

    if (s->timer)
        return agent_posix_timer_fire(t, s->timer, to_process, error);
    if (s->info) {
        memcpy(info, g_bytes_get_data(s->info, NULL), sizeof info);
    } else {
        const int signo = (int)s->signo; // what the kernel makes up for a signal without entry

        memcpy(info, &signo, sizeof signo);
    }
    return agent_signal_queue(t, to_process, s->signo, info, error);
}

bool agent_signal_is_ignored(const AgentTask *t, uint64_t signo)
{
    const struct fmt_sigaction *a = action_of(t->proc, (unsigned)signo);

    if (t->rec->blocked >> (signo - 1) & 1)
        return false;
    if (a && a->handler != (uint64_t)(uintptr_t)SIG_DFL)
        return a->handler == (uint64_t)(uintptr_t)SIG_IGN;
    return signo == SIGCHLD || signo == SIGCONT || signo == SIGURG || signo == SIGWINCH;
}

// Of what is ignored: while it was traced the kernel kept for it what it would have thrown away,
// and that would end a call. Not of timers, which are armed again when it is delivered.
static bool is_queued(const AgentTask *t, const struct fmt_signal *s)
{
    return s->signo != SIGSTOP && (s->timer || !agent_signal_is_ignored(t, s->signo));
}

static bool queue(AgentTask *t, uint64_t owner, bool to_process, GError **error)
{
    const struct fmt_signal *s;

    for (size_t i = 0; FMT_NEXT(t->proc->r->img, SIGNAL, i, s); i++) {
        if (s->owner == owner && is_queued(t, s) && !queue_one(t, s, to_process, error))
            return false;
    }
    return true;
}

// What the program had queued is not to fail for a limit of ours, which limit.c replaces later. An
// agent that may not lift it does with what there is.
static void lift_limit(const AgentProc *p)
{
    const struct rlimit64 none = {RLIM64_INFINITY, RLIM64_INFINITY};

    prlimit64(agent_leader(p)->tracee.tid, RLIMIT_SIGPENDING, &none, NULL);
}

static bool finish(AgentProc *p, GError **error)
{
    lift_limit(p);
    return set_actions(p, error) && drain(&agent_leader(p)->tracee, error) &&
           queue(agent_leader(p), p->rec->rec.objref, true, error);
}

// Nothing keeps a SIGSTOP that is sent while the process is still built. One that is stopped
// already has it pending until it is continued.
void agent_signal_stop(const AgentProc *p)
{
    const struct fmt_signal *s;

    for (size_t i = 0; FMT_NEXT(p->r->img, SIGNAL, i, s); i++) {
        if (s->signo != SIGSTOP)
            continue;
        if (s->owner == p->rec->rec.objref)
            kill(agent_leader(p)->tracee.tid, SIGSTOP);
        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (s->owner == t->rec->rec.objref)
                syscall(SYS_tgkill, agent_leader(p)->tracee.tid, t->tracee.tid, SIGSTOP);
        }
    }
}

static bool set_altstack(AgentTask *t, GError **error)
{
    const stack_t stack = {
        .ss_sp = (void *)(uintptr_t)t->rec->altstack_sp,
        .ss_flags = (int)(t->rec->altstack_flags & (SS_DISABLE | (1u << 31 /* SS_AUTODISARM */))),
        .ss_size = t->rec->altstack_bytes,
    };
    uint64_t at;

    if (t->rec->altstack_bytes == 0 || stack.ss_flags & SS_DISABLE)
        return true;
    return agent_remote_put(&t->tracee, 0, &stack, sizeof stack, &at, error) &&
           agent_remote(&t->tracee, "sigaltstack", SYS_sigaltstack, NULL, error, at, 0);
}

static bool finish_task(AgentTask *t, GError **error)
{
    return set_altstack(t, error) && queue(t, t->rec->rec.objref, false, error);
}

const struct agent_aspect agent_aspect_signal = {
    .name = "signals",
    .plan = plan,
    .finish = finish,
    .finish_task = finish_task,
};
