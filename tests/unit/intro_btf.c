// SPDX-License-Identifier: GPL-2.0-or-later
// Members found in BTF that libbpf wrote, and in a layout profile of the same structures.
#include <bpf/btf.h>
#include <glib/gstdio.h>
#include <string.h>

#include "introspect/kernel.h"
#include "introspect/types.h"

/*
 *   struct inner { int a; unsigned long b; };
 *   typedef struct { char c; } counter_t;
 *   struct outer {
 *       struct inner in;                     // 0
 *       union { int x; struct { long deep; }; };  // 16
 *       const counter_t count;               // 24
 *       int list[3][2];                      // 28
 *       struct inner many[];                 // 56
 *       ...
 *   };
 */
struct ids {
    int int_id, ulong_id, char_id;
};

static struct ids add_integers(struct btf *btf)
{
    struct ids ids;

    ids.int_id = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
    ids.ulong_id = btf__add_int(btf, "unsigned long", 8, 0);
    ids.char_id = btf__add_int(btf, "char", 1, BTF_INT_SIGNED);
    return ids;
}

static void add_outer(struct btf *btf, const struct ids *ids)
{
    int inner, deep, anonymous, counter, array, flexible, pointer;

    inner = btf__add_struct(btf, "inner", 16);
    btf__add_field(btf, "a", ids->int_id, 0, 0);
    btf__add_field(btf, "b", ids->ulong_id, 64, 0);
    deep = btf__add_struct(btf, NULL, 8);
    btf__add_field(btf, "deep", ids->ulong_id, 0, 0);
    anonymous = btf__add_union(btf, NULL, 8);
    btf__add_field(btf, "x", ids->int_id, 0, 0);
    btf__add_field(btf, NULL, deep, 0, 0);
    counter = btf__add_struct(btf, NULL, 1);
    btf__add_field(btf, "c", ids->char_id, 0, 0);
    counter = btf__add_typedef(btf, "counter_t", counter);
    counter = btf__add_volatile(btf, btf__add_const(btf, counter));
    array = btf__add_array(btf, ids->int_id, ids->int_id, 2);
    array = btf__add_array(btf, ids->int_id, array, 3);
    flexible = btf__add_array(btf, ids->int_id, inner, 0);
    pointer = btf__add_ptr(btf, inner);
    btf__add_struct(btf, "outer", 64);
    btf__add_field(btf, "in", inner, 0, 0);
    btf__add_field(btf, NULL, anonymous, 128, 0);
    btf__add_field(btf, "count", counter, 192, 0);
    btf__add_field(btf, "list", array, 224, 0);
    btf__add_field(btf, "next", pointer, 448, 0);
    btf__add_field(btf, "many", flexible, 512, 0);
}

static IntroTypes *make_types(void (*add)(struct btf *, const struct ids *))
{
    struct btf *btf = btf__new_empty();
    struct ids ids = add_integers(btf);
    g_autoptr(GError) error = NULL;
    const void *raw;
    IntroTypes *types;
    uint32_t len;

    add(btf, &ids);
    raw = btf__raw_data(btf, &len);
    types = intro_types_from_btf(raw, len, &error);
    g_assert_no_error(error);
    btf__free(btf);
    return types;
}

struct want {
    const char *type, *path; // size_bytes 0 and n_elements 1: must not be found
    struct intro_place place;
};

static void check(const IntroTypes *types, const struct want *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct intro_place p = {0}, w = want[i].place;
        bool found = types->ops->member(types, want[i].type, want[i].path, &p);

        g_test_message("%s.%s", want[i].type, want[i].path);
        g_assert_true(found == w.present);
        if (!found)
            continue;
        g_assert_cmpuint(p.offset, ==, w.offset);
        g_assert_cmpuint(p.size_bytes, ==, w.size_bytes);
        g_assert_cmpuint(p.n_elements, ==, w.n_elements);
        g_assert_cmpuint(p.bit_offset, ==, w.bit_offset);
        g_assert_cmpuint(p.bit_size, ==, w.bit_size);
        g_assert_true(p.is_signed == w.is_signed);
    }
}

#define AT(at, size, n, sign)                                                                      \
    {                                                                                              \
        .present = true, .offset = at, .size_bytes = size, .n_elements = n, .is_signed = sign      \
    }

static const struct want outer_members[] = {
    {"outer", "in", AT(0, 16, 1, false)},
    {"outer", "in.a", AT(0, 4, 1, true)},
    {"outer", "in.b", AT(8, 8, 1, false)},
    {"outer", "x", AT(16, 4, 1, true)},
    {"outer", "deep", AT(16, 8, 1, false)},
    {"outer", "count", AT(24, 1, 1, false)},
    {"outer", "count.c", AT(24, 1, 1, true)},
    {"counter_t", "c", AT(0, 1, 1, true)},
    {"outer", "list", AT(28, 24, 6, false)},
    {"outer", "next", AT(56, 8, 1, false)},
    {"outer", "many", AT(64, 0, 0, false)},
    {"outer", "many.b", AT(72, 8, 1, false)},
    {"outer", "next.a", {0}}, // never through a pointer
    {"outer", "in.c", {0}},
    {"outer", "i", {0}},
    {"outer", "", {0}},
    {"outer", "x.y", {0}},
    {"int", "a", {0}},
    {"nobody", "a", {0}},
};

