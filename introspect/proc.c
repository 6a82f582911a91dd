// SPDX-License-Identifier: GPL-2.0-or-later
// A process (thread group): identity, limits, timers, pending signals, threads.
#include "introspect/cputime.h"
#include "introspect/itimer.h"
#include "introspect/life.h"
#include "introspect/mm.h"
#include "introspect/process.h"
#include "introspect/signal.h"
#include "introspect/task.h"
#include "introspect/tty.h"

#define PIDTYPE_PGID 2 // enum pid_type, include/linux/pid.h
#define PIDTYPE_SID  3
#define N_RLIMITS    16
#define NSEC_PER_SEC 1000000000ll

static void read_identity(IntroReader *r, struct intro_ctx *c, struct gva leader, struct gva signal,
                          struct fmt_proc *proc)
{
    uint64_t level = intro_pid_level(r, c->root_task);
    char comm[17] = "";

    proc->pid = intro_task_nr(r, leader, level);
    struct gva parent = rd_ptr(r, leader, M_task_real_parent);
    struct gva parent_leader = rd_ptr(r, parent, M_task_group_leader);
    proc->ppid = intro_task_nr(r, parent_leader, level);
    proc->parent_tid = intro_task_nr(r, parent, level);
    struct gva pids = intro_member_addr(r->k, signal, M_signal_pids);
    proc->pgid = intro_pid_nr(r, rd_ptr_at(r, GVA(pids.addr + 8 * PIDTYPE_PGID)), level);
    proc->sid = intro_pid_nr(r, rd_ptr_at(r, GVA(pids.addr + 8 * PIDTYPE_SID)), level);
    rd_bytes(r, leader, M_task_comm, comm, 16);
    proc->comm = g_utf8_make_valid(comm, -1);
    proc->exit_signal = rd(r, leader, M_task_exit_signal);
    proc->subreaper = rd(r, signal, M_signal_is_child_subreaper);
    proc->is_subreaped = rd(r, signal, M_signal_has_child_subreaper);
    proc->oom_score_adj = (int64_t)rd(r, signal, M_signal_oom_score_adj);
    proc->oom_score_adj_min = (int64_t)rd(r, signal, M_signal_oom_score_adj_min);
    if (intro_pid_level(r, leader) != level)
        intro_refuse(c, "pid-namespace", "lives in a pid namespace below that of the tree's root");
}

static void read_limits(IntroReader *r, struct intro_ctx *c, struct gva signal, uint64_t proc)
{
    struct gva limits = intro_member_addr(r->k, signal, M_signal_rlim);

    for (unsigned i = 0; i < N_RLIMITS && !r->error; i++) {
        struct fmt_rlimit *rec = fmt_image_add(c->img, FMT_RLIMIT);
        rec->proc = proc;
        rec->resource = i;
        rec->cur = rd_u64_at(r, GVA(limits.addr + 16 * i));
        rec->max = rd_u64_at(r, GVA(limits.addr + 16 * i + 8));
    }
}

static void read_time_namespace(IntroReader *r, struct gva leader, struct fmt_proc *proc)
{
    struct gva nsproxy = rd_ptr(r, leader, M_task_nsproxy);

    if (!nsproxy.addr || !intro_has(r->k, M_nsproxy_time_ns))
        return;
    struct gva ns = rd_ptr(r, nsproxy, M_nsproxy_time_ns);
    proc->timens_monotonic_ns = (int64_t)rd(r, ns, M_time_ns_monotonic_sec) * NSEC_PER_SEC +
                                (int64_t)rd(r, ns, M_time_ns_monotonic_nsec);
    proc->timens_boottime_ns = (int64_t)rd(r, ns, M_time_ns_boottime_sec) * NSEC_PER_SEC +
                               (int64_t)rd(r, ns, M_time_ns_boottime_nsec);
}

// Since 7.2 (6b1c66c9cca9) not a flag of the address space, but a fact of its last exec.
static void read_dumpable(IntroReader *r, struct intro_ctx *c, struct gva leader, uint64_t mm)
{
    struct fmt_mm *rec = fmt_image_by_ref(c->img, mm, FMT_MM);

    if (intro_has(c->k, M_task_exec_state) && intro_has(c->k, M_exec_state_dumpable))
        rec->dumpable = rd(r, rd_ptr(r, leader, M_task_exec_state), M_exec_state_dumpable);
}

struct thread_walk {
    struct intro_ctx *c;
    struct fmt_proc *proc;
};

static bool capture_thread(struct gva task, void *user, GError **error)
{
    struct thread_walk *w = user;

    return intro_thread(w->c, task, w->proc, error);
}

// A leader that has ended has given up its memory and namespaces; `living` is a thread that has
// not.
static bool capture_alive(struct intro_ctx *c, struct gva leader, struct gva living,
                          struct fmt_proc *proc, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva signal = rd_ptr(&r, leader, M_task_signal);
    struct gva mm = rd_ptr(&r, living, M_task_mm), sighand = rd_ptr(&r, living, M_task_sighand);
    struct gva autogroup = GVA(rd_opt(&r, signal, M_signal_autogroup, 0));
    uint64_t ref = proc->rec.objref;

    read_limits(&r, c, signal, ref);
    read_time_namespace(&r, living, proc);
    if (!rd_done(&r, error) || !intro_itimers(c, leader, ref, error) ||
        !intro_posix_timers(c, leader, proc, error) || !intro_cgroup(c, leader, proc, error) ||
        !(proc->mm = intro_mm(c, mm, error)) ||
        !(proc->sighand = intro_sighand(c, sighand, error)) ||
        !intro_sigpending(c, intro_member_addr(c->k, signal, M_signal_shared_pending), ref, error))
        return false;
    read_dumpable(&r, c, living, proc->mm);
    if (!rd_done(&r, error))
        return false;
    proc->cmdline = intro_cmdline(c->k, mm);
    if (autogroup.addr && intro_has(c->k, M_autogroup_nice) && rd(&r, autogroup, M_autogroup_nice))
        intro_note(c, FMT_NOTE_LOSS, "autogroup",
                   "the nice value of its session's autogroup does not go along");

    struct thread_walk walk = {c, proc};
    return intro_cputime_add(c, leader, error) && intro_terminal(c, signal, proc, error) &&
           intro_walk_threads(c->k, leader, capture_thread, &walk, error);
}

bool intro_proc(struct intro_ctx *c, struct gva leader, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva signal = rd_ptr(&r, leader, M_task_signal), living;
    struct fmt_proc *proc = intro_object_add(c, signal, FMT_PROC);

    c->pid = rd(&r, leader, M_task_tgid);
    read_identity(&r, c, leader, signal, proc);
    if (!rd_done(&r, error) || !intro_life(c, leader, proc, error))
        return false;
    if (proc->state == FMT_PROC_ZOMBIE)
        return intro_ended_leader(c, leader, proc, error);
    return intro_main_thread(c->k, leader, &living, error) &&
           capture_alive(c, leader, living, proc, error);
}
