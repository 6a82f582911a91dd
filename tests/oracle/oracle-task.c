// SPDX-License-Identifier: GPL-2.0-or-later
// Processes and threads: what /proc, ptrace and a few calls in the process itself tell.

#include <elf.h>
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/oracle/oracle.h"

#define GET_RSEQ_CONFIGURATION 0x420f
#define SIGINFO_BYTES          128
#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

// Results that the kernel never shows to programs (linux/errno.h).
#define ERESTARTSYS           512
#define ERESTARTNOINTR        513
#define ERESTARTNOHAND        514
#define ERESTART_RESTARTBLOCK 516

struct rseq_configuration {
    uint64_t pointer;
    uint32_t bytes, signature, flags, pad;
};

// Fields of /proc/PID/stat behind the name; field 3 (state) is [0].
static char **stat_fields(pid_t pid, const char *name)
{
    g_autofree char *text = oracle_proc_file(pid, name);
    const char *at = text ? strrchr(text, ')') : NULL;

    return g_strsplit(at ? at + 2 : "", " ", -1);
}

static uint64_t field(char **fields, unsigned number)
{
    return number - 3 < g_strv_length(fields) ? strtoull(fields[number - 3], NULL, 10) : 0;
}

static char *first_line(pid_t pid, const char *name)
{
    char *text = oracle_proc_file(pid, name);

    return text ? g_strchomp(text) : NULL;
}

