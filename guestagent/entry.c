// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that threads enter under the agent's eyes.
//
// Of some it is the call itself that must find the signals that have come meanwhile: it lets in
// others than the thread does, or tells what is left of it. Its thread stops at the entry, with all
// signals blocked until then, and enters the call from there.
//
// Others are entered again with what is left of their timeout (FMT_RESTART_ENTER).
// The timeout is an argument that a program does not expect to change, or belongs to a socket. So
// for as long as the thread takes to enter its call, everybody else is stopped, and the place of
// the timeout holds what is left. The thread is asleep when the place gets its own contents back.
// One who is asleep cannot be let go; that happens by itself when the agent's process, its tracer,
// ends.

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/ia32.h"
#include "guestagent/procfs.h"
#include "guestagent/wind.h"

#define NS_PER_S     1000000000ull
#define NS_PER_MS    1000000ull
#define SYSCALL_STOP (SIGTRAP | 0x80)
#define PATIENCE_US  (2 * G_USEC_PER_SEC)
#define LOOK_US      100

// include/linux/errno.h: results of a call that begins anew
enum { ERESTARTSYS = 512, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 516 };

// What the place of a timeout holds, and how many bytes that is.
struct rest {
    uint8_t bytes[16];
    socklen_t n;
};

/* ---- forms of a timeout ---- */

static struct rest pack(uint64_t seconds, uint64_t fraction, bool narrow)
{
    const uint64_t wide[2] = {seconds, fraction};
    const uint32_t half[2] = {(uint32_t)seconds, (uint32_t)fraction};
    struct rest rest = {.n = narrow ? sizeof half : sizeof wide};

    memcpy(rest.bytes, narrow ? (const void *)half : wide, rest.n);
    return rest;
}

// Rounded up: no timeout ends early.
static struct rest rest_of(const AgentTask *t)
{
    const uint64_t left = agent_time_left(t->proc->r, t->rec->restart_ns);
    const uint64_t us = (left + 999) / 1000;

    switch ((enum fmt_timeout)t->rec->restart_arg1) {
    case FMT_TIMEOUT_TIMESPEC:
    case FMT_TIMEOUT_TIMESPEC32:
        return pack(left / NS_PER_S, left % NS_PER_S,
                    t->rec->restart_arg1 == FMT_TIMEOUT_TIMESPEC32);
    default:
        return pack(us / 1000000, us % 1000000, t->rec->restart_arg1 == FMT_TIMEOUT_TIMEVAL32);
    }
}

/* ---- places of a timeout ---- */

// Constants may be where the program itself cannot write.
static bool poke(const AgentTask *t, const struct rest *rest)
{
    char path[64];

    if (agent_remote_write(&t->tracee, t->rec->restart_addr, rest->bytes, rest->n, NULL))
        return true;
    snprintf(path, sizeof path, "/proc/%d/mem", t->tracee.tid);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const bool ok =
        fd >= 0 && pwrite(fd, rest->bytes, rest->n, (off_t)t->rec->restart_addr) == rest->n;

    if (fd >= 0)
        close(fd);
    return ok;
}

static int socket_of(const AgentTask *t)
{
    const struct fmt_fd *fd;

    for (size_t i = 0; FMT_NEXT(t->proc->r->img, FD, i, fd); i++) {
        if (fd->files == t->rec->files && fd->fd == t->rec->restart_addr)
            return agent_file_fd(t->proc->r, fd->file);
    }
    return -1;
}

static int option_of(const AgentTask *t)
{
    return t->rec->restart_arg1 == FMT_TIMEOUT_SEND ? SO_SNDTIMEO : SO_RCVTIMEO;
}

static bool is_of_socket(const AgentTask *t)
{
    return t->rec->restart_arg1 == FMT_TIMEOUT_SEND || t->rec->restart_arg1 == FMT_TIMEOUT_RECEIVE;
}

static bool put(const AgentTask *t, const struct rest *rest)
{
    return is_of_socket(t)
               ? setsockopt(socket_of(t), SOL_SOCKET, option_of(t), rest->bytes, rest->n) == 0
               : poke(t, rest);
}

