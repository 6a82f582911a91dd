// SPDX-License-Identifier: GPL-2.0-or-later
// Makes the processes and threads of the tree, each under its own pid and stopped from its birth.
//
//   agent -- fork --> helper            enters the time namespace and, where wanted, a pid
//   namespace helper -- clone3 --> [reaper --]    pid 1 of the new pid namespace helper or reaper
//   -- clone3(set_tid) --> root -- clone3(set_tid) --> children
//
// Who clones whom is planned in lineage.c. The helper is gone before anything else happens, so that
// the root's parent is init (or the reaper). Everybody is attached from the helper on by
// PTRACE_O_TRACECLONE and its sisters, so none can outlive the agent before it is released. All
// carry a copy of the agent's memory and of its descriptors until mm.c and fd.c have taken what
// they need from them.

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/fork.h"
#include "guestagent/lineage.h"
#include "guestagent/tty.h"

// The C library's headers lack it, and the kernel's cannot be had beside them.
#define GET_RSEQ_CONFIGURATION 0x420f
struct rseq_configuration {
    uint64_t rseq_abi_pointer;
    uint32_t rseq_abi_size, signature, flags, pad;
};

#ifndef RSEQ_FLAG_UNREGISTER
#define RSEQ_FLAG_UNREGISTER 1
#endif

static void plan_task(AgentRestore *r, const AgentProc *p, const AgentTask *t)
{
    if (t->rec->tid >= agent_pid_max())
        agent_refuse(r, "pid-max", p->rec->pid, -1,
                     "pid %" G_GUINT64_FORMAT
                     " is beyond this machine's kernel.pid_max of %" G_GUINT64_FORMAT
                     "; sysctl kernel.pid_max=4194304 allows it",
                     t->rec->tid, agent_pid_max());
    if (!r->opt.new_pid_namespace && agent_number_is_taken(t->rec->tid)) {
        g_autofree char *holder = agent_number_holder(t->rec->tid);

        agent_refuse(r, "pid-taken", p->rec->pid, -1,
                     "pid %" G_GUINT64_FORMAT " is in use on this machine%s", t->rec->tid, holder);
    }
    if (r->opt.new_pid_namespace && t->rec->tid == 1)
        agent_refuse(r, "pid-taken", p->rec->pid, -1, "pid 1 cannot be had in a new pid namespace");
}

void agent_process_plan(AgentRestore *r)
{
    if (!r->opt.new_pid_namespace)
        agent_number_await(r);
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++)
            plan_task(r, p, g_ptr_array_index(p->tasks, j));
    }
    agent_ending_plan(r);
    agent_lineage_plan(r);
}

struct helper_report {
    int error; // 0: ready
    char what[60];
};

static void G_GNUC_NORETURN helper_main(AgentRestore *r, int report)
{
    struct helper_report msg = {0};
    const char *what = "";

    // Until the agent is attached nothing else would end us with it.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (r->timens && !agent_time_enter(r, &what))
        msg.error = errno;
    if (!msg.error && r->opt.new_pid_namespace && unshare(CLONE_NEWPID) < 0) {
        msg.error = errno;
        what = "new pid namespace";
    }
    g_strlcpy(msg.what, what, sizeof msg.what);
    if (write(report, &msg, sizeof msg) != sizeof msg)
        _exit(1);
    for (;;)
        pause();
}

// Not by the end of the pipe: we hold both ends ourselves.
static bool wait_report(pid_t helper, int report, struct helper_report *ret)
{
    const int pidfd = (int)syscall(SYS_pidfd_open, helper, 0);
    struct pollfd fds[] = {{report, POLLIN, 0}, {pidfd, POLLIN, 0}};

    while (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno == EINTR)
        ;
    const bool told = fds[0].revents && read(report, ret, sizeof *ret) == sizeof *ret;

    close(pidfd);
    return told;
}

