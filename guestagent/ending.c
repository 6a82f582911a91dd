// SPDX-License-Identifier: GPL-2.0-or-later
// Processes that have ended: they end here as they did there, and wait for their parents.
//
// Whether a signal left a core can only be told by leaving one: it is written, without contents,
// into a directory that is removed again.

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"

#define CORE_FLAG    0x80
#define CORE_PATTERN "/proc/sys/kernel/core_pattern"
#define SIGSET_BYTES 8

static int death_signal(const AgentProc *p)
{
    return (int)(p->rec->exit_code & 0x7f);
}

static bool leaves_core(const AgentProc *p)
{
    return death_signal(p) && p->rec->exit_code & CORE_FLAG;
}

// Signals that end nobody.
static bool is_harmless(int signo)
{
    static const int harmless[] = {SIGCHLD, SIGCONT, SIGURG,  SIGWINCH,
                                   SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};

    for (size_t i = 0; i < G_N_ELEMENTS(harmless); i++)
        if (signo == harmless[i])
            return true;
    return signo < 0 || signo > 64;
}

void agent_ending_plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state != FMT_PROC_ZOMBIE)
            continue;
        if (!p->parent)
            agent_refuse(r, "zombie", p->rec->pid, -1, "the process has ended");
        if (is_harmless(death_signal(p)))
            agent_refuse(r, "zombie", p->rec->pid, -1, "signal %d is said to have killed it",
                         death_signal(p));
    }
}

// Waits until it is dead. This ends the tracing; its parent still has its own wait to do.
static bool wait_dead(AgentTask *t, int deliver, int *ret_status, GError **error)
{
    const pid_t tid = t->tracee.tid;
    int status;

    while (waitpid(tid, &status, __WALL) == tid) {
        if (!WIFSTOPPED(status)) {
            t->tracee.tid = 0;
            *ret_status = status;
            return true;
        }
        const bool asked = status >> 16 == 0 && WSTOPSIG(status) == deliver;

        ptrace(PTRACE_CONT, tid, NULL, (void *)(long)(asked ? deliver : 0));
    }
    return agent_fail_errno(error, "thread %d: waitpid", tid);
}

// Has it enter an exit call. Returns at once.
static bool start_exit(const AgentTask *t, long nr, unsigned status, GError **error)
{
    struct user_regs_struct regs;

    if (ptrace(PTRACE_GETREGS, t->tracee.tid, NULL, &regs) < 0)
        return agent_fail_errno(error, "thread %d", t->tracee.tid);
    regs.rip = t->tracee.site->syscall_ip;
    regs.rax = (unsigned long)nr;
    regs.orig_rax = -1ull;
    regs.rdi = status;
    if (ptrace(PTRACE_SETREGS, t->tracee.tid, NULL, &regs) < 0 ||
        ptrace(PTRACE_CONT, t->tracee.tid, NULL, NULL) < 0)
        return agent_fail_errno(error, "thread %d", t->tracee.tid);
    return true;
}

bool agent_ending_exit(AgentTask *t, unsigned status, GError **error)
{
    int unused;

    return start_exit(t, SYS_exit_group, status, error) && wait_dead(t, 0, &unused, error);
}

bool agent_ending_leader(AgentTask *t, GError **error)
{
    // The end of the agent must not be that of the process.
    const pid_t tid = t->tracee.tid;
    int stop;

    if (ptrace(PTRACE_SETOPTIONS, tid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXIT) < 0)
        return agent_fail_errno(error, "thread %d", tid);
    if (!start_exit(t, SYS_exit, t->rec->exit_code >> 8 & 0xff, error))
        return false;
    // Until it is past its last instruction.
    while (agent_remote_wait(tid, &stop, error)) {
        if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
            return agent_fail_errno(error, "thread %d", tid);
        if (stop >> 8 == PTRACE_EVENT_EXIT)
            return true;
    }
    return false;
}

/* ---- cores ---- */

struct core_place {
    char *folder;
    char *pattern; // of the machine, to be put back; NULL: left alone
};

static bool write_text(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const ssize_t len = (ssize_t)strlen(text);
    const bool ok = fd >= 0 && write(fd, text, (size_t)len) == len;

    if (fd >= 0)
        close(fd);
    return ok;
}

static void core_place_remove(struct core_place *c)
{
    g_autoptr(GDir) dir = c->folder ? g_dir_open(c->folder, 0, NULL) : NULL;
    const char *name;

    if (c->pattern)
        write_text(CORE_PATTERN, c->pattern);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(c->folder, name, NULL);

        unlink(path);
    }
    if (c->folder)
        rmdir(c->folder);
    g_clear_pointer(&c->folder, g_free);
    g_clear_pointer(&c->pattern, g_free);
}

