// SPDX-License-Identifier: GPL-2.0-or-later
// System calls in a ptrace-stopped thread.

#include "guestagent/remote.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "guestagent/ia32.h"
#include "guestagent/restore.h"

// Selectors of 64-bit user code and data on x86 Linux, and IF with the reserved bit of eflags.
#define USER_CS     0x33
#define USER_DS     0x2b
#define USER_EFLAGS 0x202

#define SYSCALL_STOP (SIGTRAP | 0x80)

// By PTRACE_INTERRUPT, at birth, or because the process as a whole was stopped.
static bool is_event_stop(int stop)
{
    return stop >> 8 == PTRACE_EVENT_STOP;
}

static bool ptrace_failed(pid_t tid, const char *what, GError **error)
{
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED, "thread %d: %s: %s", tid, what,
                g_strerror(errno));
    return false;
}

bool agent_remote_wait(pid_t tid, int *ret_status, GError **error)
{
    int status;

    while (waitpid(tid, &status, __WALL) < 0) {
        if (errno != EINTR)
            return ptrace_failed(tid, "waitpid", error);
    }
    if (WIFSTOPPED(status)) {
        *ret_status = status >> 8;
        return true;
    }
    if (WIFSIGNALED(status))
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED,
                    "thread %d was killed by signal %d while it was being restored", tid,
                    WTERMSIG(status));
    else
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED,
                    "thread %d ended with status %d while it was being restored", tid,
                    WEXITSTATUS(status));
    return false;
}

bool agent_remote_seize(pid_t tid, unsigned long options, GError **error)
{
    int stop;

    if (ptrace(PTRACE_SEIZE, tid, NULL, options) < 0)
        return ptrace_failed(tid, "PTRACE_SEIZE", error);
    if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
        return ptrace_failed(tid, "PTRACE_INTERRUPT", error);
    return agent_remote_wait(tid, &stop, error);
}

// Resumes until one of two expected stops; an event stop in between (a late interrupt) is passed.
static bool resume_until(pid_t tid, int request, int want, int *ret_stop, GError **error)
{
    for (;;) {
        int stop;

        if (ptrace(request, tid, NULL, NULL) < 0)
            return ptrace_failed(tid, "ptrace resume", error);
        if (!agent_remote_wait(tid, &stop, error))
            return false;
        if (stop == want || (ret_stop && stop >> 8 != 0 && !is_event_stop(stop))) {
            if (ret_stop)
                *ret_stop = stop;
            return true;
        }
        if (!is_event_stop(stop)) {
            g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED,
                        "thread %d stopped with %#x (signal %d) while it was being restored", tid,
                        stop, stop & 0x7f);
            return false;
        }
    }
}

// A call, of x86-64 or of i386. The latter work from 64-bit code as well.
struct call {
    long nr;
    const uint64_t *args; // six
    bool ia32;
};

static bool enter(const struct agent_tracee *t, const struct call *call, GError **error)
{
    const uint64_t *args = call->args;
    struct user_regs_struct regs = {
        .rip = call->ia32 ? t->site->int80_ip : t->site->syscall_ip,
        .rsp = t->site->scratch + t->site->scratch_bytes,
        .rax = call->nr,
        .orig_rax = -1ull, // no call is pending: nothing to restart
        .cs = USER_CS,
        .ss = USER_DS,
        .eflags = USER_EFLAGS,
    };

    if (call->ia32) {
        regs.rbx = args[0], regs.rcx = args[1], regs.rdx = args[2];
        regs.rsi = args[3], regs.rdi = args[4], regs.rbp = args[5];
    } else {
        regs.rdi = args[0], regs.rsi = args[1], regs.rdx = args[2];
        regs.r10 = args[3], regs.r8 = args[4], regs.r9 = args[5];
    }
    if (ptrace(PTRACE_SETREGS, t->tid, NULL, &regs) < 0)
        return ptrace_failed(t->tid, "PTRACE_SETREGS", error);
    return resume_until(t->tid, PTRACE_SYSCALL, SYSCALL_STOP, NULL, error);
}

static bool result(const struct agent_tracee *t, int64_t *ret, GError **error)
{
    struct user_regs_struct regs;

    if (ptrace(PTRACE_GETREGS, t->tid, NULL, &regs) < 0)
        return ptrace_failed(t->tid, "PTRACE_GETREGS", error);
    *ret = (int64_t)regs.rax;
    return true;
}

static bool perform(const struct agent_tracee *t, const struct call *call, int64_t *ret,
                    GError **error)
{
    return enter(t, call, error) &&
           resume_until(t->tid, PTRACE_SYSCALL, SYSCALL_STOP, NULL, error) && result(t, ret, error);
}

static bool demand(const struct agent_tracee *t, const char *what, const struct call *call,
                   int64_t *ret, GError **error)
{
    int64_t value;

    if (!perform(t, call, &value, error))
        return false;
    if (value < 0 && value > -4096) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED, "thread %d: %s: %s", t->tid, what,
                    g_strerror((int)-value));
        return false;
    }
    if (ret)
        *ret = value;
    return true;
}

