// SPDX-License-Identifier: GPL-2.0-or-later
// A guest's disks, read through its own QEMU. Internal to vmm/.
#pragma once

#include "vmm/qmp.h"

/*
 * QEMU itself serves them over NBD, read-only: so what is read is what the guest would read, at any
 * time and of whatever make the image is. An image that is opened beside a QEMU that writes to it
 * would need its locks broken, and its tables are in that QEMU's caches.
 *
 * A QEMU has one such server. Where somebody else (a backup, a migration) has started it this is
 * STATE, and nothing is touched.
 */
typedef struct VmmDisks VmmDisks;

VmmDisks *vmm_disks_serve(VmmQmp *qmp, GError **error);
// Ends the server. False: it may be there still.
bool vmm_disks_close(VmmDisks *disks, VmmQmp *qmp);

const char *vmm_disks_socket(const VmmDisks *disks); // borrowed
unsigned vmm_disks_count(const VmmDisks *disks);
