// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds a page that may start with VMCOREINFO.
#include "fuzz.h"
#include "introspect/vmcoreinfo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(IntroVmcoreinfo) info = NULL;
    size_t start, len;
    uint64_t at;

    if (!intro_vmcoreinfo_text(data, size, &start, &len))
        return 0;
    info = intro_vmcoreinfo_parse((const char *)data + start, len, NULL);
    if (info)
        intro_vmcoreinfo_symbol(info, "kallsyms_names", &at);
    return 0;
}
