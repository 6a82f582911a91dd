// SPDX-License-Identifier: GPL-2.0-or-later
// Processes that live for a moment to be who made something: the kernel remembers their pid.
#include "guestagent/maker.h"

#include <errno.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/*
 * Whoever calls socketpair(), listen() or connect() on a unix socket is what SO_PEERCRED tells the
 * other side for ever, and a message with SCM_CREDENTIALS can only be sent while its pid exists.
 * Such a process may be one of the tree, which is not there yet when descriptors are made, or one
 * that ended long ago. So the agent clones, beside the helper that the tree will grow from, a
 * process with that pid, has it make the call, and ends it before the tree needs the pid.
 */

struct agent_maker {
    uint64_t pid;
    const struct fmt_cred *cred; // that it has now
    struct agent_tracee tracee;
};

static struct agent_maker *find(AgentRestore *r, uint64_t pid)
{
    for (guint i = 0; r->makers && i < r->makers->len; i++) {
        struct agent_maker *maker = g_ptr_array_index(r->makers, i);

        if (maker->pid == pid)
            return maker;
    }
    return NULL;
}

static struct agent_maker *start(AgentRestore *r, uint64_t pid, GError **error)
{
    struct clone_args args = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
    struct agent_maker *maker = g_new0(struct agent_maker, 1);
    const pid_t tid = (pid_t)pid;

    if (!r->makers)
        r->makers = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(r->makers, maker);
    maker->pid = pid;
    maker->tracee.site = &r->own_site;
    if (!agent_remote_clone(&r->trunk, &args, &tid, pid ? 1 : 0, &maker->tracee.tid, error)) {
        g_prefix_error(error, "a process that made a socket, %d: ", tid);
        return NULL;
    }
    // With this the capabilities stay when the ids change.
    return agent_remote(&maker->tracee, "PR_SET_SECUREBITS", SYS_prctl, NULL, error,
                        PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
               ? maker
               : NULL;
}

static bool become(struct agent_maker *maker, const struct fmt_cred *cred, GError **error)
{
    const struct agent_tracee *t = &maker->tracee;
    gsize bytes = 0;
    const void *groups = cred->groups ? g_bytes_get_data(cred->groups, &bytes) : NULL;
    uint64_t at = 0;

    if (cred == maker->cred)
        return true;
    maker->cred = cred;
    return (bytes == 0 || agent_remote_put(t, 0, groups, bytes, &at, error)) &&
           agent_remote(t, "setgroups", SYS_setgroups, NULL, error, bytes / 4, at) &&
           agent_remote(t, "setresgid", SYS_setresgid, NULL, error, -1, cred->egid, -1) &&
           agent_remote(t, "setresuid", SYS_setresuid, NULL, error, -1, cred->euid, -1);
}

struct agent_maker *agent_maker_get(AgentRestore *r, uint64_t pid, const struct fmt_cred *cred,
                                    GError **error)
{
    struct agent_maker *maker = find(r, pid);

    if (!maker)
        maker = start(r, pid, error);
    return maker && (!cred || become(maker, cred, error)) ? maker : NULL;
}

pid_t agent_maker_pid(const struct agent_maker *maker)
{
    return maker->tracee.tid;
}

bool agent_maker_socketpair(struct agent_maker *maker, int type, int ret[2], GError **error)
{
    const struct agent_tracee *t = &maker->tracee;

    return agent_remote(t, "socketpair", SYS_socketpair, NULL, error, AF_UNIX,
                        (uint64_t)type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, t->site->scratch) &&
           agent_remote_read(t, t->site->scratch, ret, 2 * sizeof(int), error);
}

bool agent_maker_listen(struct agent_maker *maker, int fd, uint64_t backlog, GError **error)
{
    return agent_remote(&maker->tracee, "listen", SYS_listen, NULL, error, (uint64_t)fd, backlog);
}

bool agent_maker_connect(struct agent_maker *maker, int fd, const void *addr, size_t len,
                         GError **error)
{
    uint64_t at;

    return agent_remote_put(&maker->tracee, 0, addr, len, &at, error) &&
           agent_remote(&maker->tracee, "connect", SYS_connect, NULL, error, (uint64_t)fd, at, len);
}

static void kill_one(struct agent_maker *maker)
{
    int status;

    kill(maker->tracee.tid, SIGKILL);
    while (waitpid(maker->tracee.tid, &status, __WALL) == maker->tracee.tid && WIFSTOPPED(status))
        ptrace(PTRACE_CONT, maker->tracee.tid, NULL, NULL);
}

bool agent_makers_end(AgentRestore *r, GError **error)
{
    bool ok = true;

    for (guint i = 0; r->makers && i < r->makers->len; i++) {
        struct agent_maker *maker = g_ptr_array_index(r->makers, i);

        if (maker->tracee.tid <= 0)
            continue;
        kill_one(maker);
        // Our wait ends the tracing; the pid is free when its parent has waited as well.
        if (ok)
            ok = agent_remote(&r->trunk, "wait4", SYS_wait4, NULL, error, (uint64_t)-1, 0, __WALL,
                              0);
    }
    g_clear_pointer(&r->makers, g_ptr_array_unref);
    return ok;
}

void agent_maker_plan(AgentRestore *r, uint64_t pid, uint64_t file, const char *what)
{
    const bool own_namespace = r->opt.new_pid_namespace;

    if (pid == 0)
        agent_note_file(r, "peer-credentials", file, "%s of a process that the source did not show",
                        what);
    else if (pid > G_MAXINT || (own_namespace && pid == 1))
        agent_refuse_file(r, "peer-credentials", file,
                          "%s process %" G_GUINT64_FORMAT ", which cannot be had here", what, pid);
    else if (!own_namespace && agent_number_is_taken(pid))
        agent_refuse_file(
            r, "peer-credentials", file,
            "%s process %" G_GUINT64_FORMAT
            ", and that pid is in use on this machine (not so with --new-pid-namespace)",
            what, pid);
}
