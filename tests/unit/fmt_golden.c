// SPDX-License-Identifier: GPL-2.0-or-later
// Images that earlier versions wrote are read for ever, and say what they always said.
#include <string.h>

#include "fmt_sample.h"
#include "formats/export.h"

static const char *golden_dir;

// Whether all of `want` is in `have`; records may have got fields since.
static bool includes(struct json_object *have, struct json_object *want)
{
    if (json_object_is_type(want, json_type_object)) {
        json_object_object_foreach(want, key, value)
        {
            struct json_object *mine;

            if (!json_object_object_get_ex(have, key, &mine) || !includes(mine, value)) {
                g_test_message("%s: %s, not %s", key, json_object_to_json_string(mine),
                               json_object_to_json_string(value));
                return false;
            }
        }
        return true;
    }
    if (!json_object_is_type(want, json_type_array))
        return json_object_equal(have, want);
    if (json_object_array_length(have) != json_object_array_length(want))
        return false;
    for (size_t i = 0; i < json_object_array_length(want); i++) {
        if (!includes(json_object_array_get_idx(have, i), json_object_array_get_idx(want, i)))
            return false;
    }
    return true;
}

static void check(const char *name)
{
    g_autofree char *path = g_strdup_printf("%s/%s.vmgraft", golden_dir, name);
    g_autofree char *json_path = g_strdup_printf("%s/%s.json", golden_dir, name);
    g_autoptr(GError) error = NULL;
    g_autoptr(FmtImage) img = fmt_load(path, &error);

    g_assert_no_error(error);
    struct json_object *have = fmt_export_json(img);
    struct json_object *want = json_object_from_file(json_path);
    if (!want)
        g_error("%s: %s", json_path, json_util_get_last_err());
    g_assert_true(includes(have, want));
    json_object_put(have);
    json_object_put(want);
}

static void test_format_1(void)
{
    check("format-1");
    check("format-1-tiny");
}

// As long as the format is the same, what is written now is what was written then.
static void test_still_written(void)
{
    g_autofree char *path = g_strdup_printf("%s/format-1-tiny.vmgraft", golden_dir);
    g_autoptr(FmtImage) old = fmt_load(path, NULL);
    g_autoptr(FmtImage) now = sample_tiny();

    sample_assert_equal(old, now);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 2);
    golden_dir = argv[1];
    g_test_add_func("/golden/format-1", test_format_1);
    g_test_add_func("/golden/still-written", test_still_written);
    return g_test_run();
}
