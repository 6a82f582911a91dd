// SPDX-License-Identifier: GPL-2.0-or-later
// A thread (struct task_struct): what it is, where it is, and what of it cannot go along.
#include <sched.h>
#include <string.h>

#include "introspect/cred.h"
#include "introspect/ipc.h"
#include "introspect/life.h"
#include "introspect/park.h"
#include "introspect/segment.h"
#include "introspect/signal.h"
#include "introspect/task.h"
#include "introspect/xsave.h"

#define ROBUST_LIST_BYTES       24 // sizeof(struct robust_list_head)
#define RSEQ_BYTES_DEFAULT      32 // before 6.3 the only size
#define PFA_NO_NEW_PRIVS        0
#define SCHED_FLAGS_OF_DEADLINE 6 // SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN
#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif
#define NICE_TO_PRIO_BASE 120 // DEFAULT_PRIO
#define MAX_CPUMASK_BYTES 1024
#define MAX_TRACEES       4096
#define AUDIT_UID_UNSET   UINT32_MAX
#define XFEATURE_AMX      (1ull << 18) // tile data
#define PF_EXITING        0x4

// What a thread may have that an image cannot hold: one row each. A pointer or a value that is not
// 0 refuses.
static const struct {
    enum intro_member member;
    const char *kind, *text;
} refused[] = {
    {M_task_io_uring, "io_uring", "uses io_uring"},
    {M_task_perf_event_ctxp, "perf", "has performance events (perf_event_open)"},
    {M_thread_io_bitmap, "ioperm", "has access to I/O ports (ioperm)"},
    {M_thread_iopl, "iopl", "has access to I/O ports (iopl)"},
    {M_thread_ptrace_bps, "debug-registers", "has breakpoints in debug registers (ptrace)"},
    {M_thread_features, "shadow-stack", "has a shadow stack"},
    {M_task_uprobe, "uprobe", "is being probed (uprobes)"},
};

// What is not worth a refusal, but somebody may rely on.
static const struct {
    enum intro_member member;
    const char *kind, *text;
} lost[] = {
    {M_task_mempolicy, "mempolicy", "its NUMA memory policy does not go along"},
    {M_task_core_cookie, "core-scheduling", "its core scheduling group does not go along"},
    {M_task_closid, "resctrl", "its group of resource control (resctrl) does not go along"},
    {M_task_rmid, "resctrl", "its group of resource monitoring (resctrl) does not go along"},
};

static bool check_refused(struct intro_ctx *c, struct gva task, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);

    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        uint64_t words[4];
        if (!intro_has(c->k, refused[i].member))
            continue;
        rd_bytes(&r, task, refused[i].member, words, sizeof(words));
        if (words[0] | words[1] | words[2] | words[3])
            intro_refuse(c, refused[i].kind, "%s", refused[i].text);
    }

    for (size_t i = 0; i < G_N_ELEMENTS(lost); i++)
        if (rd_opt(&r, task, lost[i].member, 0))
            intro_note(c, FMT_NOTE_LOSS, lost[i].kind, "%s", lost[i].text);
    if ((uint32_t)rd_opt(&r, task, M_task_loginuid, AUDIT_UID_UNSET) != AUDIT_UID_UNSET)
        intro_note(c, FMT_NOTE_LOSS, "audit",
                   "the user id of its login (loginuid) does not go along");
    struct gva io = rd_ptr(&r, task, M_task_io_context);
    if (io.addr && rd(&r, io, M_io_context_active_ref) > 1)
        intro_note(c, FMT_NOTE_LOSS, "io-context",
                   "the I/O context that it shares (CLONE_IO) becomes one for each");
    if (intro_xsave_permitted(&r, task) & XFEATURE_AMX)
        intro_refuse(c, "amx", "has asked for AMX tiles (ARCH_REQ_XCOMP_PERM)");
    return rd_done(&r, error);
}

