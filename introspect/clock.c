// SPDX-License-Identifier: GPL-2.0-or-later
// What time it is in the paused guest: its timekeeper, extrapolated with the clock source's
// counter.
#include "introspect/clock.h"

#include <string.h>

#include "introspect/reader.h"

#define NSEC_PER_SEC 1000000000ull
#define PM_TIMER_HZ  3579545ull

/*
 * The timekeeper (kernel/time/timekeeping.c) holds the clocks as they were at cycle_last, the
 * counter of the clock source at the last tick; an idle guest may not have ticked for seconds. What
 * the counter shows at the pause is known for the sources below, because the machine's own state
 * says so.
 */
static bool read_counter(IntroKernel *k, const char *source, GArray *vcpus,
                         const struct vmm_clock *machine, uint64_t *ret)
{
    const struct vmm_vcpu *cpu = &g_array_index(vcpus, struct vmm_vcpu, 0);

    if (g_str_has_prefix(source, "tsc")) { // tsc, tsc-early
        *ret = cpu->tsc;
        return cpu->tsc != 0;
    }
    if (strcmp(source, "hpet") == 0) {
        *ret = machine->hpet_counter;
        return machine->has_hpet;
    }
    if (strcmp(source, "acpi_pm") == 0) {
        *ret = (uint64_t)((unsigned __int128)machine->virtual_ns * PM_TIMER_HZ / NSEC_PER_SEC);
        return true;
    }
    if (strcmp(source, "kvm-clock") == 0) { // counts nanoseconds
        *ret = machine->kvmclock_ns;
        return machine->has_kvmclock;
    }
    return false;
}

static bool find_timekeeper(IntroKernel *k, struct gva *ret, struct gva *ret_seq, GError **error)
{
    // 6.17: one tk_data for each timekeeper; the first is the system's.
    if (!intro_symbol(k, "tk_core", ret_seq, NULL) &&
        !intro_symbol(k, "timekeeper_data", ret_seq, error))
        return false;
    // Before 6.13 the type of tk_core has no name: a seqcount, then the timekeeper, 8-byte aligned.
    *ret = intro_has(k, M_tk_data_timekeeper) ? intro_member_addr(k, *ret_seq, M_tk_data_timekeeper)
                                              : GVA(ret_seq->addr + 8);
    return true;
}

static char *source_name(IntroReader *r, struct gva tk)
{
    struct gva source = rd_ptr(r, tk, M_tk_clock);
    struct gva name = rd_ptr(r, source, M_clocksource_name);

    return r->error ? NULL : intro_read_str(r->k, name, 32, &r->error);
}

bool intro_clock_read(IntroKernel *k, GArray *vcpus, const struct vmm_clock *machine,
                      struct intro_clock *ret, GError **error)
{
    struct gva tk, seq_at;
    g_auto(IntroReader) r = INTRO_READER(k);

    if (!find_timekeeper(k, &tk, &seq_at, error))
        return false;
    if (rd_u32_at(&r, seq_at) & 1) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY, "the timekeeper is being updated");
        return false;
    }
    uint64_t mask = rd(&r, tk, M_tk_mask), last = rd(&r, tk, M_tk_cycle_last);
    uint64_t mult = rd(&r, tk, M_tk_mult), shift = rd(&r, tk, M_tk_shift);
    uint64_t base = rd(&r, tk, M_tk_base), xtime_nsec = rd(&r, tk, M_tk_xtime_nsec);
    int64_t offs_real = rd(&r, tk, M_tk_offs_real), offs_boot = rd(&r, tk, M_tk_offs_boot);
    uint64_t interval = rd(&r, tk, M_tk_cycle_interval);
    int64_t offs_tai = rd(&r, tk, M_tk_offs_tai);
    g_autofree char *name = source_name(&r, tk);
    if (!rd_done(&r, error))
        return false;

    uint64_t now = last, delta = 0;
    bool exact = read_counter(k, name, vcpus, machine, &now);
    if (exact)
        delta = (now - last) & mask;
    if (delta > mask >> 1) // the counter was read before cycle_last: another CPU's is ahead
        delta = 0;
    unsigned __int128 ns = ((unsigned __int128)delta * mult + xtime_nsec) >> (shift & 63);
    unsigned __int128 jiffy = ((unsigned __int128)interval * mult) >> (shift & 63);
    *ret = (struct intro_clock){
        .jiffy_ns = (uint64_t)jiffy,
        .monotonic_ns = (int64_t)(base + (uint64_t)ns),
        .error_ns = exact ? 1000000 : NSEC_PER_SEC,
    };
    ret->realtime_ns = ret->monotonic_ns + offs_real;
    ret->boottime_ns = ret->monotonic_ns + offs_boot;
    ret->tai_ns = ret->monotonic_ns + offs_tai;
    return true;
}
