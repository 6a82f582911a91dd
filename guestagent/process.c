// SPDX-License-Identifier: GPL-2.0-or-later
// Makes the processes and threads of the tree, each under its own pid and stopped from its birth.
//
//   agent -- fork --> helper            enters the time namespace and, where wanted, a pid
//   namespace helper -- clone3 --> [reaper --]    pid 1 of the new pid namespace helper or reaper
//   -- clone3(set_tid) --> root -- clone3(set_tid) --> children
//
// The helper is gone before anything else happens, so that the root's parent is init (or the
// reaper). Everybody is attached from the helper on by PTRACE_O_TRACECLONE and its sisters, so none
// can outlive the agent before it is released. All carry a copy of the agent's memory and of its
// descriptors until mm.c and fd.c have taken what they need from them.

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/fork.h"

// The C library's headers lack it, and the kernel's cannot be had beside them.
#define GET_RSEQ_CONFIGURATION 0x420f
struct rseq_configuration {
    uint64_t rseq_abi_pointer;
    uint32_t rseq_abi_size, signature, flags, pad;
};

#ifndef RSEQ_FLAG_UNREGISTER
#define RSEQ_FLAG_UNREGISTER 1
#endif

static AgentProc *proc_by_pid(const AgentRestore *r, uint64_t pid)
{
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->pid == pid)
            return p;
    }
    return NULL;
}

bool agent_process_is_taken(uint64_t tid)
{
    // A number is also in use while a process group is named by it.
    return kill((pid_t)tid, 0) == 0 || errno != ESRCH || kill(-(pid_t)tid, 0) == 0 ||
           errno != ESRCH;
}

// A session that has its leader outside of the tree becomes the root's own; so do such groups.
static void plan_session(AgentRestore *r, AgentProc *p)
{
    const AgentProc *root = g_ptr_array_index(r->procs, 0);

    p->sid = p->rec->sid;
    p->pgid = p->rec->pgid;
    if (!proc_by_pid(r, p->sid)) {
        if (p == root)
            agent_note(r, "session", p->rec->pid, -1,
                       "session %" G_GUINT64_FORMAT " has its leader outside of the tree; the "
                       "process becomes the leader of a new one",
                       p->sid);
        p->sid = root->rec->pid;
        p->pgid = proc_by_pid(r, p->pgid) ? p->pgid : root->rec->pid;
    }
    if (!proc_by_pid(r, p->pgid)) {
        agent_note(r, "process-group", p->rec->pid, -1,
                   "process group %" G_GUINT64_FORMAT
                   " has its leader outside of the tree; the process joins that of its session",
                   p->pgid);
        p->pgid = p->sid;
    }
    if (p->parent && p->sid != p->rec->pid && p->sid != p->parent->sid &&
        p->parent->sid != p->parent->rec->pid)
        agent_refuse(r, "session", p->rec->pid, -1,
                     "its session %" G_GUINT64_FORMAT " is not that of its parent", p->sid);
}

static void plan_task(AgentRestore *r, const AgentProc *p, const AgentTask *t)
{
    const AgentTask *leader = agent_leader(p);

    if (!r->opt.new_pid_namespace && agent_process_is_taken(t->rec->tid))
        agent_refuse(r, "pid-taken", p->rec->pid, -1,
                     "pid %" G_GUINT64_FORMAT " is in use on this machine", t->rec->tid);
    if (r->opt.new_pid_namespace && t->rec->tid == 1)
        agent_refuse(r, "pid-taken", p->rec->pid, -1, "pid 1 cannot be had in a new pid namespace");
    if (t->rec->files != leader->rec->files)
        agent_refuse(r, "thread-files", p->rec->pid, -1,
                     "thread %" G_GUINT64_FORMAT " has a descriptor table of its own", t->rec->tid);
    if (t->rec->fs != leader->rec->fs)
        agent_refuse(r, "thread-fs", p->rec->pid, -1,
                     "thread %" G_GUINT64_FORMAT " has a working directory of its own",
                     t->rec->tid);
}

void agent_process_plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        plan_session(r, p);
        if (p->rec->state == FMT_PROC_ZOMBIE && !p->parent)
            agent_refuse(r, "zombie", p->rec->pid, -1, "the process has ended");
        if (p->rec->state == FMT_PROC_ZOMBIE && p->rec->exit_code & 0x7f &&
            (p->rec->exit_code & 0xff) != SIGKILL)
            agent_refuse(r, "zombie", p->rec->pid, -1,
                         "it was killed by signal %d and waits for its parent; only SIGKILL is "
                         "supported",
                         (int)p->rec->exit_code & 0x7f);
        for (guint j = 0; j < p->tasks->len; j++)
            plan_task(r, p, g_ptr_array_index(p->tasks, j));
        for (guint j = 0; j < i; j++) {
            const AgentProc *other = g_ptr_array_index(r->procs, j);

            if (p->mm && p->mm == other->mm)
                agent_refuse(r, "shared-mm", p->rec->pid, -1,
                             "it shares its memory with process %" G_GUINT64_FORMAT,
                             other->rec->pid);
            if (p->rec->sighand && p->rec->sighand == other->rec->sighand)
                agent_refuse(r, "shared-sighand", p->rec->pid, -1,
                             "it shares its signal actions with process %" G_GUINT64_FORMAT,
                             other->rec->pid);
            if (agent_leader(p)->rec->files &&
                agent_leader(p)->rec->files == agent_leader(other)->rec->files)
                agent_refuse(r, "shared-files", p->rec->pid, -1,
                             "it shares its descriptor table with process %" G_GUINT64_FORMAT,
                             other->rec->pid);
        }
    }
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

