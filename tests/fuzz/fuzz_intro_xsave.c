// SPDX-License-Identifier: GPL-2.0-or-later
// Fuzzes the expansion of XSAVE areas: the first bytes choose which components the CPU has.
#include "introspect/xsave.h"

#include <string.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct intro_xsave_layout layout = {.aligned = 3ull << 17};
    uint32_t at = 576;

    if (size < 4)
        return 0;
    for (unsigned i = 2; i < 19; i++) {
        if (!(data[i % 4] >> i % 8 & 1))
            continue;
        layout.offset[i] = at;
        layout.size[i] = 8u << i % 8;
        at += layout.size[i];
    }
    GBytes *out = intro_xsave_expand(&layout, data + 4, size - 4, NULL);

    g_clear_pointer(&out, g_bytes_unref);
    return 0;
}
