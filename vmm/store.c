// SPDX-License-Identifier: GPL-2.0-or-later
// Writes guest RAM in the address space of QEMU, whichever way it is backed.
#include "vmm/store.h"

#include <errno.h>
#include <limits.h>
#include <sys/uio.h>

#include "vmm/memory_source.h"

#define MAX_PIECES IOV_MAX

// Where the bytes go in QEMU, or false where they are not within one range of RAM.
static bool locate(const VmmMemory *mem, const struct vmm_store *store, struct iovec *ret,
                   GError **error)
{
    struct vmm_place place;

    if (!vmm_memory_locate(mem, store->to, &place) || store->size_bytes > place.size_bytes ||
        place.source.remote.addr == 0) {
        vmm_memory_set_fault(store->to, error);
        return false;
    }
    ret->iov_base = (void *)(uintptr_t)place.source.remote.addr;
    ret->iov_len = store->size_bytes;
    return true;
}

bool vmm_store(const VmmMemory *mem, const struct vmm_store *stores, size_t n_stores,
               GError **error)
{
    struct iovec from[MAX_PIECES], to[MAX_PIECES];

    for (size_t i = 0; i < n_stores;) {
        size_t n = 0, bytes = 0;

        for (; n < MAX_PIECES && i < n_stores; i++, n++) {
            if (!locate(mem, &stores[i], &to[n], error))
                return false;
            from[n].iov_base = (void *)(uintptr_t)stores[i].from;
            from[n].iov_len = stores[i].size_bytes;
            bytes += stores[i].size_bytes;
        }

        ssize_t done = process_vm_writev(vmm_memory_pid(mem), from, n, to, n, 0);
        if (done < 0 || (size_t)done != bytes) {
            g_set_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_IO,
                        "writing the memory of process %d: %s", (int)vmm_memory_pid(mem),
                        done < 0 ? g_strerror(errno) : "only a part could be written");
            return false;
        }
    }
    return true;
}