static bool start_helper(AgentRestore *r, GError **error)
{
    struct helper_report msg;
    sigset_t all, before;
    int report[2];

    if (pipe2(report, O_CLOEXEC) < 0)
        return agent_fail_errno(error, "pipe");
    // Everybody is born with all signals blocked and keeps them so until its last step.
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    // It has our descriptors, those of later too: who clones it may make some for us (maker.c).
    r->helper = agent_fork_high(CLONE_FILES);
    if (r->helper == 0)
        helper_main(r, report[1]);
    sigprocmask(SIG_SETMASK, &before, NULL);
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

static bool clone_process(AgentProc *p, const struct agent_tracee *parent, GError **error)
{
    AgentTask *leader = agent_leader(p);
    const pid_t tid = (pid_t)p->rec->pid;
    struct clone_args args = {.exit_signal = p->rec->exit_signal};

    if (!agent_remote_clone(parent, &args, &tid, 1, &leader->tracee.tid, error)) {
        g_prefix_error(error, "process %d: ", tid);
        return false;
    }
    p->site = *parent->site;
    leader->tracee.site = &p->site;
    return agent_stub_enter(p, error);
}

static bool clone_children(AgentProc *parent, bool own_session, GError **error)
{
    for (guint i = 0; i < parent->r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(parent->r->procs, i);

        if (p->parent == parent && (p->sid == parent->rec->pid) == own_session &&
            !clone_process(p, &agent_leader(parent)->tracee, error))
            return false;
    }
    return true;
}

// A child is in the session that its parent had when it was born: those that do not share the
// session that the parent leads come before its setsid().
static bool grow(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    if (!clone_children(p, false, error))
        return false;
    if (p->sid == p->rec->pid && !agent_remote(t, "setsid", SYS_setsid, NULL, error, 0))
        return false;
    return clone_children(p, true, error);
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
    if (!clone_process(g_ptr_array_index(r->procs, 0), &r->trunk, error) || !end_helper(r, error))
        return false;
    for (guint i = 0; i < r->procs->len; i++) {
        if (!grow(g_ptr_array_index(r->procs, i), error))
            return false;
    }
    return true;
}

bool agent_process_groups(AgentRestore *r, GError **error)
{
    // Groups exist from the moment their leader enters them, so leaders first.
    for (int leaders = 1; leaders >= 0; leaders--) {
        for (guint i = 0; i < r->procs->len; i++) {
            AgentProc *p = g_ptr_array_index(r->procs, i);

            // A session leader leads its group already and may not leave it.
            if (p->sid == p->rec->pid || (p->pgid == p->rec->pid) != leaders)
                continue;
            if (!agent_remote(&agent_leader(p)->tracee, "setpgid", SYS_setpgid, NULL, error, 0,
                              p->pgid))
                return false;
        }
    }
    return true;
}

bool agent_process_threads(AgentProc *p, GError **error)
{
    for (guint i = 1; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);
        const pid_t tid = (pid_t)t->rec->tid;
        struct clone_args args = {.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
                                           CLONE_THREAD | CLONE_SYSVSEM};

        if (!agent_remote_clone(&agent_leader(p)->tracee, &args, &tid, 1, &t->tracee.tid, error)) {
            g_prefix_error(error, "thread %d: ", tid);
            return false;
        }
        t->tracee.site = &p->site;
    }
    return true;
}

bool agent_process_zombie(AgentProc *p, GError **error)
{
    AgentTask *t = agent_leader(p);
    const int signo = p->rec->exit_code & 0x7f;
    struct user_regs_struct regs;
    int status;

    if (ptrace(PTRACE_GETREGS, t->tracee.tid, NULL, &regs) < 0)
        return agent_fail_errno(error, "thread %d", t->tracee.tid);
    regs.rip = p->site.syscall_ip;
    regs.rax = SYS_exit_group;
    regs.orig_rax = -1ull;
    regs.rdi = p->rec->exit_code >> 8 & 0xff;
    if (ptrace(PTRACE_SETREGS, t->tracee.tid, NULL, &regs) < 0 ||
        (signo ? kill(t->tracee.tid, SIGKILL) : 0) < 0 ||
        (ptrace(PTRACE_CONT, t->tracee.tid, NULL, NULL) < 0 && !signo))
        return agent_fail_errno(error, "thread %d", t->tracee.tid);
    // Our wait ends the tracing; its parent still has its own to do.
    while (waitpid(t->tracee.tid, &status, __WALL) == t->tracee.tid && WIFSTOPPED(status))
        ptrace(PTRACE_CONT, t->tracee.tid, NULL, NULL);
    t->tracee.tid = 0;
    return true;
}

// What the reaper does once it is let go, in its copy of our memory: wait for whoever ends, and
// end when nobody is left.
static void G_GNUC_NORETURN reaper_main(void)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
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

void agent_process_kill(AgentRestore *r)
{
    kill_and_wait(r->helper);
    r->helper = 0;
    // Killing the leader kills all threads; each of them is waited for by its tracer.
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = p->tasks->len; j-- > 0;) {
            AgentTask *t = g_ptr_array_index(p->tasks, j);

            kill_and_wait(t->tracee.tid);
            t->tracee.tid = 0;
        }
    }
    kill_and_wait(r->reaper.tid);
    r->reaper.tid = 0;
}
