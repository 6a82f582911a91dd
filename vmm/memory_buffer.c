// SPDX-License-Identifier: GPL-2.0-or-later
// Guest memory over a caller's bytes.
#include "vmm/memory_source.h"

VmmMemory *vmm_memory_new_from_buffers(const struct vmm_ram_range *ranges, const void *const *data,
                                       size_t n_ranges, GDestroyNotify destroy, void *user)
{
    struct vmm_backing backing = {.user = user, .destroy = destroy};
    g_autofree struct vmm_source *sources = g_new0(struct vmm_source, n_ranges);

    for (size_t i = 0; i < n_ranges; i++)
        sources[i].bytes = data[i];
    return vmm_memory_new(ranges, sources, n_ranges, 0, &backing);
}
