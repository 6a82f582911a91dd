// SPDX-License-Identifier: GPL-2.0-or-later
// The guest's physical address map as QEMU prints it. Internal to vmm/.
#pragma once

#include <glib.h>
#include <stddef.h>

#include "vmm/addr.h"

enum vmm_mtree_type {
    VMM_MTREE_RAM,
    VMM_MTREE_ROM,   // RAM that the guest cannot write just now: PAM regions below 1 MiB, firmware
    VMM_MTREE_OTHER, // devices
};

// One line of a flat view: [start, start + size_bytes) shows `block` from offset_bytes on.
struct vmm_mtree_entry {
    struct gpa start;
    uint64_t size_bytes;
    enum vmm_mtree_type type;
    char *block; // the memory region's name
    uint64_t offset_bytes;
};

// Reads the output of `info mtree -f`: the flat view of the address space "memory" (not those of
// devices or of SMM). Entries ascend and do not overlap, or it is an error (VMM_ERROR_PROTOCOL).
// GArray of struct vmm_mtree_entry; free with g_array_unref.
GArray *vmm_mtree_parse(const char *text, size_t len, GError **error);
