// SPDX-License-Identifier: GPL-2.0-or-later
// Stands in for the exporters of formats/ until they are there.
#include "formats/export.h"

bool fmt_export_core(const FmtImage *img, uint64_t pid, const char *path, GError **error)
{
    g_set_error(error, FMT_ERROR, FMT_ERROR_VERSION, "this vmgraft cannot write cores yet");
    return false;
}

struct json_object *fmt_export_json(const FmtImage *img)
{
    return json_object_new_object();
}