// The C library keeps two signals out of every mask (32 and 33: cancellation, timers that start a
// thread, set*id in all threads), and they may be pending in a process that is restored.
static void set_mask(uint64_t mask, uint64_t *ret_before)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, ret_before, sizeof mask);
}

static bool start_helper(AgentRestore *r, GError **error)
{
    struct helper_report msg;
    uint64_t before;
    int report[2];

    if (pipe2(report, O_CLOEXEC) < 0)
        return agent_fail_errno(error, "pipe");
    // Everybody is born with all signals blocked and keeps them so until its last step.
    set_mask(~0ull, &before);
    // It has our descriptors, those of later too: who clones it may make some for us (maker.c).
    r->helper = agent_fork_high(CLONE_FILES);
    if (r->helper == 0)
        helper_main(r, report[1]);
    set_mask(before, NULL);
    const bool told = r->helper > 0 && wait_report(r->helper, report[0], &msg);

    close(report[0]);
    close(report[1]);
    if (r->helper < 0) {
        r->helper = 0;
        return agent_fail_errno(error, "fork");
    }
    if (!told)
        return agent_fail(error, "the helper process died");
    if (msg.error) {
        errno = msg.error;
        return agent_fail_errno(error, "%s", msg.what);
    }
    return agent_remote_seize(r->helper, AGENT_PTRACE_OPTIONS, error);
}

// The C library registered an rseq area for us, and a fork inherits the registration: the kernel
// would write there for ever.
static bool forget_rseq(const struct agent_tracee *t, GError **error)
{
    struct rseq_configuration conf = {0};

    if (ptrace(GET_RSEQ_CONFIGURATION, t->tid, sizeof conf, &conf) < 0) {
        if (__rseq_size == 0) // kernel before 5.13, C library did not register
            return true;
        conf.rseq_abi_pointer = (uintptr_t)__builtin_thread_pointer() + __rseq_offset;
        conf.rseq_abi_size = sizeof(struct rseq);
        conf.signature = RSEQ_SIG;
    }
    if (conf.rseq_abi_pointer == 0)
        return true;
    return agent_remote(t, "rseq", SYS_rseq, NULL, error, conf.rseq_abi_pointer, conf.rseq_abi_size,
                        RSEQ_FLAG_UNREGISTER, conf.signature);
}

/* ---- the steps of the plan of births ---- */

// Until mm.c and vdso.c are through, all processes have the memory of who cloned them: whoever is
// to share it is driven from the same place.
static bool settle_in(const struct agent_step *s, const struct agent_tracee *by, GError **error)
{
    AgentProc *p = s->task->proc, *maker = s->by ? s->by->proc : NULL;

    s->task->tracee.site = by->site;
    if (s->flags & CLONE_VM) {
        p->ia32 = maker->ia32;
        p->stub = maker->stub;
        // Memory is made by the first process of the image that has it.
        return p == maker || !agent_mm_is_owner(p) ||
               agent_fail(error, "its memory is not its own");
    }
    p->site = *by->site;
    s->task->tracee.site = &p->site;
    return agent_stub_enter(p, maker, error);
}

static bool do_birth(AgentRestore *r, const struct agent_step *s, GError **error)
{
    const bool inherits = s->flags & (CLONE_THREAD | CLONE_PARENT);
    struct clone_args args = {
        .flags = s->flags,
        .exit_signal = inherits ? 0 : s->task->proc->rec->exit_signal,
    };
    const pid_t tid = (pid_t)s->task->rec->tid;
    const struct agent_tracee *by = s->by ? &s->by->tracee : &r->trunk;

    const bool has_own = !(s->flags & CLONE_VM);
    const AgentProc *maker = s->by ? s->by->proc : NULL;

    if ((!has_own || agent_cow_before_birth(s->task->proc, maker, error)) &&
        agent_remote_clone(by, &args, &tid, 1, &s->task->tracee.tid, error)) {
        if (has_own)
            agent_cow_after_birth(s->task->proc, maker);
        return settle_in(s, by, error);
    }
    g_prefix_error(error, "thread %d: ", tid);
    return false;
}

