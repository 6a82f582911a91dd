// SPDX-License-Identifier: GPL-2.0-or-later
// Has QEMU write its device state where this process can read it. Internal to vmm/.
#pragma once

#include "vmm/qmp.h"

/*
 * The target of `xen-save-devices-state` is a memfd, handed to QEMU over the QMP socket into a
 * descriptor set: there is no file, so nothing to clean up after a crash and nothing that another
 * user, mount namespace or a confined QEMU could not open by name.
 */
typedef struct VmmDevstate VmmDevstate;

// Before any pause. NULL with UNSUPPORTED or STATE where this QEMU does not take descriptors.
VmmDevstate *vmm_devstate_open(VmmQmp *qmp, GError **error);
void vmm_devstate_close(VmmDevstate *dev, VmmQmp *qmp); // NULL-safe; takes the set back

// The stream of a stopped machine. Free with g_bytes_unref.
GBytes *vmm_devstate_read(VmmDevstate *dev, VmmQmp *qmp, GError **error);
