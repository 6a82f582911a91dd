// SPDX-License-Identifier: GPL-2.0-or-later
// Interval timers: setitimer and alarm (kernel/time/itimer.c).
#include "introspect/itimer.h"

#include <sys/time.h>

#include "introspect/cputime.h"
#include "introspect/timer.h"

static void add(struct intro_ctx *c, uint64_t proc, uint64_t which, uint64_t value_ns,
                uint64_t interval_ns)
{
    struct fmt_itimer *rec = fmt_image_add(c->img, FMT_ITIMER);

    rec->proc = proc;
    rec->which = which;
    rec->value_ns = MAX(value_ns, 1); // 0 would say that it is not armed
    rec->interval_ns = interval_ns;
}

// A periodic timer that has fired is armed again when its signal is taken off the queue, for a
// whole number of intervals after that.
static bool read_real(struct intro_ctx *c, struct gva signal, uint64_t proc, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    uint64_t interval_ns = rd(&r, signal, M_signal_it_real_incr);
    struct intro_due due;

    if (!rd_done(&r, error) ||
        !intro_hrtimer_due(c->k, intro_member_addr(c->k, signal, M_signal_real_timer), c->clock,
                           &due, error))
        return false;
    if (due.queued)
        add(c, proc, ITIMER_REAL, MAX(due.left_ns, 0), interval_ns);
    else if (interval_ns)
        add(c, proc, ITIMER_REAL,
            due.left_ns > 0 ? (uint64_t)due.left_ns
                            : interval_ns - ((uint64_t)-due.left_ns) % interval_ns,
            interval_ns);
    return true;
}

// enum of signal_struct.it, which is that of the clocks: CPUCLOCK_PROF, CPUCLOCK_VIRT.
static const uint64_t cpu_itimers[] = {
    [INTRO_CPU_PROF] = ITIMER_PROF, [INTRO_CPU_VIRT] = ITIMER_VIRTUAL};

static bool read_cpu(struct intro_ctx *c, struct gva leader, struct gva signal, uint64_t proc,
                     GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct intro_cputime used;

    if (!intro_cputime_process(c->k, leader, &used, error))
        return false;
    for (unsigned i = 0; i < G_N_ELEMENTS(cpu_itimers); i++) {
        struct gva it = rd_elem(&r, signal, M_signal_it, i, intro_sizeof(c->k, T_cpu_itimer));
        uint64_t expires_ns = rd(&r, it, M_cpu_itimer_expires);

        if (expires_ns)
            add(c, proc, cpu_itimers[i], expires_ns > used.ns[i] ? expires_ns - used.ns[i] : 0,
                rd(&r, it, M_cpu_itimer_incr));
    }
    return rd_done(&r, error);
}

bool intro_itimers(struct intro_ctx *c, struct gva leader, uint64_t proc, GError **error)
{
    struct gva signal;

    return intro_get_ptr(c->k, leader, M_task_signal, &signal, error) &&
           read_real(c, signal, proc, error) && read_cpu(c, leader, signal, proc, error);
}
