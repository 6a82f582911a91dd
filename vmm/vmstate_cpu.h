// SPDX-License-Identifier: GPL-2.0-or-later
// The record "cpu" of QEMU's device state. Internal to vmm/.
#pragma once

#include <glib.h>

#include "vmm/bytes.h"
#include "vmm/vcpu.h"

#define VMM_VMSTATE_SUBSECTION 0x05

// Reads one record, version 12, with its subsections; leaves b behind it. *ret must be zero but
// for its index. False (VMM_ERROR_UNSUPPORTED): something in it is not known or does not fit.
bool vmm_vmstate_read_cpu(struct vmm_bytes *b, struct vmm_vcpu *ret, GError **error);
