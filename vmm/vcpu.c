// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the vCPUs and clocks of a stopped machine.
#include <string.h>

#include "vmm/inforegs.h"
#include "vmm/snapshot.h"

static GArray *read_dump(VmmQmp *qmp, GError **error)
{
    g_autofree char *text = vmm_qmp_hmp(qmp, "info registers -a", error);

    return text ? vmm_inforegs_parse(text, strlen(text), error) : NULL;
}

// The dump comes from QEMU's own structures, the device state passes through bytes that a guest may
// have a hand in: they must tell the same story.
static bool same_vcpus(const GArray *dump, const GArray *state)
{
    if (dump->len != state->len)
        return false;
    for (guint i = 0; i < dump->len; i++) {
        if (!vmm_inforegs_agrees(&g_array_index(dump, struct vmm_vcpu, i),
                                 &g_array_index(state, struct vmm_vcpu, i)))
            return false;
    }
    return true;
}

bool vmm_snapshot_read(VmmQmp *qmp, VmmDevstate *dev, struct vmm_vmstate *ret, GError **error)
{
    g_autoptr(GArray) dump = read_dump(qmp, error);
    g_autoptr(GBytes) stream = dump && dev ? vmm_devstate_read(dev, qmp, NULL) : NULL;
    struct vmm_vmstate state = {0};

    if (!dump)
        return false;
    if (stream &&
        vmm_vmstate_parse(g_bytes_get_data(stream, NULL), g_bytes_get_size(stream), &state, NULL)) {
        if (same_vcpus(dump, state.vcpus)) {
            *ret = state;
            return true;
        }
        vmm_vmstate_clear(&state);
    }
    *ret = (struct vmm_vmstate){.vcpus = g_steal_pointer(&dump)};
    return true;
}
