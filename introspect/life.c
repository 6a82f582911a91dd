// SPDX-License-Identifier: GPL-2.0-or-later
// Whether a process lives, is stopped or has ended, and what its parent has yet to learn of that.
#include "introspect/life.h"

#include "introspect/cred.h"

#define EXIT_DEAD   0x10 // include/linux/sched.h
#define EXIT_ZOMBIE 0x20
#define PF_EXITING  0x4

// signal_struct.flags, include/linux/sched/signal.h
#define STOP_STOPPED   0x1
#define STOP_CONTINUED 0x2
#define GROUP_EXIT     0x4
#define CLD_MASK       0x30

static bool changing(struct intro_ctx *c, const char *what, GError **error)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY, "process %" G_GUINT64_FORMAT " %s", c->pid,
                what);
    return false;
}

bool intro_life(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva signal = rd_ptr(&r, leader, M_task_signal);
    const uint64_t flags = rd(&r, signal, M_signal_flags);
    const uint64_t group_code = rd(&r, signal, M_signal_group_exit_code);
    const uint64_t own_code = rd(&r, leader, M_task_exit_code);
    const uint64_t ended = rd(&r, leader, M_task_exit_state);
    const uint64_t n_threads = rd(&r, signal, M_signal_nr_threads);
    const uint64_t stopping = rd(&r, signal, M_signal_group_stop_count);
    const bool exiting = rd(&r, leader, M_task_flags) & PF_EXITING;

    if (!rd_done(&r, error))
        return false;
    if (ended & EXIT_DEAD)
        return changing(c, "is being waited for", error);
    if (ended && n_threads == 1) {
        proc->state = FMT_PROC_ZOMBIE;
        proc->exit_code = (flags & GROUP_EXIT ? group_code : own_code) & 0xffff;
        return true;
    }
    if (flags & GROUP_EXIT || (exiting && !ended))
        return changing(c, "is exiting", error);
    if (stopping)
        return changing(c, "is being stopped", error);
    if (flags & CLD_MASK)
        return changing(c, "is about to tell its parent that it was stopped or continued", error);
    proc->state = flags & STOP_STOPPED ? FMT_PROC_STOPPED : FMT_PROC_ALIVE;
    // What wait() would give: cleared once it has.
    proc->stop_signal = flags & STOP_STOPPED ? group_code & 0x7f : 0;
    proc->continued = !!(flags & STOP_CONTINUED);
    return true;
}

bool intro_ended_leader(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc,
                        GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct fmt_task *rec = intro_object_add(c, leader, FMT_TASK);
    struct gva cred = rd_ptr(&r, leader, M_task_real_cred);
    char comm[17] = "";

    rec->proc = proc->rec.objref;
    rec->tid = proc->pid;
    rec->state = FMT_TASK_ENDED;
    rec->syscall = -1;
    rec->exit_code = rd(&r, leader, M_task_exit_code) & 0xffff;
    rd_bytes(&r, leader, M_task_comm, comm, 16);
    rec->comm = g_utf8_make_valid(comm, -1);
    return rd_done(&r, error) && (rec->cred = intro_cred(c, cred, error));
}

struct search {
    IntroKernel *k;
    struct gva found;
};

static bool is_alive(struct gva task, void *user, GError **error)
{
    struct search *s = user;
    uint64_t ended;

    if (!intro_get(s->k, task, M_task_exit_state, &ended, error))
        return false;
    if (!ended && !s->found.addr)
        s->found = task;
    return true;
}

bool intro_main_thread(IntroKernel *k, struct gva leader, struct gva *ret, GError **error)
{
    struct search s = {.k = k};

    if (!is_alive(leader, &s, error) ||
        (!s.found.addr && !intro_walk_threads(k, leader, is_alive, &s, error)))
        return false;
    *ret = s.found;
    return true;
}
