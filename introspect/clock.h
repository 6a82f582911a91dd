// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: what time it is in the paused guest.
#pragma once

#include "introspect/kernel.h"
#include "vmm/vcpu.h"

struct intro_clock {
    int64_t monotonic_ns; // as the initial time namespace has it
    int64_t realtime_ns;
    int64_t boottime_ns;
    int64_t tai_ns;
    uint64_t error_ns; // how far these may be off
    uint64_t jiffy_ns; // length of one
};

// Reads the kernel's timekeeper and extrapolates it to the pause with the clock source's own
// counter. BUSY while the timekeeper is being updated.
bool intro_clock_read(IntroKernel *k, GArray *vcpus, const struct vmm_clock *machine,
                      struct intro_clock *ret, GError **error);