static bool do_session(AgentRestore *r, const struct agent_step *s, GError **error)
{
    const struct agent_tracee *t = &s->task->tracee;
    const int tty = agent_tty_fd(s->task->proc);

    return agent_remote(t, "setsid", SYS_setsid, NULL, error, 0) &&
           (tty < 0 ||
            agent_remote(t, "TIOCSCTTY", SYS_ioctl, NULL, error, (uint64_t)tty, TIOCSCTTY, 0));
}

static bool do_adopt(AgentRestore *r, const struct agent_step *s, GError **error)
{
    return agent_remote(&s->task->tracee, "PR_SET_CHILD_SUBREAPER", SYS_prctl, NULL, error,
                        PR_SET_CHILD_SUBREAPER, s->kind == AGENT_STEP_ADOPT);
}

static bool do_group(AgentRestore *r, const struct agent_step *s, GError **error)
{
    return agent_remote(&s->task->tracee, "setpgid", SYS_setpgid, NULL, error, 0, s->number);
}

static bool do_foreground(AgentRestore *r, const struct agent_step *s, GError **error)
{
    const struct agent_tracee *t = &s->task->tracee;
    const pid_t pgid = (pid_t)s->number;
    uint64_t at;

    return agent_remote_put(t, 0, &pgid, sizeof pgid, &at, error) &&
           agent_remote(t, "TIOCSPGRP", SYS_ioctl, NULL, error,
                        (uint64_t)agent_tty_fd(s->task->proc), TIOCSPGRP, at);
}

static bool do_no_terminal(AgentRestore *r, const struct agent_step *s, GError **error)
{
    const int tty = agent_tty_fd(s->by->proc);

    return tty < 0 || agent_remote(&s->task->tracee, "TIOCNOTTY", SYS_ioctl, NULL, error,
                                   (uint64_t)tty, TIOCNOTTY);
}

static bool do_end(AgentRestore *r, const struct agent_step *s, GError **error)
{
    const struct agent_tracee *parent = s->by ? &s->by->tracee : &r->trunk;

    return agent_ending_exit(s->task, 0, error) &&
           agent_remote(parent, "wait4", SYS_wait4, NULL, error, s->task->rec->tid, 0, __WALL, 0);
}

static bool (*const steps[])(AgentRestore *r, const struct agent_step *s, GError **error) = {
    [AGENT_STEP_BIRTH] = do_birth,           [AGENT_STEP_SESSION] = do_session,
    [AGENT_STEP_ADOPT] = do_adopt,           [AGENT_STEP_DISOWN] = do_adopt,
    [AGENT_STEP_GROUP] = do_group,           [AGENT_STEP_END] = do_end,
    [AGENT_STEP_FOREGROUND] = do_foreground, [AGENT_STEP_NO_TERMINAL] = do_no_terminal,
};

static bool run_steps(AgentRestore *r, GError **error)
{
    for (guint i = 0; i < r->steps->len; i++) {
        const struct agent_step *s = &g_array_index(r->steps, struct agent_step, i);

        if (!steps[s->kind](r, s, error)) {
            g_prefix_error(error, "process %" G_GUINT64_FORMAT ": ", s->task->proc->rec->pid);
            return false;
        }
    }
    return true;
}

static bool end_helper(AgentRestore *r, GError **error)
{
    int status;

    // It cannot be left to return: the agent waits for it here.
    if (kill(r->helper, SIGKILL) < 0)
        return agent_fail_errno(error, "kill");
    while (waitpid(r->helper, &status, __WALL) == r->helper && WIFSTOPPED(status))
        ;
    r->helper = 0;
    return true;
}

