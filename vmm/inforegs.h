// SPDX-License-Identifier: GPL-2.0-or-later
// The register dump of QEMU's human monitor. Internal to vmm/.
#pragma once

#include <glib.h>
#include <stddef.h>

#include "vmm/vcpu.h"

// Reads the output of `info registers -a`. What the dump lacks is zero and flagged so in struct
// vmm_vcpu; of a vCPU outside 64-bit mode it shows 32 bits of each register. GArray of struct
// vmm_vcpu ascending by index; free with g_array_unref. Errors: VMM_ERROR_PROTOCOL.
GArray *vmm_inforegs_parse(const char *text, size_t len, GError **error);

// Compares a vCPU of the device state with the dump's: what both know must be the same.
bool vmm_inforegs_agrees(const struct vmm_vcpu *dump, const struct vmm_vcpu *state);
