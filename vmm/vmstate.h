// SPDX-License-Identifier: GPL-2.0-or-later
// QEMU's device state stream: the vCPUs and clocks in it. Internal to vmm/.
#pragma once

#include <glib.h>
#include <stddef.h>

#include "vmm/vcpu.h"

// What one `xen-save-devices-state` says. Each has_ flag tells whether its record was there.
struct vmm_vmstate {
    GArray *vcpus; // struct vmm_vcpu, ascending by index
    bool has_timer;
    int64_t ticks;       // cpu_get_ticks() at the stop: what TCG's RDTSC returns, less its offset
    uint64_t virtual_ns; // QEMU_CLOCK_VIRTUAL at the stop
    bool has_hpet;
    uint64_t hpet_counter;
    bool has_kvmclock;
    uint64_t kvmclock_ns;
};

// Finds and reads the records "cpu", "cpu_common", "timer", "hpet" and "kvmclock". Refuses
// (VMM_ERROR_UNSUPPORTED) versions and subsections it does not know, and a stream where a record
// occurs twice: parts of it are the guest's to write. Clear *ret with vmm_vmstate_clear; untouched
// on error.
bool vmm_vmstate_parse(const uint8_t *data, size_t len, struct vmm_vmstate *ret, GError **error);
void vmm_vmstate_clear(struct vmm_vmstate *state);