// Puts what is left into its place; *ret_before is what was there.
static bool exchange(const AgentTask *t, struct rest *ret_before)
{
    const struct rest rest = rest_of(t);

    ret_before->n = rest.n;
    if (is_of_socket(t)
            ? getsockopt(socket_of(t), SOL_SOCKET, option_of(t), ret_before->bytes, &ret_before->n)
            : !agent_remote_read(&t->tracee, t->rec->restart_addr, ret_before->bytes, rest.n, NULL))
        return false;
    return put(t, &rest);
}

// Milliseconds are in a register, which a detour gives its own value back.
static bool set_millis(const AgentTask *t)
{
    const uint64_t left = agent_time_left(t->proc->r, t->rec->restart_ns);
    const uint64_t ms = MIN((left + NS_PER_MS - 1) / NS_PER_MS, (uint64_t)G_MAXINT);
    struct user_regs_struct regs;

    if (ptrace(PTRACE_GETREGS, t->tracee.tid, NULL, &regs) < 0)
        return false;
    *(t->rec->compat_call ? &regs.rsi : &regs.r10) = ms;
    return ptrace(PTRACE_SETREGS, t->tracee.tid, NULL, &regs) == 0;
}

/* ---- the way in ---- */

// Calls with a signal mask of their own, which have any signal but one with a handler begin anew.
static const struct {
    uint64_t nr;
    bool ia32;
} masking[] = {
    {SYS_rt_sigsuspend, false}, {SYS_pselect6, false},        {SYS_ppoll, false},
    {SYS_epoll_pwait, false},   {SYS_epoll_pwait2, false},    {IA32_SIGSUSPEND, true},
    {IA32_RT_SIGSUSPEND, true}, {IA32_PSELECT6, true},        {IA32_PPOLL, true},
    {IA32_EPOLL_PWAIT, true},   {IA32_PSELECT6_TIME64, true}, {IA32_PPOLL_TIME64, true},
    {SYS_epoll_pwait2, true},
};

static bool has_own_mask(const struct fmt_task *t)
{
    for (size_t i = 0; i < G_N_ELEMENTS(masking); i++) {
        if (masking[i].nr == t->orig_rax && masking[i].ia32 == !!t->compat_call)
            return true;
    }
    return false;
}

static bool finds_signals(const AgentTask *t)
{
    return t->armed ? t->rec->restart == FMT_RESTART_NANOSLEEP && t->rec->restart_addr
                    : has_own_mask(t->rec);
}

// Whether the kernel has it do so before anything else.
static bool enters_call(const AgentTask *t)
{
    const int64_t result = t->armed ? t->restart : (int64_t)t->rec->rax;

    return result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND ||
           result == -ERESTART_RESTARTBLOCK;
}

static void set_mask(const AgentTask *t, uint64_t mask)
{
    ptrace(PTRACE_SETSIGMASK, t->tracee.tid, sizeof mask, &mask);
}

// A signal that nobody cares for: the thread would not notice it without us.
static bool is_ignored(const AgentTask *t, int stop)
{
    return stop >> 8 == 0 && stop != SYSCALL_STOP && agent_wind_is_ignored(t->tracee.tid, stop);
}

// Runs until the thread stops at the entry of its call. false where it stops elsewhere, at a signal
// for example, or is gone; the stop is in t->stop.
static bool go_to_entry(AgentTask *t)
{
    int stop;

    if (finds_signals(t))
        set_mask(t, UINT64_MAX);
    do {
        if (ptrace(PTRACE_SYSCALL, t->tracee.tid, NULL, NULL) < 0 ||
            !agent_remote_wait(t->tracee.tid, &stop, NULL))
            return false;
    } while (stop >> 8 == PTRACE_EVENT_STOP || is_ignored(t, stop));
    if (finds_signals(t))
        set_mask(t, t->rec->blocked);
    t->stop = stop == SYSCALL_STOP ? 0 : stop & 0x7f;
    return stop == SYSCALL_STOP;
}

static bool is_asleep(pid_t tid)
{
    struct procfs_status status;

    return procfs_read_status(tid, &status) && status.state == 'S';
}

