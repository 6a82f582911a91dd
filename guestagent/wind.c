// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that a stop has ended, wound back so that the program does not see it: see freeze.c.
#include "guestagent/wind.h"

#include <errno.h>
#include <glib.h>
#include <linux/audit.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/user.h>

#include "formats/frozen.h"
#include "guestagent/bpf.h"
#include "guestagent/procfs.h"

#define SYSCALL_BYTES 2 // 0f 05

// include/linux/errno.h: results of a call that begins anew, or goes on by restart_syscall
enum { ERESTARTNOHAND = 514, ERESTART_RESTARTBLOCK = 516 };

#define IA32_GETRANDOM 355

// Calls that end with EINTR though no handler ran, without having done anything.
static const int eintr_calls[] = {
    SYS_epoll_wait,      SYS_epoll_pwait,    SYS_epoll_pwait2,  SYS_semop,       SYS_semtimedop,
    SYS_rt_sigtimedwait, SYS_io_getevents,   SYS_io_pgetevents, SYS_msgsnd,      SYS_msgrcv,
    SYS_accept,          SYS_accept4,        SYS_read,          SYS_readv,       SYS_recvfrom,
    SYS_recvmsg,         SYS_recvmmsg,       SYS_write,         SYS_writev,      SYS_sendto,
    SYS_sendmsg,         SYS_sendmmsg,       SYS_futex,         SYS_futex_waitv, SYS_mq_timedsend,
    SYS_mq_timedreceive, SYS_io_uring_enter, SYS_flock,         SYS_fcntl,       SYS_connect,
    SYS_fallocate,
};

// Those of i386, by the order of their numbers (arch/x86/entry/syscalls/syscall_32.tbl).
static const int ia32_eintr_calls[] =
    {
        3,   4,   55,  102, 117, 143, 145, 146, 177, 221, 240, 247, 256,
        279, 280, 319, 337, 345, 364, 369, 370, 371, 372, 385, 400, 401,
        416, 417, 418, 419, 420, 421, 422, 426, 441, 449, // read, write, fcntl, socketcall, ipc,
                                                          // flock, readv, ...
};

bool agent_wind_handler_waits(pid_t tid)
{
    struct procfs_status status;

    return procfs_read_status(tid, &status) &&
           (status.sig_pending & ~status.sig_blocked & status.sig_caught) != 0;
}

// Whether the call that the thread is in, or has just left, is one of i386.
static bool is_ia32_call(pid_t tid)
{
    struct __ptrace_syscall_info info = {0};

    return ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0 &&
           info.arch == AUDIT_ARCH_I386;
}

static bool is_eintr_call(uint64_t nr, bool ia32)
{
    const int *calls = ia32 ? ia32_eintr_calls : eintr_calls;
    const size_t n = ia32 ? G_N_ELEMENTS(ia32_eintr_calls) : G_N_ELEMENTS(eintr_calls);

    for (size_t i = 0; i < n; i++) {
        if (nr == (uint64_t)calls[i])
            return true;
    }
    return false;
}

// Devices that give as many bytes as they are asked for, and have no position.
static bool is_endless(pid_t tid, uint64_t fd)
{
    static const unsigned minors[] = {5, 7, 8, 9}; // zero, full, random, urandom
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", tid, (int)fd);
    struct stat st;

    if (stat(path, &st) < 0 || !S_ISCHR(st.st_mode) || major(st.st_rdev) != 1)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(minors); i++) {
        if (minor(st.st_rdev) == minors[i])
            return true;
    }
    return false;
}

// Has it got a part of what it asked an endless source for? Of vectors the sum is not worth to be
// known: the whole read again is as good.
static bool is_short_read(pid_t tid, const struct user_regs_struct *regs, bool ia32)
{
    static const struct {
        int nr, ia32_nr;
        bool vectors;
    } reads[] = {
        {SYS_read, 3, false},    {SYS_pread64, 180, false}, {SYS_readv, 145, true},
        {SYS_preadv, 333, true}, {SYS_preadv2, 378, true},
    };
    const uint64_t first = ia32 ? regs->rbx : regs->rdi, second = ia32 ? regs->rcx : regs->rsi;

    if ((long)regs->rax <= 0)
        return false;
    if (regs->orig_rax == (ia32 ? IA32_GETRANDOM : SYS_getrandom))
        return regs->rax < second;
    for (size_t i = 0; i < G_N_ELEMENTS(reads); i++)
        if (regs->orig_rax == (uint64_t)(ia32 ? reads[i].ia32_nr : reads[i].nr))
            return (reads[i].vectors || regs->rax < regs->rdx) && is_endless(tid, first);
    return false;
}

bool agent_wind_back(pid_t tid)
{
    struct user_regs_struct regs;

    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
        return false;
    if ((long)regs.orig_rax == FMT_FROZEN_IN_CALL) // nor has it run since
        return true;
    const bool ia32 = is_ia32_call(tid);
    const bool ended = (long)regs.rax == -EINTR && is_eintr_call(regs.orig_rax, ia32);

    if (!ended && !is_short_read(tid, &regs, ia32))
        return false;
    regs.rax = regs.orig_rax;
    regs.orig_rax = (unsigned long)(ended ? FMT_FROZEN_IN_CALL : -1);
    regs.rip -= SYSCALL_BYTES;
    return ptrace(PTRACE_SETREGS, tid, NULL, &regs) == 0 && ended;
}

bool agent_wind_is_ignored(pid_t tid, int sig)
{
    static const uint64_t by_default = 1ull << (SIGCHLD - 1) | 1ull << (SIGCONT - 1) |
                                       1ull << (SIGURG - 1) | 1ull << (SIGWINCH - 1);
    struct procfs_status status;

    return procfs_read_status(tid, &status) &&
           ((status.sig_ignored | (by_default & ~status.sig_caught)) >> (sig - 1) & 1);
}

void agent_wind_on(pid_t tid)
{
    struct user_regs_struct regs;

    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
        return;
    regs.orig_rax = regs.rax;
    regs.rax = (unsigned long)-EINTR;
    regs.rip += SYSCALL_BYTES;
    ptrace(PTRACE_SETREGS, tid, NULL, &regs);
}

// Whether a seccomp filter of the thread, the newest is number 0, allows restart_syscall. false
// where there is none of that number.
static bool ask_filter(pid_t tid, unsigned long number, bool ia32, uint64_t ip, bool *ret_allowed)
{
    const long n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)number, NULL);

    if (n <= 0)
        return false;
    g_autofree struct sock_filter *insns = g_new(struct sock_filter, (gsize)n);
    if (ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)number, insns) != n)
        return false;
    *ret_allowed = agent_bpf_allows_restart(insns, (size_t)n, ia32, ip);
    return true;
}

void agent_wind_past_seccomp(pid_t tid)
{
    struct user_regs_struct regs;
    bool allowed = true;

    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0 || (long)regs.rax != -ERESTART_RESTARTBLOCK ||
        (long)regs.orig_rax < 0)
        return;
    const bool ia32 = is_ia32_call(tid);
    if (regs.orig_rax == (ia32 ? 0 : SYS_restart_syscall)) // it has met it before
        return;
    for (unsigned long i = 0; allowed && ask_filter(tid, i, ia32, regs.rip, &allowed); i++)
        continue;
    if (allowed)
        return;
    regs.rax = (unsigned long)-ERESTARTNOHAND;
    ptrace(PTRACE_SETREGS, tid, NULL, &regs);
}
