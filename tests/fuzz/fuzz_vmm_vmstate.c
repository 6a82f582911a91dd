// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds the parser of QEMU's device state stream.
#include "fuzz.h"
#include "vmm/vmstate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vmm_vmstate state;

    if (vmm_vmstate_parse(data, size, &state, NULL))
        vmm_vmstate_clear(&state);
    return 0;
}
