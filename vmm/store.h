// SPDX-License-Identifier: GPL-2.0-or-later
// Writing guest RAM, for vmm_machine_store() alone. Internal to vmm/.
#pragma once

#include "vmm/machine.h"

// On error some of the bytes may have been written.
bool vmm_store(const VmmMemory *mem, const struct vmm_store *stores, size_t n_stores,
               GError **error);
