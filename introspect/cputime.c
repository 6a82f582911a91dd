// SPDX-License-Identifier: GPL-2.0-or-later
// The CPU time that processes and threads have consumed (kernel/sched/cputime.c).
#include "introspect/cputime.h"

#define NSEC_PER_SEC UINT64_C(1000000000)

static void add(struct intro_cputime *sum, uint64_t user_ns, uint64_t system_ns, uint64_t sched_ns)
{
    sum->ns[INTRO_CPU_PROF] += user_ns + system_ns;
    sum->ns[INTRO_CPU_VIRT] += user_ns;
    sum->ns[INTRO_CPU_SCHED] += sched_ns;
}

static void add_thread(IntroReader *r, struct gva task, struct intro_cputime *sum)
{
    add(sum, rd(r, task, M_task_utime), rd(r, task, M_task_stime),
        rd(r, task, M_task_sum_exec_runtime));
}

bool intro_cputime_thread(IntroKernel *k, struct gva task, struct intro_cputime *ret,
                          GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct intro_cputime sum = {0};

    add_thread(&r, task, &sum);
    if (!rd_done(&r, error))
        return false;
    *ret = sum;
    return true;
}

struct sum_walk {
    IntroReader *r;
    struct intro_cputime *sum;
};

static bool sum_thread(struct gva task, void *user, GError **error)
{
    struct sum_walk *w = user;

    add_thread(w->r, task, w->sum);
    return rd_done(w->r, error);
}

bool intro_cputime_process(IntroKernel *k, struct gva leader, struct intro_cputime *ret,
                           GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct intro_cputime sum = {0};
    struct sum_walk walk = {&r, &sum};
    struct gva signal = rd_ptr(&r, leader, M_task_signal);

    add(&sum, rd(&r, signal, M_signal_utime), rd(&r, signal, M_signal_stime),
        rd(&r, signal, M_signal_sum_sched_runtime));
    if (!rd_done(&r, error) || !intro_walk_threads(k, leader, sum_thread, &walk, error))
        return false;
    *ret = sum;
    return true;
}

bool intro_cputime_add(struct intro_ctx *c, struct gva leader, GError **error)
{
    struct intro_cputime sum;

    if (!intro_cputime_process(c->k, leader, &sum, error))
        return false;
    c->cpu_ns += sum.ns[INTRO_CPU_PROF];
    return true;
}

// No kernel lets CPU time be set. Less than a second of it is nothing that a program counts on.
void intro_cputime_note(struct intro_ctx *c)
{
    if (c->cpu_ns >= NSEC_PER_SEC)
        intro_note(c, FMT_NOTE_LOSS, "cpu-time",
                   "%.1f s of CPU time that the tree has had: getrusage(), times() and CPU clocks "
                   "begin at zero",
                   (double)c->cpu_ns / NSEC_PER_SEC);
}
