// SPDX-License-Identifier: GPL-2.0-or-later
// Finds a guest's RAM in the QEMU process. Internal to vmm/.
#pragma once

#include "vmm/memory.h"
#include "vmm/qmp.h"

enum vmm_ram_flags {
    VMM_RAM_DEFAULT = 0,
    VMM_RAM_NO_MAPPING = 1 << 0, // read shared RAM from QEMU's address space too (tests, bench)
};

// The RAM of the guest behind qmp, mapped where QEMU shares it, else read out of the process.
// Errors: UNSUPPORTED (QEMU's process is not the peer of the socket or not visible), PROTOCOL.
VmmMemory *vmm_ram_open(VmmQmp *qmp, enum vmm_ram_flags flags, GError **error);