bool agent_remote_raw(const struct agent_tracee *t, long nr, const uint64_t args[6], int64_t *ret,
                      GError **error)
{
    return perform(t, &(const struct call){nr, args, false}, ret, error);
}

bool agent_remote_call(const struct agent_tracee *t, const char *what, long nr,
                       const uint64_t args[6], int64_t *ret, GError **error)
{
    return demand(t, what, &(const struct call){nr, args, false}, ret, error);
}

bool agent_remote_ia32_call(const struct agent_tracee *t, const char *what, long nr,
                            const uint64_t args[6], int64_t *ret, GError **error)
{
    return demand(t, what, &(const struct call){nr, args, true}, ret, error);
}

bool agent_remote_clone(const struct agent_tracee *t, struct clone_args *args, const pid_t *set_tid,
                        size_t n_set_tid, pid_t *ret, GError **error)
{
    unsigned long child = 0;
    int64_t value = 0;
    int stop;

    if (n_set_tid > 0) {
        uint64_t at;

        if (!agent_remote_put(t, sizeof *args, set_tid, n_set_tid * sizeof *set_tid, &at, error))
            return false;
        args->set_tid = at;
        args->set_tid_size = n_set_tid;
    }
    if (!agent_remote_put(t, 0, args, sizeof *args, NULL, error))
        return false;

    const uint64_t call[6] = {t->site->scratch, sizeof *args};

    if (!enter(t, &(const struct call){SYS_clone3, call, false}, error) ||
        !resume_until(t->tid, PTRACE_SYSCALL, SYSCALL_STOP, &stop, error))
        return false;
    if (stop != SYSCALL_STOP) {
        if (ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &child) < 0)
            return ptrace_failed(t->tid, "PTRACE_GETEVENTMSG", error);
        // The child is reported before its parent's call returns: it must be known to the caller
        // even when what follows fails.
        *ret = (pid_t)child;
        if (!resume_until(t->tid, PTRACE_SYSCALL, SYSCALL_STOP, NULL, error) ||
            !agent_remote_wait((pid_t)child, &stop, error))
            return false;
    }
    if (!result(t, &value, error))
        return false;
    if (value < 0) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED, "thread %d: clone3: %s", t->tid,
                    g_strerror((int)-value));
        return false;
    }
    return true;
}

bool agent_remote_put(const struct agent_tracee *t, size_t offset, const void *data, size_t len,
                      uint64_t *ret, GError **error)
{
    if (offset + len > t->site->scratch_bytes) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED,
                    "thread %d: arguments of %zu bytes do not fit", t->tid, len);
        return false;
    }
    if (!agent_remote_write(t, t->site->scratch + offset, data, len, error))
        return false;
    if (ret)
        *ret = t->site->scratch + offset;
    return true;
}

static bool copy(const struct agent_tracee *t, uint64_t addr, void *data, size_t len, bool write,
                 GError **error)
{
    while (len > 0) {
        struct iovec here = {data, len}, there = {(void *)(uintptr_t)addr, len};
        ssize_t n = write ? process_vm_writev(t->tid, &here, 1, &there, 1, 0)
                          : process_vm_readv(t->tid, &here, 1, &there, 1, 0);

        if (n <= 0) {
            g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED,
                        "thread %d: %s %zu bytes at %#" G_GINT64_MODIFIER "x: %s", t->tid,
                        write ? "write" : "read", len, addr, n < 0 ? g_strerror(errno) : "nothing");
            return false;
        }
        data = (uint8_t *)data + n;
        addr += n;
        len -= n;
    }
    return true;
}

bool agent_remote_read(const struct agent_tracee *t, uint64_t addr, void *ret, size_t len,
                       GError **error)
{
    return copy(t, addr, ret, len, false, error);
}

bool agent_remote_write(const struct agent_tracee *t, uint64_t addr, const void *data, size_t len,
                        GError **error)
{
    return copy(t, addr, (void *)data, len, true, error);
}

bool agent_remote_interrupted(const struct agent_tracee *t, bool ia32, long nr,
                              const uint64_t args[6], int64_t *ret, GError **error)
{
    if (!enter(t, &(const struct call){nr, args, ia32}, error))
        return false;
    // Asked for before the call is entered, so that it finds a signal pending however early it
    // looks; there is no moment in which it could sleep.
    if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
        return ptrace_failed(t->tid, "PTRACE_INTERRUPT", error);
    int stop;

    if (ptrace(PTRACE_CONT, t->tid, NULL, NULL) < 0)
        return ptrace_failed(t->tid, "PTRACE_CONT", error);
    if (!agent_remote_wait(t->tid, &stop, error))
        return false;
    if (!is_event_stop(stop)) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED,
                    "thread %d stopped with %#x instead of being interrupted", t->tid, stop);
        return false;
    }
    return result(t, ret, error);
}

bool agent_remote_settle(const struct agent_tracee *t, GError **error)
{
    const uint64_t none[6] = {0};
    int64_t ret;

    // A call without effect: interrupted at its end, it leaves the thread where signals are looked
    // at.
    const bool ia32 = !t->site->syscall_ip;

    return agent_remote_interrupted(t, ia32, ia32 ? IA32_GETPID : SYS_getpid, none, &ret, error);
}