static uint64_t timespec_at(const struct agent_tracee *t, uint64_t addr)
{
    struct timespec ts = {0};

    agent_remote_read(t, addr, &ts, sizeof ts, NULL);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

// The interruption by ptrace is seen as a signal would be; what the kernel would do after it comes
// into the image.
static void restart(struct fmt_task *rec, const struct agent_tracee *t)
{
    const int64_t ret = (int64_t)rec->rax, nr = (int64_t)rec->orig_rax;

    rec->syscall = nr;
    if (nr < 0)
        return;
    rec->state = FMT_TASK_SYSCALL;
    const bool absolute = (nr == SYS_futex && (rec->rsi & FUTEX_CMD_MASK) != FUTEX_WAIT) ||
                          (nr == SYS_poll && (int32_t)rec->rdx < 0);

    if (ret == -EINTR || (ret == -ERESTART_RESTARTBLOCK && absolute)) {
        rec->rax = (uint64_t)-ERESTARTNOHAND;
    } else if (ret == -ERESTART_RESTARTBLOCK &&
               (nr == SYS_nanosleep || nr == SYS_clock_nanosleep)) {
        const uint64_t request = nr == SYS_nanosleep ? rec->rdi : rec->rdx;

        rec->restart = FMT_RESTART_NANOSLEEP;
        rec->restart_clock = nr == SYS_nanosleep ? CLOCK_MONOTONIC : rec->rdi;
        rec->restart_addr = nr == SYS_nanosleep ? rec->rsi : rec->r10;
        // The kernel has said what is left, if the program wants to know at all.
        rec->restart_ns = timespec_at(t, rec->restart_addr ? rec->restart_addr : request);
    } else if (ret == -ERESTART_RESTARTBLOCK && nr == SYS_poll) {
        rec->restart = FMT_RESTART_POLL;
        rec->restart_addr = rec->rdi;
        rec->restart_arg1 = rec->rsi;
        rec->restart_ns = rec->rdx * 1000000;
    } else if (ret == -ERESTART_RESTARTBLOCK && nr == SYS_futex) {
        rec->restart = FMT_RESTART_FUTEX;
        rec->restart_addr = rec->rdi;
        rec->restart_arg1 = rec->rdx & 0xffffffff;
        rec->restart_arg2 = rec->rsi & (FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
        rec->restart_arg3 = FUTEX_BITSET_MATCH_ANY;
        rec->restart_ns = timespec_at(t, rec->r10);
    }
}

static bool registers(struct oracle_task *t, GError **error)
{
    struct fmt_task *rec = t->rec;
    const struct user_regs_struct *r = &t->regs;
    uint8_t *area = g_malloc0(65536);
    struct iovec iov = {area, 65536};

    rec->r15 = r->r15, rec->r14 = r->r14, rec->r13 = r->r13, rec->r12 = r->r12;
    rec->rbp = r->rbp, rec->rbx = r->rbx, rec->r11 = r->r11, rec->r10 = r->r10;
    rec->r9 = r->r9, rec->r8 = r->r8, rec->rax = r->rax, rec->rcx = r->rcx;
    rec->rdx = r->rdx, rec->rsi = r->rsi, rec->rdi = r->rdi, rec->orig_rax = r->orig_rax;
    rec->rip = r->rip, rec->cs = r->cs, rec->eflags = r->eflags, rec->rsp = r->rsp;
    rec->ss = r->ss, rec->fs_base = r->fs_base, rec->gs_base = r->gs_base;
    rec->ds_sel = r->ds, rec->es_sel = r->es, rec->fs_sel = r->fs, rec->gs_sel = r->gs;
    if (ptrace(PTRACE_GETREGSET, t->tracee.tid, NT_X86_XSTATE, &iov) < 0)
        return oracle_fail(error, "PTRACE_GETREGSET");
    rec->xsave = g_bytes_new(area, iov.iov_len);
    g_free(area);
    restart(rec, &t->tracee);
    return true;
}

static void registrations(struct oracle_task *t)
{
    struct rseq_configuration rseq = {0};
    struct robust_list_head *robust = NULL;
    size_t bytes = 0;

    if (ptrace(GET_RSEQ_CONFIGURATION, t->tracee.tid, sizeof rseq, &rseq) > 0) {
        t->rec->rseq = rseq.pointer;
        t->rec->rseq_bytes = rseq.bytes;
        t->rec->rseq_sig = rseq.signature;
    }
    if (syscall(SYS_get_robust_list, t->tracee.tid, &robust, &bytes) == 0 && robust) {
        t->rec->robust_list = (uintptr_t)robust;
        t->rec->robust_list_bytes = bytes;
    }
}

static uint64_t credentials(struct oracle *o, pid_t tid)
{
    struct fmt_cred *c = fmt_image_add(o->img, FMT_CRED);
    g_autofree char *text = oracle_proc_file(tid, "status");
    const char *groups = strstr(text, "\nGroups:\t");
    g_autoptr(GByteArray) list = g_byte_array_new();
    char *end;

    sscanf(strstr(text, "\nUid:"), " Uid: %lu %lu %lu %lu", &c->uid, &c->euid, &c->suid, &c->fsuid);
    sscanf(strstr(text, "\nGid:"), " Gid: %lu %lu %lu %lu", &c->gid, &c->egid, &c->sgid, &c->fsgid);
    for (const char *at = groups + strlen("\nGroups:\t"); *at != '\n'; at = end) {
        const uint32_t gid = (uint32_t)strtoul(at, &end, 10);

        if (end == at)
            break;
        g_byte_array_append(list, (const uint8_t *)&gid, sizeof gid);
        while (*end == ' ')
            end++;
    }
    if (list->len)
        c->groups = g_bytes_new(list->data, list->len);
    c->cap_inheritable = oracle_status(tid, "CapInh", 16);
    c->cap_permitted = oracle_status(tid, "CapPrm", 16);
    c->cap_effective = oracle_status(tid, "CapEff", 16);
    c->cap_bounding = oracle_status(tid, "CapBnd", 16);
    c->cap_ambient = oracle_status(tid, "CapAmb", 16);
    return c->rec.objref;
}

static void scheduling(struct oracle_task *t)
{
    const pid_t tid = t->tracee.tid;
    g_auto(GStrv) fields = stat_fields(tid, "stat");
    cpu_set_t cpus;

    t->rec->nice = (int64_t)field(fields, 19);
    t->rec->policy = (uint64_t)sched_getscheduler(tid); // with SCHED_RESET_ON_FORK
    t->rec->rt_priority = field(fields, 40);
    t->rec->ioprio = (uint64_t)syscall(SYS_ioprio_get, 1, tid);
    if (sched_getaffinity(tid, sizeof cpus, &cpus) == 0)
        t->rec->cpus_allowed = g_bytes_new(&cpus, sizeof cpus);
}

static bool task(struct oracle *o, struct oracle_proc *p, struct oracle_task *t, GError **error)
{
    const pid_t tid = t->tracee.tid;

    t->rec = fmt_image_add(o->img, FMT_TASK);
    t->rec->proc = p->rec->rec.objref;
    t->rec->tid = (uint64_t)tid;
    t->rec->comm = first_line(tid, "comm");
    t->rec->blocked = t->blocked;
    t->rec->cred = credentials(o, tid);
    t->rec->no_new_privs = oracle_status(tid, "NoNewPrivs", 10);
    t->rec->seccomp = oracle_status(tid, "Seccomp", 10);
    registrations(t);
    scheduling(t);
    return registers(t, error);
}

static void process(struct oracle *o, struct oracle_proc *p)
{
    g_auto(GStrv) fields = stat_fields(p->pid, "stat");
    g_autofree char *offsets = oracle_proc_file(p->pid, "timens_offsets");
    g_autofree char *oom = oracle_proc_file(p->pid, "oom_score_adj");
    long long mono_s = 0, mono_ns = 0, boot_s = 0, boot_ns = 0;

    p->rec = fmt_image_add(o->img, FMT_PROC);
    p->rec->pid = (uint64_t)p->pid;
    p->rec->ppid = field(fields, 4);
    p->rec->pgid = field(fields, 5);
    p->rec->sid = field(fields, 6);
    p->rec->exit_signal = field(fields, 38);
    p->rec->state = p->stopped ? FMT_PROC_STOPPED : FMT_PROC_ALIVE;
    p->rec->comm = first_line(p->pid, "comm");
    p->rec->oom_score_adj = oom ? atoi(oom) : 0;
    if (offsets)
        sscanf(offsets, "monotonic %lld %lld boottime %lld %lld", &mono_s, &mono_ns, &boot_s,
               &boot_ns);
    p->rec->timens_monotonic_ns = mono_s * 1000000000ll + mono_ns;
    p->rec->timens_boottime_ns = boot_s * 1000000000ll + boot_ns;
}

bool oracle_zombie(struct oracle *o, struct oracle_proc *p)
{
    g_auto(GStrv) fields = stat_fields(p->pid, "stat");
    struct fmt_task *leader = fmt_image_add(o->img, FMT_TASK);

    process(o, p);
    p->rec->state = FMT_PROC_ZOMBIE;
    p->rec->exit_code = field(fields, 52);
    leader->proc = p->rec->rec.objref;
    leader->tid = p->rec->pid;
    return true;
}

bool oracle_tasks(struct oracle *o, struct oracle_proc *p, GError **error)
{
    process(o, p);
    for (guint i = 0; i < p->tasks->len; i++) {
        if (!task(o, p, &g_array_index(p->tasks, struct oracle_task, i), error))
            return false;
    }
    return true;
}

static void limits(struct oracle *o, struct oracle_proc *p, const struct agent_tracee *t)
{
    for (unsigned i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit limit;

        if (oracle_call(t, SYS_prlimit64, 0, i, 0, p->site.scratch) < 0)
            continue;
        struct fmt_rlimit *rec = fmt_image_add(o->img, FMT_RLIMIT);

        agent_remote_read(t, p->site.scratch, &limit, sizeof limit, NULL);
        rec->proc = p->rec->rec.objref;
        rec->resource = i;
        rec->cur = limit.rlim_cur;
        rec->max = limit.rlim_max;
    }
}

static void pending(struct oracle *o, const struct oracle_task *t, uint64_t owner, unsigned flags)
{
    uint8_t info[64][SIGINFO_BYTES];
    struct __ptrace_peeksiginfo_args args = {.flags = flags, .nr = G_N_ELEMENTS(info)};
    const long n = ptrace(PTRACE_PEEKSIGINFO, t->tracee.tid, &args, info);

    for (long i = 0; i < n; i++) {
        struct fmt_signal *rec = fmt_image_add(o->img, FMT_SIGNAL);
        int signo;

        memcpy(&signo, info[i], sizeof signo);
        rec->owner = owner;
        rec->signo = (uint64_t)signo;
        rec->info = g_bytes_new(info[i], SIGINFO_BYTES);
    }
}

static void actions(struct oracle *o, struct oracle_proc *p, const struct agent_tracee *t)
{
    struct fmt_sighand *hand = fmt_image_add(o->img, FMT_SIGHAND);

    p->rec->sighand = hand->rec.objref;
    for (unsigned signo = 1; signo <= 64; signo++) {
        uint64_t action[4]; // handler, flags, restorer, mask

        if (oracle_call(t, SYS_rt_sigaction, signo, 0, p->site.scratch, 8) < 0)
            continue;
        agent_remote_read(t, p->site.scratch, action, sizeof action, NULL);
        if (!action[0] && !action[1])
            continue;
        struct fmt_sigaction *rec = fmt_image_add(o->img, FMT_SIGACTION);

        rec->sighand = hand->rec.objref;
        rec->signo = signo;
        rec->handler = action[0];
        rec->flags = action[1];
        rec->restorer = action[2];
        rec->mask = action[3];
    }
}

static void timers(struct oracle *o, struct oracle_proc *p, const struct agent_tracee *t)
{
    for (unsigned which = 0; which < 3; which++) {
        struct itimerval value = {0};

        oracle_call(t, SYS_getitimer, which, p->site.scratch, 0, 0);
        agent_remote_read(t, p->site.scratch, &value, sizeof value, NULL);
        if (!value.it_value.tv_sec && !value.it_value.tv_usec)
            continue;
        struct fmt_itimer *rec = fmt_image_add(o->img, FMT_ITIMER);

        rec->proc = p->rec->rec.objref;
        rec->which = which;
        // What was left when the head's clocks were read.
        rec->value_ns = (uint64_t)value.it_value.tv_sec * 1000000000ull +
                        (uint64_t)value.it_value.tv_usec * 1000ull +
                        (uint64_t)(oracle_monotonic_ns() - fmt_image_head(o->img)->monotonic_ns);
        rec->interval_ns = (uint64_t)value.it_interval.tv_sec * 1000000000ull +
                           (uint64_t)value.it_interval.tv_usec * 1000ull;
    }
}

static void thread_calls(struct oracle *o, struct oracle_proc *p, struct oracle_task *t)
{
    const struct agent_tracee *tr = &t->tracee;
    struct fmt_cred *cred = fmt_image_by_ref(o->img, t->rec->cred, FMT_CRED);
    stack_t stack = {0};
    uint32_t signo = 0;

    oracle_call(tr, SYS_sigaltstack, 0, p->site.scratch, 0, 0);
    agent_remote_read(tr, p->site.scratch, &stack, sizeof stack, NULL);
    t->rec->altstack_sp = (uintptr_t)stack.ss_sp;
    t->rec->altstack_bytes = stack.ss_size;
    t->rec->altstack_flags = (uint32_t)stack.ss_flags;
    oracle_call(tr, SYS_prctl, PR_GET_TID_ADDRESS, p->site.scratch, 0, 0);
    agent_remote_read(tr, p->site.scratch, &t->rec->clear_child_tid, 8, NULL);
    oracle_call(tr, SYS_prctl, PR_GET_PDEATHSIG, p->site.scratch, 0, 0);
    agent_remote_read(tr, p->site.scratch, &signo, sizeof signo, NULL);
    t->rec->pdeath_signal = signo;
    t->rec->timerslack_ns = (uint64_t)oracle_call(tr, SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0);
    t->rec->keepcaps = (uint64_t)oracle_call(tr, SYS_prctl, PR_GET_KEEPCAPS, 0, 0, 0);
    t->rec->personality = (uint64_t)oracle_call(tr, SYS_personality, 0xffffffff, 0, 0, 0);
    cred->securebits = (uint64_t)oracle_call(tr, SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0);
}

bool oracle_signals(struct oracle *o, struct oracle_proc *p, GError **error)
{
    struct oracle_task *leader = &g_array_index(p->tasks, struct oracle_task, 0);
    const struct agent_tracee *t = &leader->tracee;
    struct fmt_mm *mm = fmt_image_by_ref(o->img, p->rec->mm, FMT_MM);
    uint32_t subreaper = 0;

    pending(o, leader, p->rec->rec.objref, PTRACE_PEEKSIGINFO_SHARED);
    actions(o, p, t);
    timers(o, p, t);
    limits(o, p, t);
    mm->brk = (uint64_t)oracle_call(t, SYS_brk, 0, 0, 0, 0);
    mm->dumpable = (uint64_t)oracle_call(t, SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0);
    mm->thp_disable = oracle_call(t, SYS_prctl, PR_GET_THP_DISABLE, 0, 0, 0) == 1;
    oracle_call(t, SYS_prctl, PR_GET_CHILD_SUBREAPER, p->site.scratch, 0, 0);
    agent_remote_read(t, p->site.scratch, &subreaper, sizeof subreaper, NULL);
    p->rec->subreaper = subreaper;
    for (guint i = 0; i < p->tasks->len; i++) {
        struct oracle_task *one = &g_array_index(p->tasks, struct oracle_task, i);

        pending(o, one, one->rec->rec.objref, 0);
        thread_calls(o, p, one);
    }
    return true;
}