// A tracer reads and changes what we carry; our own agent's stop is the exception.
static bool check_tracer(struct intro_ctx *c, struct gva task, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    uint64_t ptrace = rd(&r, task, M_task_ptrace);
    uint64_t tracer = ptrace ? rd(&r, rd_ptr(&r, task, M_task_parent), M_task_tgid) : 0;

    if (!rd_done(&r, error))
        return false;
    if (tracer && tracer != c->opt->frozen_by)
        intro_refuse(c, "ptraced", "is traced by process %" G_GUINT64_FORMAT, tracer);
    return true;
}

static bool refuse_tracee(struct gva node, void *user, GError **error)
{
    struct intro_ctx *c = user;
    uint64_t tgid;

    if (!intro_get(c->k, intro_container(c->k, node, M_task_ptrace_entry), M_task_tgid, &tgid,
                   error))
        return false;
    intro_refuse(c, "tracer", "traces process %" G_GUINT64_FORMAT, tgid);
    return true;
}

static bool check_tracees(struct intro_ctx *c, struct gva task, GError **error)
{
    return intro_walk_list(c->k, intro_member_addr(c->k, task, M_task_ptraced), MAX_TRACEES,
                           refuse_tracee, c, error);
}

static GBytes *read_affinity(IntroReader *r, struct gva task)
{
    uint8_t mask[MAX_CPUMASK_BYTES];
    unsigned n_cpus = intro_n_cpus(r->k);
    size_t bytes = MIN(((size_t)n_cpus + 63) / 64 * 8, sizeof(mask));
    bool all = true;

    rd_bytes(r, task, M_task_cpus_mask, mask, bytes);
    for (unsigned cpu = 0; cpu < n_cpus && cpu / 8 < bytes; cpu++)
        all = all && mask[cpu / 8] >> cpu % 8 & 1;
    return all || r->error ? NULL : g_bytes_new(mask, bytes);
}

static void read_scheduling(IntroReader *r, struct gva task, struct fmt_task *rec)
{
    rec->policy = rd(r, task, M_task_policy);
    if (rd(r, task, M_task_sched_reset_on_fork))
        rec->policy |= SCHED_RESET_ON_FORK;
    rec->nice = (int64_t)rd(r, task, M_task_static_prio) - NICE_TO_PRIO_BASE;
    rec->rt_priority = rd(r, task, M_task_rt_priority);
    if (rec->policy == SCHED_DEADLINE || rec->policy == (SCHED_DEADLINE | SCHED_RESET_ON_FORK)) {
        rec->sched_runtime_ns = rd(r, task, M_dl_runtime);
        rec->sched_deadline_ns = rd(r, task, M_dl_deadline);
        rec->sched_period_ns = rd(r, task, M_dl_period);
        rec->sched_flags = rd(r, task, M_dl_flags) & SCHED_FLAGS_OF_DEADLINE;
    } else if (rd_opt(r, task, M_se_custom_slice, 0)) {
        rec->sched_runtime_ns = rd(r, task, M_se_slice);
    }
    rec->cpus_allowed = read_affinity(r, task);
    rec->timerslack_ns = rd(r, task, M_task_timer_slack_ns);
    struct gva io = rd_ptr(r, task, M_task_io_context);
    rec->ioprio = io.addr ? rd(r, io, M_io_context_ioprio) : 0;
}

static void read_user_pointers(IntroReader *r, struct gva task, struct fmt_task *rec)
{
    rec->altstack_sp = rd(r, task, M_task_sas_ss_sp);
    rec->altstack_bytes = rd(r, task, M_task_sas_ss_size);
    rec->altstack_flags = rd(r, task, M_task_sas_ss_flags);
    rec->clear_child_tid = rd(r, task, M_task_clear_child_tid);
    rec->robust_list = rd(r, task, M_task_robust_list);
    rec->robust_list_bytes = rec->robust_list ? ROBUST_LIST_BYTES : 0;
    rec->compat_robust_list = rd_opt(r, task, M_task_compat_robust_list, 0);
    rec->rseq = rd_opt(r, task, M_task_rseq, 0);
    rec->rseq_sig = rec->rseq ? rd(r, task, M_task_rseq_sig) : 0;
    rec->rseq_bytes = rec->rseq ? rd_opt(r, task, M_task_rseq_len, RSEQ_BYTES_DEFAULT) : 0;
}