static void test_members(void)
{
    g_autoptr(IntroTypes) types = make_types(add_outer);
    uint32_t size;

    check(types, outer_members, G_N_ELEMENTS(outer_members));
    g_assert_true(types->ops->size(types, "outer", &size));
    g_assert_cmpuint(size, ==, 64);
    g_assert_true(types->ops->size(types, "counter_t", &size));
    g_assert_cmpuint(size, ==, 1);
    g_assert_false(types->ops->size(types, "nobody", &size));
}

// Both encodings of a bitfield: in the member (kind_flag), in a type of its own.
static void add_bitfields(struct btf *btf, const struct ids *ids)
{
    struct btf_type *narrow;
    int id;

    btf__add_struct(btf, "flagged", 16);
    btf__add_field(btf, "plain", ids->int_id, 0, 0);
    btf__add_field(btf, "low", ids->int_id, 32, 3);
    btf__add_field(btf, "high", ids->ulong_id, 35, 13);
    btf__add_field(btf, "wide", ids->ulong_id, 64, 61);

    id = btf__add_int(btf, "unsigned char", 1, 0);
    narrow = (struct btf_type *)btf__type_by_id(btf, id);
    *(uint32_t *)(narrow + 1) = 1 << 16 | 5; // 5 bits of it, from the second on
    btf__add_struct(btf, "unflagged", 4);
    btf__add_field(btf, "five", id, 8, 0);
}

static void test_bitfields(void)
{
    static const struct want members[] = {
        {"flagged", "plain", AT(0, 4, 1, true)},
        {"flagged",
         "low",
         {.present = true,
          .offset = 4,
          .size_bytes = 1,
          .bit_size = 3,
          .n_elements = 1,
          .is_signed = true}},
        {"flagged",
         "high",
         {.present = true,
          .offset = 4,
          .size_bytes = 2,
          .bit_offset = 3,
          .bit_size = 13,
          .n_elements = 1}},
        {"flagged",
         "wide",
         {.present = true, .offset = 8, .size_bytes = 8, .bit_size = 61, .n_elements = 1}},
        {"unflagged",
         "five",
         {.present = true,
          .offset = 1,
          .size_bytes = 1,
          .bit_offset = 1,
          .bit_size = 5,
          .n_elements = 1}},
    };
    g_autoptr(IntroTypes) types = make_types(add_bitfields);

    check(types, members, G_N_ELEMENTS(members));
}

static void add_enums(struct btf *btf, const struct ids *ids)
{
    btf__add_enum(btf, "state", 4);
    btf__add_enum_value(btf, "SYSTEM_BOOTING", 0);
    btf__add_enum_value(btf, "SYSTEM_RUNNING", 3);
    btf__add_enum64(btf, "big", 8, false);
    btf__add_enum64_value(btf, "BIG", 1ull << 40);
    btf__add_enum(btf, NULL, 4);
    btf__add_enum_value(btf, "NEGATIVE", -1);
}

static void test_constants(void)
{
    g_autoptr(IntroTypes) types = make_types(add_enums);
    int64_t v;

    g_assert_true(types->ops->constant(types, "SYSTEM_RUNNING", &v));
    g_assert_cmpint(v, ==, 3);
    g_assert_true(types->ops->constant(types, "BIG", &v));
    g_assert_cmpint(v, ==, 1ll << 40);
    g_assert_true(types->ops->constant(types, "NEGATIVE", &v));
    g_assert_cmpint((int32_t)v, ==, -1);
    g_assert_false(types->ops->constant(types, "state", &v));
}

// Two structures of one name: the member decides.
static void add_namesakes(struct btf *btf, const struct ids *ids)
{
    btf__add_struct(btf, "node", 4);
    btf__add_field(btf, "mine", ids->int_id, 0, 0);
    btf__add_struct(btf, "node", 16);
    btf__add_field(btf, "other", ids->ulong_id, 64, 0);
}

static void test_namesakes(void)
{
    static const struct want members[] = {
        {"node", "mine", AT(0, 4, 1, true)},
        {"node", "other", AT(8, 8, 1, false)},
    };
    g_autoptr(IntroTypes) types = make_types(add_namesakes);

    check(types, members, G_N_ELEMENTS(members));
}

