// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds the parser of `info registers -a'.
#include "fuzz.h"
#include "vmm/inforegs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    GArray *parsed = vmm_inforegs_parse((const char *)data, size, NULL);

    g_clear_pointer(&parsed, g_array_unref);
    return 0;
}
