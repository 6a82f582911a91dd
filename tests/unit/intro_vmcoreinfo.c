// SPDX-License-Identifier: GPL-2.0-or-later
// VMCOREINFO among its decoys.
#include "introspect/vmcoreinfo.h"

#include <string.h>

#include "intro_fixture.h"
#include "introspect/kernel.h"

#define TEXT                                                                                       \
    "OSRELEASE=6.1.0-test\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffff91c00000\n"                       \
    "NUMBER(phys_base)=-375390208\nSYMBOL(init_top_pgt)=ffffffff93610000\n"                        \
    "NUMBER(pgtable_l5_enabled)=1\nKERNELOFFSET=10c00000\nNUMBER(sme_mask)=140737488355328\n"

static bool collect(const IntroVmcoreinfo *info, void *user)
{
    g_array_append_val(user, info->found_at.addr);
    return true;
}

static GArray *search(struct fixture_ram *ram)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GError) error = NULL;

    g_assert_true(intro_vmcoreinfo_search(ram->mem, collect, found, &error));
    g_assert_no_error(error);
    return found;
}

static void test_parse(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(IntroVmcoreinfo) info = intro_vmcoreinfo_parse(TEXT, sizeof(TEXT), &error);
    uint64_t at;

    g_assert_no_error(error);
    g_assert_cmpstr(info->release, ==, "6.1.0-test");
    g_assert_cmpint((int64_t)info->phys_base, ==, -375390208);
    g_assert_cmphex(info->kaslr_bytes, ==, 0x10c00000);
    g_assert_cmphex(info->sme_mask, ==, 1ull << 47);
    g_assert_cmpuint(info->page_levels, ==, 5);
    g_assert_cmphex(info->stext, ==, 0xffffffff91c00000);
    g_assert_cmphex(info->init_top_pgt, ==, 0xffffffff93610000);
    g_assert_true(intro_vmcoreinfo_symbol(info, "_stext", &at));
    g_assert_false(intro_vmcoreinfo_symbol(info, "stext", &at));
    g_assert_false(intro_vmcoreinfo_symbol(info, "_stex", &at));
}

static void test_malformed(void)
{
    static const char *const texts[] = {
        "",
        "OSRELEASE=",
        "OSRELEASE=%s\nSYMBOL(%s)=%lx\n",
        "OSRELEASE=6.1\nSYMBOL(_stext)=ffffffff91c00000\n",
        "OSRELEASE=6.1\nSYMBOL(_stext)=ffffffff91c00000\nNUMBER(phys_base)=1\n",
        "OSRELEASE=6.1\nSYMBOL(_stext)=zz\nNUMBER(phys_base)=1\nSYMBOL(init_top_pgt)=1\n",
        ("OSRELEASE=6.1\nSYMBOL(_stext)=ffffffffffffffff1\nNUMBER(phys_base)=1\n"
         "SYMBOL(init_top_pgt)=1\n"),
        "OSRELEASE=6.1\x01\nSYMBOL(_stext)=1\nNUMBER(phys_base)=1\nSYMBOL(init_top_pgt)=1\n",
        "SYMBOL(_stext)=1\nNUMBER(phys_base)=1\nSYMBOL(init_top_pgt)=1\n",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(intro_vmcoreinfo_parse(texts[i], strlen(texts[i]), &error));
        g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
    }
}

static void test_search(void)
{
    struct fixture_ram ram;
    g_autoptr(GArray) found = NULL;

    fixture_ram_init(&ram, 16);
    fixture_put_text(&ram, 0x1000, "OSRELEASE=%s\n");      // a format string
    fixture_put_text(&ram, 0x2010, TEXT);                  // not at the start of a page
    fixture_put_note(&ram, 0x3008, TEXT);                  // neither
    fixture_put_text(&ram, 0x4000, "OSRELEASE=6.1\nCRAS"); // cut off
    fixture_put_note(&ram, 0x5000, TEXT);
    fixture_put_text(&ram, 0x7000, TEXT);                             // the same again
    fixture_put_text(&ram, 0x9000, TEXT "SYMBOL(other)=1\n");         // another kernel's
    fixture_put_note(&ram, 0xf000, TEXT "SYMBOL(last)=ffffffff81\n"); // in the last page
    found = search(&ram);
    g_assert_cmpuint(found->len, ==, 3);
    g_assert_cmphex(g_array_index(found, uint64_t, 0), ==, 0x5000);
    g_assert_cmphex(g_array_index(found, uint64_t, 1), ==, 0x9000);
    g_assert_cmphex(g_array_index(found, uint64_t, 2), ==, 0xf000);
    fixture_ram_clear(&ram);
}

// A guest full of fakes: the search ends.
static void test_many(void)
{
    struct fixture_ram ram;
    g_autoptr(GArray) found = NULL;

    fixture_ram_init(&ram, 500);
    for (unsigned i = 0; i < 500; i++) {
        g_autofree char *text = g_strdup_printf(TEXT "SYMBOL(n)=%x\n", i);

        fixture_put_text(&ram, i * VMM_PAGE_BYTES, text);
    }
    found = search(&ram);
    g_assert_cmpuint(found->len, ==, 64);
    fixture_ram_clear(&ram);
}

// No NUL behind it: what follows is not text, up to the end of RAM.
static void test_no_end(void)
{
    struct fixture_ram ram;
    g_autoptr(GArray) found = NULL;

    fixture_ram_init(&ram, 2);
    memset(ram.bytes, 'A', 2 * VMM_PAGE_BYTES);
    fixture_put_text(&ram, 0x1000, TEXT);
    found = search(&ram);
    g_assert_cmpuint(found->len, ==, 0);
    fixture_ram_clear(&ram);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/intro/vmcoreinfo/parse", test_parse);
    g_test_add_func("/intro/vmcoreinfo/malformed", test_malformed);
    g_test_add_func("/intro/vmcoreinfo/search", test_search);
    g_test_add_func("/intro/vmcoreinfo/many", test_many);
    g_test_add_func("/intro/vmcoreinfo/no-end", test_no_end);
    return g_test_run();
}
