// SPDX-License-Identifier: GPL-2.0-or-later
// The vCPUs and clocks of a stopped machine, from whichever source QEMU offers. Internal to vmm/.
#pragma once

#include "vmm/devstate.h"
#include "vmm/vmstate.h"

// dev may be NULL. Device state that cannot be read, is of an unknown make or disagrees with the
// monitor's register dump is not used: the dump alone then fills *ret, with the flags of struct
// vmm_vcpu saying what it lacks, and without clocks.
bool vmm_snapshot_read(VmmQmp *qmp, VmmDevstate *dev, struct vmm_vmstate *ret, GError **error);