// Watches a thread in its call. Returns true where it sleeps there, false where it has stopped
// again.
static bool stays_in(AgentTask *t)
{
    const int64_t until = g_get_monotonic_time() + PATIENCE_US;
    int status;

    while (g_get_monotonic_time() < until) {
        if (waitpid(t->tracee.tid, &status, __WALL | WNOHANG) == t->tracee.tid) {
            if (WIFSTOPPED(status) && status >> 8 < 0x80)
                t->stop = WSTOPSIG(status);
            return false;
        }
        if (is_asleep(t->tracee.tid))
            return true;
        g_usleep(LOOK_US);
    }
    return true; // it works, if only for a long time
}

// The call has ended while the place of its timeout got its own contents back. What the kernel has
// written there, or would have, takes their place.
static void write_back(const AgentTask *t)
{
    struct user_regs_struct regs;
    struct rest rest = rest_of(t);

    if (ptrace(PTRACE_GETREGS, t->tracee.tid, NULL, &regs) == 0 && regs.rax == 0)
        memset(rest.bytes, 0, rest.n); // timed out
    put(t, &rest);
}

// With its tracer it shall not die, and its filters hold again.
static bool is_ready(const AgentTask *t)
{
    return ptrace(PTRACE_SETOPTIONS, t->tracee.tid, NULL, PTRACE_O_TRACESYSGOOD) == 0;
}

// From its entry into the call. One that is let go at the entry is told of a signal that there may
// not be, and epoll_pwait fails of that.
static bool fall_asleep(AgentTask *t)
{
    return ptrace(PTRACE_SYSCALL, t->tracee.tid, NULL, NULL) == 0 && stays_in(t);
}

static void enter_with_rest(AgentTask *t)
{
    const bool millis = t->rec->restart_arg1 == FMT_TIMEOUT_MILLIS;
    struct rest before;
    const bool there = millis || exchange(t, &before);

    if (!there)
        agent_note(t->proc->r, "timeout", t->proc->rec->pid, -1,
                   "thread %" PRIu64 " starts the timeout of its call over", t->rec->tid);
    if (there && go_to_entry(t) && (!millis || set_millis(t)))
        t->asleep = fall_asleep(t);
    if (!there || millis)
        return;
    if (t->rec->restart_arg2) {
        put(t, &before);
    } else if (t->asleep) {
        // The kernel writes back itself when the call ends, which may be meanwhile.
        put(t, &before);
        t->asleep = stays_in(t);
        if (!t->asleep)
            write_back(t);
    }
}

void agent_entries(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; p->rec->state == FMT_PROC_ALIVE && j < p->tasks->len; j++) {
            AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (agent_has_ended(t))
                continue;
            if (t->rec->restart == FMT_RESTART_ENTER && is_ready(t))
                enter_with_rest(t);
            else if (finds_signals(t) && enters_call(t) && is_ready(t) && go_to_entry(t))
                t->asleep = fall_asleep(t);
        }
    }
}

// Once all others run. A signal that nobody cares for, such as SIGCHLD, wakes who is traced.
static void send_back(AgentTask *t)
{
    int status;

    if (waitpid(t->tracee.tid, &status, __WALL | WNOHANG) != t->tracee.tid || !WIFSTOPPED(status))
        return;
    const int stop = status >> 8;
    const bool told = stop >> 8 == 0 && stop != SYSCALL_STOP && !is_ignored(t, stop);

    if (!told && !agent_wind_handler_waits(t->tracee.tid))
        agent_wind_back(t->tracee.tid);
    ptrace(PTRACE_DETACH, t->tracee.tid, NULL, (void *)(long)(told ? stop : 0));
    t->asleep = false;
}

void agent_entries_end(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (t->asleep)
                send_back(t);
        }
    }
}

void agent_entry_plan(AgentRestore *r, const AgentTask *t)
{
    if (t->rec->restart_arg1 > FMT_TIMEOUT_SEND)
        agent_refuse(r, "restart", t->proc->rec->pid, -1,
                     "thread %" PRIu64 " has a kind of timeout (%" PRIu64 ") that is not supported",
                     t->rec->tid, t->rec->restart_arg1);
}
