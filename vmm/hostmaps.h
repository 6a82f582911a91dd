// SPDX-License-Identifier: GPL-2.0-or-later
// The mappings of the QEMU process. Internal to vmm/.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "vmm/addr.h"

// [start, end) of the process. Neighbours that continue each other in the same file are one.
struct vmm_hostmap {
    struct hva start, end;
    bool shared;           // MAP_SHARED
    uint64_t offset_bytes; // of start in the file
    uint64_t inode;        // 0: anonymous
    dev_t device;
};

// Reads /proc/PID/maps. GArray of struct vmm_hostmap, ascending; free with g_array_unref.
GArray *vmm_hostmaps_read(pid_t pid, GError **error);

// Finds the maps that hold [start, start + size_bytes) without a gap; false where none do.
// *ret is the one map when a single one holds it all, else it is NULL (private RAM may be split).
bool vmm_hostmaps_find(const GArray *maps, struct hva start, uint64_t size_bytes,
                       const struct vmm_hostmap **ret);
