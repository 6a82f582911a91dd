// SPDX-License-Identifier: GPL-2.0-or-later
// The restore engine: which aspect of a process is set when.

#include "guestagent/restore.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/ia32.h"
#include "guestagent/plan.h"

#define STOP_WAIT_S 5 // for who is stopped to be so again

/*
 * The order of the columns build, finish and finish_task (engine.h). What it must keep:
 *   vdso    parks first, so that all addresses of the image are free; decides its final place after
 *           the contents have come
 *   memory  closes and seals it when it has its contents
 *   exe     after the mappings, before descriptors go to their places (it needs one of ours)
 *   flock   after all descriptors are in place: to close one gives locks of its process up
 *   fown    after leases; before cred: what a file may send depends on who asked for it
 *   posix_timer, signal
 *           timers and actions before pending signals
 *   seccomp before cred, see there
 *   limit   after all that a limit could stop, and after cred: setuid() remembers a limit that is
 *           exceeded, and execve() fails of it; of threads the leader comes last
 *   cred    after all that needs privileges in the thread or the same owner as ours; clears
 *           dumpable and pdeath_signal
 */
static const struct agent_aspect *const aspects[] = {
    &agent_aspect_cgroup,      &agent_aspect_vdso,       &agent_aspect_mm,
    &agent_aspect_exe,         &agent_aspect_fs,         &agent_aspect_opening,
    &agent_aspect_fd,          &agent_aspect_flock,      &agent_aspect_fown,
    &agent_aspect_posix_timer, &agent_aspect_signal,     &agent_aspect_thread,
    &agent_aspect_ia32,        &agent_aspect_segments,   &agent_aspect_sched,
    &agent_aspect_timer,       &agent_aspect_seccomp,    &agent_aspect_prctl,
    &agent_aspect_cred,        &agent_aspect_after_cred, &agent_aspect_limit,
    &agent_aspect_regs,
};

bool agent_fail(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, AGENT_ERROR, AGENT_ERROR_FAILED, text);
    return false;
}

bool agent_fail_errno(GError **error, const char *format, ...)
{
    const int saved = errno;
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED, "%s: %s", text, g_strerror(saved));
    return false;
}

AgentRestore *agent_restore_plan(FmtImage *meta, const struct agent_restore_options *opt,
                                 GPtrArray *refusals, GPtrArray *notes, GError **error)
{
    AgentRestore *r = agent_restore_new(meta, opt, error);

    if (!r)
        return NULL;
    r->refusals = refusals;
    r->notes = notes;
    agent_plan_machine(r);
    agent_process_plan(r);
    agent_files_plan(r);
    agent_sockets_plan(r);
    agent_shm_plan(r);
    agent_attributes_plan(r);
    agent_ipc_plan(r);
    agent_time_plan(r);
    agent_restart_plan(r);
    agent_cow_plan(r);
    for (size_t i = 0; i < G_N_ELEMENTS(aspects); i++) {
        if (aspects[i]->plan)
            aspects[i]->plan(r);
    }
    r->refusals = NULL;
    if (refusals->len == 0)
        return r;
    agent_restore_free(r);
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_REFUSED, "refused for %u reason%s", refusals->len,
                refusals->len == 1 ? "" : "s");
    return NULL;
}

// One aspect of all processes, before the next: those that share their descriptors lose ours with
// the first of them.
static bool build_aspect(AgentRestore *r, const struct agent_aspect *aspect, GError **error)
{
    for (guint i = 0; aspect->build && i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state == FMT_PROC_ZOMBIE || (aspect->per_mm && !agent_mm_is_owner(p)))
            continue;
        if (!aspect->build(p, error)) {
            g_prefix_error(error, "process %" G_GUINT64_FORMAT ", %s: ", p->rec->pid, aspect->name);
            return false;
        }
    }
    return true;
}

// Makes the processes, when all that they inherit is there.
static bool bear(AgentRestore *r, GError **error)
{
    if (r->born)
        return true;
    r->born = true;
    if (!agent_process_start(r, error) || !agent_files_stage(r, AGENT_FILE_CONNECT, error) ||
        !agent_process_tree(r, error) || !agent_cow_end(r, error) || !agent_ipc_make(r, error))
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(aspects); i++) {
        if (aspects[i] == &agent_aspect_fd && !agent_files_stage(r, AGENT_FILE_LATE, error))
            return false;
        if (!build_aspect(r, aspects[i], error))
            return false;
    }
    return agent_files_stage(r, AGENT_FILE_ATTACH, error);
}

