// SPDX-License-Identifier: GPL-2.0-or-later
// What stands behind each range of a VmmMemory. Internal to vmm/.
#pragma once

#include <sys/types.h>

#include "vmm/memory.h"

// Where the bytes of one range are: here (`bytes`: mapped RAM, a caller's buffer), or in QEMU's
// address space (`bytes` is NULL).
struct vmm_source {
    const uint8_t *bytes;
    struct hva remote;
};

// What keeps the sources alive; each function may be NULL.
struct vmm_backing {
    void *user;
    void (*destroy)(void *user); // at the last unref
    void (*prefault)(void *user);
    // The first piece of bytes[0..len) that the host has allocated; false where there is none.
    bool (*next_touched)(void *user, const uint8_t *bytes, size_t len, size_t *ret_start,
                         size_t *ret_len);
};

// A memory over ranges that ascend and do not overlap, source by source; all are copied. pid: the
// process that remote sources belong to.
VmmMemory *vmm_memory_new(const struct vmm_ram_range *ranges, const struct vmm_source *sources,
                          size_t n_ranges, pid_t pid, const struct vmm_backing *backing);

pid_t vmm_memory_pid(const VmmMemory *mem);

// One address within its source, with what is left of its range.
struct vmm_place {
    struct vmm_source source;
    uint64_t size_bytes;
};

// False: no RAM at this address.
bool vmm_memory_locate(const VmmMemory *mem, struct gpa at, struct vmm_place *ret);
void vmm_memory_set_fault(struct gpa at, GError **error);

// memory_remote.c: copies pieces out of another process.
struct vmm_remote_piece {
    struct hva from;
    void *to;
    size_t size_bytes;
};

bool vmm_remote_read(pid_t pid, const struct vmm_remote_piece *pieces, size_t n_pieces,
                     GError **error);

// memory_mapped.c: a read-only mapping of what QEMU has mapped shared at [start, end) of its
// address space from `offset` of a file on. NULL where the file cannot be opened or mapped from
// here.
typedef struct VmmMapping VmmMapping;

VmmMapping *vmm_mapping_open(pid_t pid, struct hva start, struct hva end, uint64_t offset,
                             uint64_t inode);
void vmm_mapping_close(VmmMapping *mapping); // NULL-safe
void vmm_mapping_prefault(VmmMapping *mapping);
// Whether bytes lies in this mapping; then as in struct vmm_backing, *ret_len 0 for none.
bool vmm_mapping_next_touched(const VmmMapping *mapping, const uint8_t *bytes, size_t len,
                              size_t *ret_start, size_t *ret_len);
const uint8_t *vmm_mapping_bytes(const VmmMapping *mapping, struct hva at);
