// SPDX-License-Identifier: GPL-2.0-or-later
// Writes the images in tests/golden and tests/fuzz/corpus. To be run once per format version: what
// is there must be readable for ever.
#include <stdio.h>

#include "fmt_sample.h"
#include "formats/export.h"

static bool write_sample(FmtImage *img, const char *dir, const char *name, GError **error)
{
    g_autofree char *path = g_strdup_printf("%s/%s.vmgraft", dir, name);
    g_autofree char *json_path = g_strdup_printf("%s/%s.json", dir, name);
    bool ok = fmt_save(img, path, NULL, NULL, error);

    fmt_image_unref(img);
    img = ok ? fmt_load(path, error) : NULL;
    if (!img)
        return false;

    struct json_object *json = fmt_export_json(img);
    json_object_to_file_ext(json_path, json,
                            JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    json_object_put(json);
    fmt_image_unref(img);
    return true;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;

    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    if (!write_sample(sample_small(), argv[1], "format-1", &error) ||
        !write_sample(sample_tiny(), argv[1], "format-1-tiny", &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    return 0;
}
