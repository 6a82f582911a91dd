// SPDX-License-Identifier: GPL-2.0-or-later
// The flat view of guest memory as QEMU prints it.
#include "vmm/mtree.h"

#include <string.h>

#include "vmm/machine.h"
#include "vmm_data.h"

static const struct vmm_mtree_entry *entry_at(const GArray *entries, guint i)
{
    g_assert_cmpuint(i, <, entries->len);
    return &g_array_index(entries, struct vmm_mtree_entry, i);
}

static void test_recorded(void)
{
    gsize len;
    g_autofree char *text = vmm_data_read("vmm_mtree/qemu-7.2-q35", &len);
    g_autoptr(GArray) entries = vmm_mtree_parse(text, len, NULL);
    const struct vmm_mtree_entry *entry;

    g_assert_nonnull(entries);
    g_assert_cmpuint(entries->len, ==, 24);
    // Of the view "memory", not of SMM's, which has RAM where this has the VGA window.
    entry = entry_at(entries, 0);
    g_assert_cmphex(entry->size_bytes, ==, 0xa0000);
    g_assert_cmpint(entry->type, ==, VMM_MTREE_RAM);
    g_assert_cmpstr(entry->block, ==, "pc.ram");
    g_assert_cmpint(entry_at(entries, 1)->type, ==, VMM_MTREE_OTHER);
    entry = entry_at(entries, 2);
    g_assert_cmpint(entry->type, ==, VMM_MTREE_ROM);
    g_assert_cmphex(entry->offset_bytes, ==, 0xc0000);
    g_assert_cmpstr(entry->block, ==, "pc.ram");
    g_assert_cmpstr(entry_at(entries, 9)->block, ==, "vga.vram");
    g_assert_cmpstr(entry_at(entries, 12)->block, ==, "vga ioports remapped");
}

static void test_split_and_accelerator(void)
{
    static const char text[] =
        "FlatView #0\r\n"
        " AS \"memory\", root: system\r\n"
        " Root memory region: system\r\n"
        "  0000000000000000-00000000bfffffff (prio 0, ram): ram-node0 KVM\r\n"
        "  0000000100000000-000000013fffffff (prio 0, ram): ram-node0 "
        "@00000000c0000000 KVM\r\n"
        "  0000000140000000-00000001bfffffff (prio 0, ram): a, b @ c\r\n";
    g_autoptr(GArray) entries = vmm_mtree_parse(text, strlen(text), NULL);

    g_assert_cmpuint(entries->len, ==, 3);
    g_assert_cmpstr(entry_at(entries, 0)->block, ==, "ram-node0");
    g_assert_cmpstr(entry_at(entries, 1)->block, ==, "ram-node0");
    g_assert_cmphex(entry_at(entries, 1)->start.addr, ==, 0x100000000);
    g_assert_cmphex(entry_at(entries, 1)->size_bytes, ==, 0x40000000);
    g_assert_cmphex(entry_at(entries, 1)->offset_bytes, ==, 0xc0000000);
    g_assert_cmpstr(entry_at(entries, 2)->block, ==, "a, b @ c");
}

static void test_refused(void)
{
    static const char *const bad[] = {
        "",
        "unknown command: 'info mtree'",
        "FlatView #0\n AS \"memory\", root: system\n  No rendered FlatView\n",
        "FlatView #0\n AS \"I/O\", root: io\n"
        "  0000000000000000-0000000000000fff (prio 0, ram): x\n",
        "FlatView #0\n AS \"memory\", root: system\n"
        "  0000000000001000-0000000000000fff (prio 0, ram): x\n",
        "FlatView #0\n AS \"memory\", root: system\n"
        "  0000000000000000-0000000000000fff (prio 0, ram): x\n"
        "  0000000000000800-0000000000001fff (prio 0, ram): x\n",
        "FlatView #0\n AS \"memory\", root: system\n"
        "  0000000000000000-ffffffffffffffff (prio 0, ram): x\n",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(vmm_mtree_parse(bad[i], strlen(bad[i]), &error));
        g_assert_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/mtree/recorded", test_recorded);
    g_test_add_func("/vmm/mtree/split-and-accelerator", test_split_and_accelerator);
    g_test_add_func("/vmm/mtree/refused", test_refused);
    return g_test_run();
}