bool agent_process_start(AgentRestore *r, GError **error)
{
    struct agent_vdso *here = agent_vdso_of(getpid(), false, error);
    struct clone_args args = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};

    if (!here)
        return false;
    r->own_scratch =
        mmap(NULL, AGENT_SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    r->own_site.scratch = (uintptr_t)r->own_scratch;
    r->own_site.scratch_bytes = AGENT_SCRATCH_BYTES;
    r->own_site.syscall_ip = here->vdso + here->syscall_offset;
    agent_vdso_free(here);
    if (r->own_scratch == MAP_FAILED) {
        r->own_scratch = NULL;
        return agent_fail_errno(error, "mmap");
    }
    if (!agent_stub_open(r, error) || !start_helper(r, error))
        return false;
    r->trunk = (struct agent_tracee){r->helper, &r->own_site};
    if (!forget_rseq(&r->trunk, error))
        return false;
    if (!r->opt.new_pid_namespace)
        return true;
    r->reaper.site = &r->own_site;
    if (!agent_remote_clone(&r->trunk, &args, NULL, 0, &r->reaper.tid, error))
        return false;
    r->trunk = r->reaper;
    return true;
}
bool agent_process_tree(AgentRestore *r, GError **error)
{
    return run_steps(r, error) && end_helper(r, error);
}

// What the reaper does once it is let go, in its copy of our memory: wait for whoever ends, and
// end when nobody is left.
static void G_GNUC_NORETURN reaper_main(void)
{
    set_mask(~0ull, NULL);
    for (;;) {
        if (waitpid(-1, NULL, __WALL) < 0 && errno == ECHILD)
            _exit(0);
    }
}

bool agent_process_release_reaper(AgentRestore *r, GError **error)
{
    static const char name[] = "vmgraft-init";
    const struct agent_tracee *t = &r->reaper;
    uint64_t at;
    struct user_regs_struct regs;

    if (t->tid == 0)
        return true;
    if (!agent_remote_put(t, 0, name, sizeof name, &at, error) ||
        !agent_remote(t, "prctl", SYS_prctl, NULL, error, PR_SET_NAME, at) ||
        !agent_remote(t, "setsid", SYS_setsid, NULL, error, 0) ||
        !agent_remote(t, "close_range", SYS_close_range, NULL, error, 0, ~0u,
                      CLOSE_RANGE_UNSHARE) ||
        !agent_remote_settle(t, error))
        return false;
    if (ptrace(PTRACE_GETREGS, t->tid, NULL, &regs) < 0)
        return agent_fail_errno(error, "reaper");
    regs.rip = (uintptr_t)reaper_main;
    // As after a call: 8 bytes below a multiple of 16.
    regs.rsp = t->site->scratch + t->site->scratch_bytes - 8;
    regs.orig_rax = -1ull;
    regs.fs_base = (uintptr_t)__builtin_thread_pointer();
    if (ptrace(PTRACE_SETREGS, t->tid, NULL, &regs) < 0 ||
        ptrace(PTRACE_DETACH, t->tid, NULL, NULL) < 0)
        return agent_fail_errno(error, "reaper");
    return true;
}

static void kill_and_wait(pid_t tid)
{
    int status;

    if (tid <= 0)
        return;
    kill(tid, SIGKILL);
    // Event and exit stops of the dying come first.
    while (waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status))
        ptrace(PTRACE_CONT, tid, NULL, NULL);
}

static void kill_process(AgentProc *p)
{
    for (guint i = p->tasks->len; i-- > 0;) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        kill_and_wait(t->tracee.tid);
        t->tracee.tid = 0;
    }
}

void agent_process_kill(AgentRestore *r)
{
    kill_and_wait(r->helper);
    r->helper = 0;
    // Killing the leader kills all threads; each of them is waited for by its tracer.
    const GPtrArray *lists[] = {r->procs, r->temps};

    for (guint i = 0; i < G_N_ELEMENTS(lists); i++)
        for (guint j = 0; j < lists[i]->len; j++)
            kill_process(g_ptr_array_index(lists[i], j));
    kill_and_wait(r->reaper.tid);
    r->reaper.tid = 0;
}
