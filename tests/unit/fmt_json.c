// SPDX-License-Identifier: GPL-2.0-or-later
// JSON and text of an image.
#include <string.h>

#include "fmt_sample.h"
#include "formats/export.h"
#include "formats/summary.h"

static struct json_object *get(struct json_object *json, const char *name)
{
    struct json_object *value = NULL;

    if (!json_object_object_get_ex(json, name, &value))
        g_error("no \"%s\"", name);
    return value;
}

static struct json_object *get_nth(struct json_object *json, const char *name, size_t i)
{
    return json_object_array_get_idx(get(json, name), i);
}

static void test_fields(void)
{
    g_autoptr(FmtImage) img = sample_tiny();
    struct fmt_pipe *pipe = fmt_image_add(img, FMT_PIPE);
    struct fmt_proc *proc = fmt_image_nth(img, FMT_PROC, 0);

    pipe->data = g_bytes_new_static("\0\1\2", 3);
    proc->cmdline = g_strdup("caf\xe9");
    struct json_object *json = fmt_export_json(img);

    g_assert_cmpint(json_object_get_int(get(get(json, "head"), "root_pid")), ==, 42);
    g_assert_cmpstr(json_object_get_string(get(get_nth(json, "task", 0), "rip")), ==, "0x400000");
    g_assert_cmpint(json_object_get_int(get(get_nth(json, "task", 0), "syscall")), ==, -1);
    g_assert_null(get(get_nth(json, "task", 0), "xsave"));
    g_assert_cmpstr(json_object_get_string(get(get_nth(json, "pipe", 0), "data_base64")), ==,
                    "AAEC");
    g_assert_cmpstr(json_object_get_string(get(get_nth(json, "proc", 0), "cmdline")), ==,
                    "caf\xef\xbf\xbd");
    g_assert_cmpstr(json_object_get_string(get(get_nth(json, "proc", 0), "cmdline_base64")), ==,
                    "Y2Fm6Q==");
    g_assert_cmpint(json_object_get_int(get(get_nth(json, "pages", 0), "n_pages")), ==, 1);
    json_object_put(json);
}

static void test_all(void)
{
    g_autoptr(FmtImage) img = sample_full();
    struct json_object *json = fmt_export_json(img);
    struct json_object *again = json_tokener_parse(json_object_to_json_string(json));

    g_assert_true(json_object_equal(json, again));
    json_object_put(again);
    json_object_put(json);
}

static void test_summary(void)
{
    g_autoptr(FmtImage) tiny = sample_tiny();
    g_autoptr(FmtImage) full = sample_full();
    g_autofree char *text = fmt_image_summary(tiny);
    g_autofree char *more = fmt_image_summary(full);

    g_assert_nonnull(
        strstr(text, "process 42 (spin): 1 thread, 0 descriptors, 1 mapping, 4.0 KiB"));
    g_assert_nonnull(strstr(more, "text of 3"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json/fields", test_fields);
    g_test_add_func("/json/all", test_all);
    g_test_add_func("/json/summary", test_summary);
    return g_test_run();
}