bool agent_restore_build(AgentRestore *r, GError **error)
{
    // All descriptors before the first process, which inherits them.
    return agent_files_open(r, error) && agent_shm_open(r, error) && agent_cow_begin(r, error) &&
           (r->cow || bear(r, error));
}

GArray *agent_restore_spaces(const AgentRestore *r)
{
    GArray *spaces = g_array_new(false, false, sizeof(struct agent_space));

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state != FMT_PROC_ZOMBIE && agent_mm_is_owner(p)) {
            const struct agent_space space = {p->mm->rec.objref, agent_leader(p)->tracee.tid};
            g_array_append_val(spaces, space);
        }
    }
    return spaces;
}

bool agent_restore_pages(AgentRestore *r, const struct fmt_pages *pages, uint64_t offset,
                         const void *data, uint64_t size, GError **error)
{
    return (fmt_image_by_ref(r->img, pages->owner, FMT_COW_SET) || bear(r, error)) &&
           agent_contents(r, pages, pages->start + offset, data, size, error);
}

bool agent_restore_end_pages(AgentRestore *r, GError **error)
{
    return bear(r, error);
}

static bool finish_tasks(AgentProc *p, GError **error)
{
    for (guint i = p->tasks->len; i-- > 0;) {
        for (size_t j = 0; j < G_N_ELEMENTS(aspects); j++) {
            if (aspects[j]->finish_task &&
                !aspects[j]->finish_task(g_ptr_array_index(p->tasks, i), error)) {
                g_prefix_error(error, "process %" G_GUINT64_FORMAT ", %s: ", p->rec->pid,
                               aspects[j]->name);
                return false;
            }
        }
    }
    return true;
}

static bool finish_process(AgentProc *p, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(aspects); i++) {
        if (aspects[i]->finish && (!aspects[i]->per_mm || agent_mm_is_owner(p)) &&
            !aspects[i]->finish(p, error)) {
            g_prefix_error(error, "process %" G_GUINT64_FORMAT ", %s: ", p->rec->pid,
                           aspects[i]->name);
            return false;
        }
    }
    return finish_tasks(p, error) && agent_timer_arm(p, error) && agent_posix_timers_arm(p, error);
}

static bool for_all(AgentRestore *r, bool (*fn)(AgentProc *p, GError **error), GError **error)
{
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state != FMT_PROC_ZOMBIE && !fn(p, error)) {
            g_prefix_error(error, "process %" G_GUINT64_FORMAT ": ", p->rec->pid);
            return false;
        }
    }
    return true;
}

static AgentTask *first_living(const AgentProc *p)
{
    AgentTask *t = agent_leader(p);

    for (guint i = 1; agent_has_ended(t) && i < p->tasks->len; i++)
        t = g_ptr_array_index(p->tasks, i);
    return t;
}

// Leaders that have ended do so here, threads that wait with a timeout wait again.
static bool last_calls(AgentProc *p, GError **error)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (agent_has_ended(t) && !agent_ending_leader(t, error))
            return false;
        if (agent_has_ended(t) || !agent_is_restarted(t))
            continue;
        if (!agent_restart_arm(t, &t->restart, error))
            return false;
        t->armed = true;
    }
    return true;
}

static bool settle(AgentProc *p, GError **error)
{
    const AgentTask *unmapped = agent_mm_is_owner(p) ? first_living(p) : NULL;

    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (!agent_has_ended(t) && (!t->armed || t == unmapped) &&
            !agent_remote_settle(&t->tracee, error))
            return false;
    }
    for (guint i = 0; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (!agent_has_ended(t) && !agent_regs_set(t, t->armed ? &t->restart : NULL, error))
            return false;
    }
    return true;
}

// By one thread for all that share it. Without our memory only the vdso has instructions to enter
// the kernel.
static bool leave_scratch(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &first_living(p)->tracee;
    const uint64_t bytes = p->site.scratch_bytes + p->site.code_bytes;

    if (!agent_mm_is_owner(p))
        return true;
    if (!p->ia32)
        return agent_remote(t, "munmap", SYS_munmap, NULL, error, p->site.scratch, bytes);
    p->site.syscall_ip = 0;
    p->site.int80_ip = p->vdso + p->here->syscall_offset;
    return agent_remote_ia32(t, "munmap", IA32_MUNMAP, NULL, error, p->site.scratch, bytes);
}

