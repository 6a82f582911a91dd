// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds a kernel's BTF: parsed, then asked for everything in layout.def.
#include "fuzz.h"
#include "introspect/types.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(IntroTypes) types = intro_types_from_btf(data, size, NULL);
    g_autofree struct intro_layout *layout = g_new0(struct intro_layout, 1);
    struct intro_place place;

    if (!types)
        return 0;
    intro_layout_resolve(types, layout, NULL);
    // What the corpus has.
    types->ops->member(types, "outer", "many.b", &place);
    types->ops->member(types, "outer", "deep", &place);
    types->ops->member(types, "loop", "nothing", &place);
    types->ops->member(types, "flagged", "high", &place);
    return 0;
}
