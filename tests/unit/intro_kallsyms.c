// SPDX-License-Identifier: GPL-2.0-or-later
// kallsyms in each encoding, found by search, and damaged.
#include <string.h>

#include "intro_fixture.h"
#include "introspect/kernel.h"

#define STEXT 0xffffffff81000000ull
#define AT    0xffffffff82000000ull

struct tables {
    GByteArray *bytes;
    struct intro_kallsyms_tables where;
};

static bool read_bytes(void *user, struct gva at, void *ret, size_t len, GError **error)
{
    struct tables *t = user;

    if (at.addr < AT || at.addr - AT > t->bytes->len || len > t->bytes->len - (at.addr - AT)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_FAULT, "outside");
        return false;
    }
    memcpy(ret, t->bytes->data + (at.addr - AT), len);
    return true;
}

// 600 functions, 16 bytes each: three markers. With long: one name of 200 characters.
static GArray *make_symbols(bool percpu, bool long_name)
{
    GArray *symbols = g_array_new(FALSE, FALSE, sizeof(struct fixture_symbol));
    struct fixture_symbol s = {.address = 0x35000, .name = "Apcpu_hot"};

    if (percpu)
        g_array_append_val(symbols, s);
    s = (struct fixture_symbol){.address = STEXT, .name = "T_text"};
    g_array_append_val(symbols, s);
    s.name = "T_stext";
    g_array_append_val(symbols, s);
    for (unsigned i = 1; i <= 600; i++) {
        g_autofree char *name =
            i == 300 && long_name ? g_strnfill(200, 'x') : g_strdup_printf("tsys_call_%u", i);

        s.address = STEXT + 16 * i;
        s.name = g_intern_string(name);
        g_array_append_val(symbols, s);
    }
    s = (struct fixture_symbol){.address = STEXT + 16 * 700, .name = "B_end"};
    g_array_append_val(symbols, s);
    return symbols;
}

static void make_tables(struct tables *t, enum fixture_kallsyms kind, bool short_lengths,
                        bool long_name)
{
    g_autoptr(GArray) symbols = make_symbols(kind < FIXTURE_6_15, long_name);

    t->bytes = g_byte_array_new();
    fixture_kallsyms(kind, short_lengths, (const struct fixture_symbol *)symbols->data,
                     symbols->len, AT, t->bytes, &t->where);
}

static void check_symbols(const IntroKallsyms *syms, bool percpu)
{
    uint64_t at, offset;

    g_assert_true(intro_kallsyms_find(syms, "_stext", &at));
    g_assert_cmphex(at, ==, STEXT);
    g_assert_true(intro_kallsyms_find(syms, "sys_call_600", &at));
    g_assert_cmphex(at, ==, STEXT + 9600);
    g_assert_false(intro_kallsyms_find(syms, "sys_call_601", &at));
    g_assert_true(intro_kallsyms_find(syms, "pcpu_hot", &at) == percpu);
    if (percpu)
        g_assert_cmphex(at, ==, 0x35000);

    g_assert_cmpstr(intro_kallsyms_at(syms, STEXT + 16 * 7 + 5, &offset), ==, "sys_call_7");
    g_assert_cmpuint(offset, ==, 5);
    g_assert_cmpstr(intro_kallsyms_at(syms, STEXT, NULL), ==, "_text"); // the first of two
    g_assert_null(intro_kallsyms_at(syms, STEXT - 1, NULL));
    g_assert_null(intro_kallsyms_at(syms, STEXT + 16 * 700, NULL)); // _end
    g_assert_null(intro_kallsyms_at(syms, 0x35000, NULL));
}

static void test_encodings(void)
{
    for (unsigned kind = FIXTURE_6_1; kind <= FIXTURE_7_0; kind++) {
        for (unsigned lengths = 0; lengths < 2; lengths++) {
            g_autoptr(IntroKallsyms) syms = NULL;
            g_autoptr(GError) error = NULL;
            struct tables t;

            make_tables(&t, kind, lengths, true);
            syms = intro_kallsyms_new(&t.where, STEXT, read_bytes, &t, &error);
            g_assert_no_error(error);
            g_assert_cmpuint(intro_kallsyms_count(syms), ==, 603 + (kind < FIXTURE_6_15));
            check_symbols(syms, kind < FIXTURE_6_15);
            g_byte_array_unref(t.bytes);
        }
    }
}

static void test_wrong_stext(void)
{
    g_autoptr(IntroKallsyms) syms = NULL;
    g_autoptr(GError) error = NULL;
    struct tables t;

    make_tables(&t, FIXTURE_6_1, false, false);
    syms = intro_kallsyms_new(&t.where, STEXT + 0x1000, read_bytes, &t, &error);
    g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
    g_byte_array_unref(t.bytes);
}

// Each table cut off, or its bytes replaced: an error, or symbols that were not touched; no crash.
static void test_damage(void)
{
    for (unsigned step = 0; step < 400; step++) {
        g_autoptr(IntroKallsyms) syms = NULL;
        struct tables t;
        uint64_t at;

        make_tables(&t, step % 4, false, true);
        if (step % 2)
            g_byte_array_set_size(t.bytes, t.bytes->len * step / 400);
        else
            memset(t.bytes->data + (size_t)t.bytes->len * step / 401, 0xff, 16);
        syms = intro_kallsyms_new(&t.where, STEXT, read_bytes, &t, NULL);
        if (syms) {
            g_assert_true(intro_kallsyms_find(syms, "_stext", &at));
            g_assert_cmphex(at, ==, STEXT);
        }
        g_byte_array_unref(t.bytes);
    }
}

static void test_search(void)
{
    g_autoptr(GByteArray) image = g_byte_array_new();
    struct intro_kallsyms_tables found;
    g_autoptr(GError) error = NULL;
    struct tables t;

    // A decoy first: the digits, and nothing around them that agrees.
    g_byte_array_set_size(image, 4096);
    memset(image->data, 'a', image->len);
    for (unsigned i = 0; i < 10; i++) {
        image->data[1000 + 2 * i] = '0' + i;
        image->data[1001 + 2 * i] = '\0';
    }
    make_tables(&t, FIXTURE_6_1, true, true);
    g_byte_array_append(image, t.bytes->data, t.bytes->len);
    g_assert_true(
        intro_kallsyms_tables_search(image->data, image->len, GVA(AT - 4096), &found, &error));
    g_assert_no_error(error);
    g_assert_cmpmem(&found, sizeof(found), &t.where, sizeof(t.where));

    g_assert_false(intro_kallsyms_tables_search(image->data, 4096 + 5000, GVA(AT), &found, &error));
    g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
    g_byte_array_unref(t.bytes);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/intro/kallsyms/encodings", test_encodings);
    g_test_add_func("/intro/kallsyms/wrong-stext", test_wrong_stext);
    g_test_add_func("/intro/kallsyms/damage", test_damage);
    g_test_add_func("/intro/kallsyms/search", test_search);
    return g_test_run();
}