// Where a core goes is one setting of the machine: a plain name is written to the working
// directory.
static bool core_place_make(struct core_place *c, GError **error)
{
    static const char *const folders[] = {"/tmp", "/run", "/dev/shm", ""};
    g_autofree char *pattern = NULL;

    if (c->folder)
        return true;
    for (size_t i = 0; i < G_N_ELEMENTS(folders) && !c->folder; i++) {
        char *folder = g_strconcat(folders[i], "/vmgraft-core-XXXXXX", NULL);

        if (mkdtemp(folder) && chmod(folder, 0777) == 0)
            c->folder = folder;
        else
            g_free(folder);
    }
    if (!c->folder)
        return agent_fail_errno(error, "a directory for the core of a process that left one");
    if (!g_file_get_contents(CORE_PATTERN, &pattern, NULL, error))
        return false;
    if (!strpbrk(pattern, "|/@") && pattern[0] != '\n')
        return true;
    if (!write_text(CORE_PATTERN, "core"))
        return agent_fail_errno(error, CORE_PATTERN);
    c->pattern = g_steal_pointer(&pattern);
    return true;
}

static bool prepare_core(const AgentTask *t, const struct core_place *c, GError **error)
{
    const struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    g_autofree char *filter = g_strdup_printf("/proc/%d/coredump_filter", t->tracee.tid);
    uint64_t at;

    // All that we have mapped is none of its business: headers are enough of a core.
    if (!write_text(filter, "0"))
        return agent_fail_errno(error, "%s", filter);
    if (prlimit(t->tracee.tid, RLIMIT_CORE, &limit, NULL) < 0)
        return agent_fail_errno(error, "RLIMIT_CORE");
    return agent_remote_put(&t->tracee, 0, c->folder, strlen(c->folder) + 1, &at, error) &&
           agent_remote(&t->tracee, "chdir", SYS_chdir, NULL, error, at);
}

/* ---- zombies ---- */

static bool die_of(AgentTask *t, int signo, bool core, GError **error)
{
    static const uint64_t by_default[4];
    const uint64_t all_but = ~(1ull << (signo - 1));
    const struct agent_tracee *tr = &t->tracee;
    int status;
    uint64_t at;

    if (signo != SIGKILL && (!agent_remote_put(tr, 0, by_default, sizeof by_default, &at, error) ||
                             !agent_remote(tr, "rt_sigaction", SYS_rt_sigaction, NULL, error, signo,
                                           at, 0, SIGSET_BYTES)))
        return false;
    if (!agent_remote(tr, "PR_SET_DUMPABLE", SYS_prctl, NULL, error, PR_SET_DUMPABLE, core) ||
        !agent_remote_settle(tr, error))
        return false;
    if (ptrace(PTRACE_SETSIGMASK, tr->tid, SIGSET_BYTES, &all_but) < 0 ||
        kill(tr->tid, signo) < 0 ||
        (ptrace(PTRACE_CONT, tr->tid, NULL, NULL) < 0 && signo != SIGKILL))
        return agent_fail_errno(error, "thread %d", tr->tid);
    if (!wait_dead(t, signo, &status, error))
        return false;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != signo || !!WCOREDUMP(status) != core)
        return agent_fail(error, "it ended with status %#x here, not with signal %d%s", status,
                          signo, core ? " and a core" : "");
    return true;
}

static bool end(AgentProc *p, struct core_place *c, GError **error)
{
    AgentTask *t = agent_leader(p);
    const char *comm = p->rec->comm ? p->rec->comm : "";
    const int signo = death_signal(p);
    uint64_t at;

    if (!agent_remote_put(&t->tracee, 0, comm, strlen(comm) + 1, &at, error) ||
        !agent_remote(&t->tracee, "PR_SET_NAME", SYS_prctl, NULL, error, PR_SET_NAME, at) ||
        (leaves_core(p) && !prepare_core(t, c, error)) ||
        (t->rec->cred && !agent_aspect_cred.finish_task(t, error)))
        return false;
    return signo ? die_of(t, signo, leaves_core(p), error)
                 : agent_ending_exit(t, p->rec->exit_code >> 8 & 0xff, error);
}

bool agent_ending_zombies(AgentRestore *r, GError **error)
{
    struct core_place core = {NULL, NULL};
    bool ok = true;

    for (guint i = 0; ok && i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state != FMT_PROC_ZOMBIE)
            continue;
        ok = (!leaves_core(p) || core_place_make(&core, error)) && end(p, &core, error);
        if (!ok)
            g_prefix_error(error, "process %" G_GUINT64_FORMAT ", which has ended: ", p->rec->pid);
    }
    core_place_remove(&core);
    return ok;
}
