// SPDX-License-Identifier: GPL-2.0-or-later
// Recorded data of the fuzz corpus, for the unit tests of the same parsers.
#pragma once

#include <glib.h>

// A file under tests/fuzz/corpus. Free with g_free.
static inline char *vmm_data_read(const char *name, gsize *ret_len)
{
    g_autofree char *path = g_build_filename(g_getenv("VMGRAFT_CORPUS"), name, NULL);
    char *data;

    g_assert_true(g_file_get_contents(path, &data, ret_len, NULL));
    return data;
}