bool agent_restore_finish(AgentRestore *r, GError **error)
{
    if (!bear(r, error) || !agent_attributes_hint(r, error) || !agent_inodes_finish(r, error))
        return false;
    agent_pipes_finish(r);
    if (!agent_shm_seal(r, error) || !agent_ipc_fill(r, error) || !agent_mqueue_finish(r, error))
        return false;
    // What ends or stops tells its parent: before the signals of the image are there.
    return agent_ending_zombies(r, error) && for_all(r, agent_stop, error) &&
           for_all(r, finish_process, error) && agent_files_stage(r, AGENT_FILE_ARM, error) &&
           // The last calls: restart blocks, then away with the scratch memory, then the final
           // registers. Nothing after a restart block touches it.
           for_all(r, last_calls, error) && for_all(r, leave_scratch, error) &&
           for_all(r, settle, error);
}

static void close_all(AgentRestore *r)
{
    agent_files_close(r);
    if (r->own_scratch)
        munmap(r->own_scratch, AGENT_SCRATCH_BYTES);
}

static void let_go(AgentRestore *r, const AgentProc *p)
{
    if (p->rec->state == FMT_PROC_ZOMBIE)
        return;
    agent_signal_stop(p);
    for (guint i = 0; i < p->tasks->len; i++) {
        const AgentTask *t = g_ptr_array_index(p->tasks, i);

        // A tracer cannot let go of what has ended or sleeps; it ceases to be one with its own end.
        if (agent_has_ended(t) || t->asleep)
            continue;
        // It can only have been killed, by someone who may.
        if (ptrace(PTRACE_DETACH, t->tracee.tid, NULL, (void *)(long)t->stop) < 0)
            agent_note(r, "killed", p->rec->pid, -1,
                       "thread %" G_GUINT64_FORMAT " was gone before it was let go", t->rec->tid);
    }
}

static bool is_on_its_way(const AgentTask *t)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", t->tracee.tid), *text = NULL;
    const char *name_end = g_file_get_contents(path, &text, NULL, NULL) ? strrchr(text, ')') : NULL;

    return name_end && name_end[1] == ' ' && strchr("tRSD", name_end[2]);
}

// One that is stopped wakes up to be so without a tracer.
static void await_stop(const AgentProc *p, gint64 deadline)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        const AgentTask *t = g_ptr_array_index(p->tasks, i);

        while (!agent_has_ended(t) && is_on_its_way(t) && g_get_monotonic_time() < deadline)
            g_usleep(500);
    }
}

// Whoever runs may look at the others, which must be what they were: so the stopped ones come
// first, and children are let go before their parents, who look after them.
static void let_all_go(AgentRestore *r)
{
    const gint64 deadline = g_get_monotonic_time() + STOP_WAIT_S * G_USEC_PER_SEC;

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state == FMT_PROC_STOPPED) {
            let_go(r, p);
            await_stop(p, deadline);
        }
    }
    for (guint i = r->procs->len; i-- > 0;) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state != FMT_PROC_STOPPED)
            let_go(r, p);
    }
}

bool agent_restore_release(AgentRestore *r, GArray **ret_pids, GError **error)
{
    g_autoptr(GArray) pids = g_array_new(false, false, sizeof(pid_t));

    if (!agent_process_release_reaper(r, error))
        return false;
    // From here on there is no way back: go through to the end.
    agent_entries(r);
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);
        const pid_t pid = agent_leader(p)->tracee.tid;

        g_array_append_val(pids, pid);
    }
    // What of files is ours goes before anybody runs, who would miss an end of file, or see a
    // directory that is not his.
    agent_sockets_end(r, true);
    close_all(r);
    let_all_go(r);
    agent_entries_end(r);
    agent_restore_free(r);
    if (ret_pids)
        *ret_pids = g_steal_pointer(&pids);
    return true;
}

void agent_restore_abort(AgentRestore *r)
{
    if (!r)
        return;
    agent_sockets_end(r, false);
    agent_process_kill(r);
    agent_ipc_undo(r);
    agent_mqueue_undo(r);
    agent_contents_undo(r);
    agent_inodes_undo(r);
    close_all(r);
    agent_restore_free(r);
}
