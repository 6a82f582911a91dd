// SPDX-License-Identifier: GPL-2.0-or-later
// Guest physical memory: ranges, translation to their sources, single reads.
#include "vmm/memory.h"

#include <string.h>

#include "vmm/memory_source.h"

G_DEFINE_QUARK(vmm - memory - error - quark, vmm_memory_error)

struct VmmMemory {
    gatomicrefcount refs;
    struct vmm_ram_range *ranges;
    struct vmm_source *sources;
    size_t n_ranges;
    pid_t pid;
    struct vmm_backing backing;
};

VmmMemory *vmm_memory_new(const struct vmm_ram_range *ranges, const struct vmm_source *sources,
                          size_t n_ranges, pid_t pid, const struct vmm_backing *backing)
{
    VmmMemory *mem = g_new0(VmmMemory, 1);

    for (size_t i = 0; i < n_ranges; i++) {
        g_assert(ranges[i].size_bytes > 0);
        g_assert(ranges[i].size_bytes <= UINT64_MAX - ranges[i].start.addr);
        g_assert(i == 0 ||
                 ranges[i - 1].start.addr + ranges[i - 1].size_bytes <= ranges[i].start.addr);
    }
    g_atomic_ref_count_init(&mem->refs);
    mem->ranges = g_memdup2(ranges, n_ranges * sizeof(*ranges));
    mem->sources = g_memdup2(sources, n_ranges * sizeof(*sources));
    mem->n_ranges = n_ranges;
    mem->pid = pid;
    mem->backing = *backing;
    return mem;
}

VmmMemory *vmm_memory_ref(VmmMemory *mem)
{
    g_atomic_ref_count_inc(&mem->refs);
    return mem;
}

void vmm_memory_unref(VmmMemory *mem)
{
    if (!mem || !g_atomic_ref_count_dec(&mem->refs))
        return;
    if (mem->backing.destroy)
        mem->backing.destroy(mem->backing.user);
    g_free(mem->ranges);
    g_free(mem->sources);
    g_free(mem);
}

const struct vmm_ram_range *vmm_memory_ranges(const VmmMemory *mem, size_t *ret_n)
{
    *ret_n = mem->n_ranges;
    return mem->ranges;
}

uint64_t vmm_memory_total_bytes(const VmmMemory *mem)
{
    uint64_t total = 0;

    for (size_t i = 0; i < mem->n_ranges; i++)
        total += mem->ranges[i].size_bytes;
    return total;
}

pid_t vmm_memory_pid(const VmmMemory *mem)
{
    return mem->pid;
}

bool vmm_memory_locate(const VmmMemory *mem, struct gpa at, struct vmm_place *ret)
{
    size_t low = 0, high = mem->n_ranges;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct vmm_ram_range *range = &mem->ranges[middle];
        uint64_t within = at.addr - range->start.addr;

        if (at.addr < range->start.addr) {
            high = middle;
        } else if (within >= range->size_bytes) {
            low = middle + 1;
        } else {
            const struct vmm_source *source = &mem->sources[middle];

            ret->source.bytes = source->bytes ? source->bytes + within : NULL;
            ret->source.remote = HVA(source->remote.addr + within);
            ret->size_bytes = range->size_bytes - within;
            return true;
        }
    }
    return false;
}

void vmm_memory_set_fault(struct gpa at, GError **error)
{
    g_set_error(error, VMM_MEMORY_ERROR, VMM_MEMORY_ERROR_FAULT,
                "guest physical 0x%" G_GINT64_MODIFIER "x: no RAM there", at.addr);
}

bool vmm_memory_read(VmmMemory *mem, struct gpa at, void *ret, size_t len, GError **error)
{
    uint8_t *to = ret;

    while (len > 0) {
        struct vmm_place place;
        size_t n;

        if (!vmm_memory_locate(mem, at, &place)) {
            vmm_memory_set_fault(at, error);
            return false;
        }
        n = (size_t)MIN(place.size_bytes, len);
        if (place.source.bytes) {
            memcpy(to, place.source.bytes, n);
        } else {
            struct vmm_remote_piece piece = {
                .from = place.source.remote, .to = to, .size_bytes = n};

            if (!vmm_remote_read(mem->pid, &piece, 1, error)) {
                g_prefix_error(error, "guest physical 0x%" G_GINT64_MODIFIER "x: ", at.addr);
                return false;
            }
        }
        to += n;
        at.addr += n;
        len -= n;
    }
    return true;
}

const void *vmm_memory_peek(VmmMemory *mem, struct gpa at, size_t len)
{
    struct vmm_place place;

    if (!vmm_memory_locate(mem, at, &place) || len > place.size_bytes)
        return NULL;
    return place.source.bytes;
}

bool vmm_memory_next_touched(const VmmMemory *mem, struct gpa from, struct vmm_ram_range *ret)
{
    for (size_t i = 0; i < mem->n_ranges; i++) {
        const struct vmm_ram_range *range = &mem->ranges[i];
        uint64_t skip = from.addr > range->start.addr ? from.addr - range->start.addr : 0;
        const uint8_t *bytes = mem->sources[i].bytes;
        size_t start = 0, len;

        if (skip >= range->size_bytes)
            continue;
        len = range->size_bytes - skip;
        if (bytes && mem->backing.next_touched &&
            !mem->backing.next_touched(mem->backing.user, bytes + skip, len, &start, &len))
            continue;
        ret->start = GPA(range->start.addr + skip + start);
        ret->size_bytes = len;
        return true;
    }
    return false;
}

void vmm_memory_prefault(VmmMemory *mem)
{
    if (mem->backing.prefault)
        mem->backing.prefault(mem->backing.user);
}