// Structures that hold themselves, typedefs that go in circles.
static void add_loops(struct btf *btf, const struct ids *ids)
{
    int id = btf__add_struct(btf, "loop", 8);

    btf__add_field(btf, "before", ids->int_id, 0, 0);
    for (unsigned i = 0; i < 100; i++)
        btf__add_field(btf, NULL, id, 0, 0);
    id = btf__type_cnt(btf);
    btf__add_typedef(btf, "circle", id + 1);
    btf__add_typedef(btf, "circle2", id);
    btf__add_struct(btf, "holder", 8);
    btf__add_field(btf, "c", id, 0, 0);
    btf__add_field(btf, "missing", 1000000, 0, 0);
}

static void test_loops(void)
{
    static const struct want members[] = {
        {"loop", "before", AT(0, 4, 1, true)},
        {"loop", "nothing", {0}},
        {"holder", "c", {0}},
        {"holder", "c.x", {0}},
        {"holder", "missing", {0}},
    };
    g_autoptr(IntroTypes) types = make_types(add_loops);

    check(types, members, G_N_ELEMENTS(members));
}

static void test_damaged(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(intro_types_from_btf("not BTF at all, but long enough", 31, &error));
    g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
}

// Everything that layout.def requires and this kernel does not have, in one error.
static void test_missing(void)
{
    g_autoptr(IntroTypes) types = make_types(add_outer);
    g_autofree struct intro_layout *layout = g_new0(struct intro_layout, 1);
    g_autoptr(GError) error = NULL;

    g_assert_false(intro_layout_resolve(types, layout, &error));
    g_assert_error(error, INTRO_ERROR, INTRO_ERROR_LAYOUT);
    g_assert_nonnull(strstr(error->message, "task_struct.pid"));
    g_assert_nonnull(strstr(error->message, "new_utsname.release"));
}

static IntroTypes *load_profile(const char *json, GError **error)
{
    g_autofree char *dir = g_dir_make_tmp("intro-btf-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "profile.json", NULL), *release = NULL;
    IntroTypes *types;

    g_assert_true(g_file_set_contents(path, json, -1, NULL));
    types = intro_types_from_profile(path, &release, error);
    if (types)
        g_assert_cmpstr(release, ==, "6.1-test");
    g_unlink(path);
    g_rmdir(dir);
    return types;
}

static void test_profile(void)
{
    static const struct want members[] = {
        {"outer", "in.a", AT(0, 4, 1, true)},
        {"outer", "list", AT(28, 24, 6, false)},
        {"outer",
         "bits",
         {.present = true,
          .offset = 4,
          .size_bytes = 2,
          .bit_offset = 3,
          .bit_size = 13,
          .n_elements = 1}},
        {"outer", "negative", {0}},
        {"outer", "no_size", {0}},
        {"outer", "too_many_bits", {0}},
        {"outer", "nothing", {0}},
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(IntroTypes) types = load_profile(
        "{\"release\": \"6.1-test\", \"members\": {"
        "\"outer.in.a\": {\"offset\": 0, \"size\": 4, \"signed\": true},"
        "\"outer.list\": {\"offset\": 28, \"size\": 24, \"elements\": 6},"
        "\"outer.bits\": {\"offset\": 4, \"size\": 2, \"bit_offset\": 3, \"bit_size\": 13},"
        "\"outer.negative\": {\"offset\": -1, \"size\": 4},"
        "\"outer.no_size\": {\"offset\": 1},"
        "\"outer.too_many_bits\": {\"offset\": 1, \"size\": 1, \"bit_size\": 9}},"
        "\"types\": {\"outer\": 64, \"wrong\": \"64\"}, \"constants\": {\"PG_locked\": 0}}",
        &error);
    uint32_t size;
    int64_t v;

    g_assert_no_error(error);
    check(types, members, G_N_ELEMENTS(members));
    g_assert_true(types->ops->size(types, "outer", &size));
    g_assert_false(types->ops->size(types, "wrong", &size));
    g_assert_true(types->ops->constant(types, "PG_locked", &v));
    g_assert_false(types->ops->constant(types, "PG_dirty", &v));
}

static void test_bad_profile(void)
{
    static const char *const texts[] = {"", "{", "[]", "{\"release\": 1}",
                                        "{\"release\": \"6.1-test\"}"};

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(load_profile(texts[i], &error));
        g_assert_error(error, INTRO_ERROR, INTRO_ERROR_NO_TYPES);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/intro/btf/members", test_members);
    g_test_add_func("/intro/btf/bitfields", test_bitfields);
    g_test_add_func("/intro/btf/constants", test_constants);
    g_test_add_func("/intro/btf/namesakes", test_namesakes);
    g_test_add_func("/intro/btf/loops", test_loops);
    g_test_add_func("/intro/btf/damaged", test_damaged);
    g_test_add_func("/intro/btf/missing", test_missing);
    g_test_add_func("/intro/profile", test_profile);
    g_test_add_func("/intro/profile/malformed", test_bad_profile);
    return g_test_run();
}
