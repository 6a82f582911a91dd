// SPDX-License-Identifier: GPL-2.0-or-later
// Guest physical memory, whatever it is read from.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

#include "vmm/addr.h"

/*
 * A VmmMemory is the RAM of one guest. Behind it stands one of three sources (vmm/memory_*.c):
 *
 *   mapped   RAM that QEMU shares (memfd or file, share=on): mapped read-only here, no copy
 *   remote   private RAM: process_vm_readv on the QEMU process
 *   buffer   a caller's bytes: tests, and dumps that were mapped from a file
 *
 * Reading is always possible; what is read is only stable while the guest is paused. Nothing here
 * ever writes to guest memory: there is no function for it.
 *
 * Thread safety: reads may come from several threads at once. Reference counted.
 */
typedef struct VmmMemory VmmMemory;

#define VMM_MEMORY_ERROR (vmm_memory_error_quark())
GQuark vmm_memory_error_quark(void);

enum vmm_memory_error {
    VMM_MEMORY_ERROR_FAULT, // the guest has no RAM at this address
    VMM_MEMORY_ERROR_IO,    // the host could not read it (QEMU is gone, permission)
};

// One piece of guest RAM, [start, start + size_bytes). Pieces are sorted and never overlap.
struct vmm_ram_range {
    struct gpa start;
    uint64_t size_bytes;
};

// What a bulk read copies: size_bytes from guest physical `from` to `to` (owned by the caller).
struct vmm_copy {
    struct gpa from;
    void *to;
    size_t size_bytes;
};

VmmMemory *vmm_memory_ref(VmmMemory *mem);
void vmm_memory_unref(VmmMemory *mem); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmMemory, vmm_memory_unref)

// The RAM ranges, borrowed until the last unref.
const struct vmm_ram_range *vmm_memory_ranges(const VmmMemory *mem, size_t *ret_n);
uint64_t vmm_memory_total_bytes(const VmmMemory *mem);

// Copies len bytes at `at`; they may cross from one range into the next where no hole lies
// between. On error `ret` may hold some of the bytes. FAULT's message carries the first address
// that has no RAM.
bool vmm_memory_read(VmmMemory *mem, struct gpa at, void *ret, size_t len, GError **error);

// The bytes at `at` in place, borrowed for as long as the VmmMemory lives, or NULL where the source
// cannot lend them or [at, at + len) is not within one range. Not an error: read them then.
const void *vmm_memory_peek(VmmMemory *mem, struct gpa at, size_t len);

// Copies many pieces as fast as the host can: pieces that continue each other on both sides are
// joined (so sort them where that helps), remote RAM is read in few system calls, and all is spread
// over n_threads (0: as many as there are cores; a stopped guest leaves them idle). On error some
// of the targets have been written.
bool vmm_memory_read_bulk(VmmMemory *mem, const struct vmm_copy *copies, size_t n_copies,
                          unsigned n_threads, GError **error);

// The next piece of RAM at or behind `from` that can hold anything but zeros; false where none is
// left. What a guest never touched may have no memory of the host behind it yet, and reading it in
// place would make the host allocate it: whoever searches all of RAM goes by this.
bool vmm_memory_next_touched(const VmmMemory *mem, struct gpa from, struct vmm_ram_range *ret);

// Makes later reads cheap: has the host map the pages of shared RAM that the guest has touched now
// (MADV_POPULATE_READ) rather than one by one within the pause. Does nothing for other sources.
void vmm_memory_prefault(VmmMemory *mem);

// A memory over a caller's bytes, for tests and dumps: range i is backed by data[i], which must
// stay valid until `destroy(user)` is called at the last unref (destroy may be NULL).
VmmMemory *vmm_memory_new_from_buffers(const struct vmm_ram_range *ranges, const void *const *data,
                                       size_t n_ranges, GDestroyNotify destroy, void *user);