static void read_attributes(IntroReader *r, struct intro_ctx *c, struct gva task,
                            struct fmt_task *rec)
{
    char comm[17] = "";

    rec->tid = intro_task_nr(r, task, intro_pid_level(r, c->root_task));
    rd_bytes(r, task, M_task_comm, comm, 16);
    rec->comm = g_utf8_make_valid(comm, -1);
    if (strcmp(comm, rec->comm) != 0)
        rec->comm_bytes = g_bytes_new(comm, strlen(comm));
    rec->no_new_privs = rd(r, task, M_task_atomic_flags) >> PFA_NO_NEW_PRIVS & 1;
    rec->personality = rd(r, task, M_task_personality);
    rec->pdeath_signal = rd(r, task, M_task_pdeath_signal);
    read_scheduling(r, task, rec);
    read_user_pointers(r, task, rec);
}

// Threads of one process may each have their own of these (clone without CLONE_FILES ...).
static bool read_tables(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva cred = rd_ptr(&r, task, M_task_real_cred), files = rd_ptr(&r, task, M_task_files);
    struct gva fs = rd_ptr(&r, task, M_task_fs);

    if (!rd_done(&r, error) || !(rec->cred = intro_cred(c, cred, error)) ||
        !(rec->files = intro_files(c, files, error)) || !(rec->fs = intro_fs(c, fs, error)))
        return false;
    const struct fmt_cred *held = fmt_image_by_ref(c->img, rec->cred, FMT_CRED);
    rec->keepcaps = held->securebits >> 4 & 1;
    return true;
}

bool intro_thread(struct intro_ctx *c, struct gva task, struct fmt_proc *proc, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva mm = rd_ptr(&r, task, M_task_mm);
    const uint64_t ended = rd(&r, task, M_task_exit_state);
    const bool exiting = rd(&r, task, M_task_flags) & PF_EXITING;
    const bool is_leader = rd_ptr(&r, task, M_task_group_leader).addr == task.addr;
    GError *busy = NULL;

    if (!rd_done(&r, error))
        return false;
    if (ended && is_leader)
        return intro_ended_leader(c, task, proc, error);
    if (exiting) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "process %" G_GUINT64_FORMAT ": a thread is exiting", c->pid);
        return false;
    }
    struct fmt_task *rec = intro_object_add(c, task, FMT_TASK);

    rec->proc = proc->rec.objref;
    read_attributes(&r, c, task, rec);
    if (!rd_done(&r, error) || !check_refused(c, task, error) || !check_tracer(c, task, error) ||
        !check_tracees(c, task, error) || !intro_namespaces(c, task, error) ||
        !intro_sem_undo(c, task, rec, error) || !read_tables(c, task, rec, error) ||
        !intro_thread_cgroup(c, task, proc, rec, error) || !intro_seccomp(c, task, rec, error) ||
        !intro_prctl(c, task, rec, error) ||
        !intro_sigpending(c, intro_member_addr(c->k, task, M_task_pending), rec->rec.objref, error))
        return false;
    if (!intro_park(c, task, mm, rec, &busy)) {
        if (!g_error_matches(busy, INTRO_ERROR, INTRO_ERROR_BUSY) || c->hurry) {
            g_propagate_error(error, busy);
            return false;
        }
        // The walk goes on: what is refused is to be told at once, whatever the threads do.
        if (c->opt->forensic)
            intro_note(c, FMT_NOTE_REFUSAL, "not-at-rest", "%s", busy->message);
        else if (!c->busy)
            c->busy = g_steal_pointer(&busy);
        g_clear_error(&busy);
    }
    return intro_segments_task(c, task, rec, error);
}
