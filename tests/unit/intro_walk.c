// SPDX-License-Identifier: GPL-2.0-or-later
// Lists, trees, xarrays and paths, whole and hostile.
#include "introspect/context.h"

#include "intro_toy.h"

#include <string.h>

// What a walk came by: addresses, or indices and orders.
struct seen {
    unsigned n;
    uint64_t at[512], entry[512];
    unsigned order[512];
};

static bool see_node(struct gva node, void *user, GError **error)
{
    struct seen *s = user;

    g_assert_cmpuint(s->n, <, G_N_ELEMENTS(s->at));
    s->at[s->n++] = node.addr - TOY_BASE;
    return true;
}

static bool see_entry(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    struct seen *s = user;

    g_assert_cmpuint(s->n, <, G_N_ELEMENTS(s->at));
    s->at[s->n] = index;
    s->order[s->n] = order;
    s->entry[s->n++] = entry;
    return true;
}

#define assert_corrupt(ok, error)                                                                  \
    do {                                                                                           \
        g_assert_false(ok);                                                                        \
        g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);                                   \
        g_clear_error(&error);                                                                     \
    } while (0)

/* ---- lists ---- */

static void put_list(struct toy *toy, const uint64_t *nodes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        toy_put(toy, nodes[i], TOY_BASE + nodes[(i + 1) % n], 8);
        toy_put(toy, nodes[i] + 8, TOY_BASE + nodes[(i + n - 1) % n], 8);
    }
}

static void test_list(void)
{
    static const uint64_t nodes[] = {0x100, 0x5000, 0x300, 0x2208};
    struct toy toy;
    struct seen s = {0};
    GError *error = NULL;

    toy_init(&toy, NULL, 0);
    put_list(&toy, nodes, 4);
    g_assert_true(intro_walk_list(toy.k, TOY(0x100), 3, see_node, &s, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(s.n, ==, 3);
    for (unsigned i = 0; i < 3; i++)
        g_assert_cmphex(s.at[i], ==, nodes[i + 1]);

    s.n = 0;
    put_list(&toy, nodes, 1);
    g_assert_true(intro_walk_list(toy.k, TOY(0x100), 0, see_node, &s, &error));
    g_assert_cmpuint(s.n, ==, 0);
    toy_clear(&toy);
}

static void test_list_hostile(void)
{
    static const uint64_t nodes[] = {0x100, 0x5000, 0x300, 0x2208};
    struct toy toy;
    struct seen s = {0};
    GError *error = NULL;

    toy_init(&toy, NULL, 0);
    put_list(&toy, nodes, 4);
    assert_corrupt(intro_walk_list(toy.k, TOY(0x100), 2, see_node, &s, &error), error);

    toy_put(&toy, 0x2208, TOY_BASE + 0x5000, 8); // the last goes back to the first, not to the head
    s.n = 0;
    assert_corrupt(intro_walk_list(toy.k, TOY(0x100), 1 << 30, see_node, &s, &error), error);
    g_assert_cmpuint(s.n, ==, 3);

    toy_put(&toy, 0x2208, TOY_BASE + TOY_BYTES, 8); // beyond RAM
    g_assert_false(intro_walk_list(toy.k, TOY(0x100), 10, see_node, &s, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
    toy_clear(&toy);
}

/* ---- red-black trees ---- */

static void put_rb(struct toy *toy, uint64_t at, uint64_t left, uint64_t right)
{
    toy_put(toy, at + 16, left ? TOY_BASE + left : 0, 8);
    toy_put(toy, at + 8, right ? TOY_BASE + right : 0, 8);
}

static void test_rbtree(void)
{
    struct toy toy;
    struct seen s = {0};
    GError *error = NULL;

    toy_init(&toy, NULL, 0);
    //        0x400
    //   0x200     0x600
    // 0x100 0x300     0x700
    put_rb(&toy, 0x400, 0x200, 0x600);
    put_rb(&toy, 0x200, 0x100, 0x300);
    put_rb(&toy, 0x600, 0, 0x700);
    g_assert_true(intro_walk_rbtree(toy.k, TOY(0x400), 6, see_node, &s, &error));
    g_assert_no_error(error);
    static const uint64_t order[] = {0x100, 0x200, 0x300, 0x400, 0x600, 0x700};
    g_assert_cmpmem(s.at, s.n * 8, order, sizeof(order));

    s.n = 0;
    g_assert_true(intro_walk_rbtree(toy.k, GVA(0), 0, see_node, &s, &error));
    g_assert_cmpuint(s.n, ==, 0);

    assert_corrupt(intro_walk_rbtree(toy.k, TOY(0x400), 5, see_node, &s, &error), error);
    put_rb(&toy, 0x100, 0x400, 0); // a loop to the left
    assert_corrupt(intro_walk_rbtree(toy.k, TOY(0x400), 100, see_node, &s, &error), error);
    put_rb(&toy, 0x100, 0, 0);
    put_rb(&toy, 0x700, 0, 0x600); // and one to the right
    s.n = 0;
    assert_corrupt(intro_walk_rbtree(toy.k, TOY(0x400), 100, see_node, &s, &error), error);
    toy_clear(&toy);
}

/* ---- xarrays ---- */

#define XA   0x40
#define TOP  0x1000
#define LOW  0x2000
#define MANY 0x3000

static void put_node(struct toy *toy, uint64_t at, unsigned shift, unsigned offset, uint64_t parent)
{
    toy_put(toy, at, shift, 1);
    toy_put(toy, at + 1, offset, 1);
    toy_put(toy, at + 8, parent ? TOY_BASE + parent : 0, 8);
}

static void put_slot(struct toy *toy, uint64_t node, unsigned i, uint64_t entry)
{
    toy_put(toy, node + 40 + 8 * i, entry, 8);
}

static uint64_t to_node(uint64_t at)
{
    return TOY_BASE + at + 2;
}

static uint64_t sibling_of(unsigned i)
{
    return (uint64_t)i << 2 | 2;
}

/*
 * TOP (64 indices a slot): slot 0 LOW; slots 8..15 one entry of order 9; slot 20 a value; slot 63
 * a node with a retry entry.
 * LOW: 0, 5 pages; 8..11 one of order 2; 12 a value; 63 a page.
 */
static void put_xarray(struct toy *toy)
{
    toy_put(toy, XA + 8, to_node(TOP), 8);
    put_node(toy, TOP, 6, 0, 0);
    put_slot(toy, TOP, 0, to_node(LOW));
    put_slot(toy, TOP, 8, TOY_BASE + 0x900);
    for (unsigned i = 9; i < 16; i++)
        put_slot(toy, TOP, i, sibling_of(8));
    put_slot(toy, TOP, 20, 0x21);
    put_slot(toy, TOP, 63, to_node(MANY));
    put_node(toy, LOW, 0, 0, TOP);
    put_slot(toy, LOW, 0, TOY_BASE + 0x100);
    put_slot(toy, LOW, 5, TOY_BASE + 0x500);
    put_slot(toy, LOW, 8, TOY_BASE + 0x800);
    for (unsigned i = 9; i < 12; i++)
        put_slot(toy, LOW, i, sibling_of(8));
    put_slot(toy, LOW, 12, 0x31);
    put_slot(toy, LOW, 63, TOY_BASE + 0x6300);
    put_node(toy, MANY, 0, 63, TOP);
    put_slot(toy, MANY, 1, 256 << 2 | 2);
    put_slot(toy, MANY, 2, TOY_BASE + 0x200);
}

static void assert_indices(const struct seen *s, const uint64_t *indices, unsigned n)
{
    g_assert_cmpmem(s->at, s->n * 8, indices, n * 8);
}

static void test_xarray(void)
{
    struct toy toy;
    struct seen s = {0};
    GError *error = NULL;

    toy_init(&toy, NULL, 0);
    put_xarray(&toy);
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 0, UINT64_MAX, see_entry, &s, &error));
    g_assert_no_error(error);
    static const uint64_t all[] = {0, 5, 8, 12, 63, 512, 1280, 4034};
    static const unsigned orders[] = {0, 0, 2, 0, 0, 9, 6, 0};
    assert_indices(&s, all, 8);
    for (unsigned i = 0; i < 8; i++)
        g_assert_cmpuint(s.order[i], ==, orders[i]);
    g_assert_cmphex(s.entry[3], ==, 0x31);
    g_assert_cmphex(s.entry[5], ==, TOY_BASE + 0x900);

    // A range that begins and ends within entries of several indices.
    s.n = 0;
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 10, 600, see_entry, &s, &error));
    assert_indices(&s, all + 2, 4);
    s.n = 0;
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 1000, 1000, see_entry, &s, &error));
    assert_indices(&s, all + 5, 1);
    s.n = 0;
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 6, 7, see_entry, &s, &error));
    assert_indices(&s, all, 0);
    s.n = 0;
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 4096, UINT64_MAX, see_entry, &s, &error));
    assert_indices(&s, all, 0);
    toy_clear(&toy);
}

static void test_xarray_head(void)
{
    struct toy toy;
    struct seen s = {0};
    GError *error = NULL;

    toy_init(&toy, NULL, 0);
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 0, UINT64_MAX, see_entry, &s, &error));
    g_assert_cmpuint(s.n, ==, 0);
    toy_put(&toy, XA + 8, TOY_BASE + 0x100, 8);
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 0, UINT64_MAX, see_entry, &s, &error));
    g_assert_cmpuint(s.n, ==, 1);
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 1, UINT64_MAX, see_entry, &s, &error));
    g_assert_cmpuint(s.n, ==, 1);

    // The topmost node of an array that uses all 64 bits of the index has four slots in use.
    put_node(&toy, TOP, 60, 0, 0);
    put_slot(&toy, TOP, 15, TOY_BASE + 0x100);
    put_slot(&toy, TOP, 16, TOY_BASE + 0x200);
    toy_put(&toy, XA + 8, to_node(TOP), 8);
    s.n = 0;
    g_assert_true(intro_walk_xarray(toy.k, TOY(XA), 0, UINT64_MAX, see_entry, &s, &error));
    g_assert_cmpuint(s.n, ==, 1);
    g_assert_cmphex(s.at[0], ==, 15ull << 60);
    toy_clear(&toy);
}

static void test_xarray_hostile(void)
{
    static const struct {
        uint64_t at, value;
        size_t size_bytes;
    } damages[] = {
        {LOW + 8, TOY_BASE + LOW, 8},           // another parent
        {LOW + 1, 7, 1},                        // another slot
        {LOW, 6, 1},                            // the level of its parent
        {LOW, 3, 1},                            // no level at all
        {TOP, 64, 1},                           // shift past the index
        {TOP + 40, TOY_BASE + TOP + 2, 8},      // itself as a child
        {LOW + 40 + 8, TOY_BASE + MANY + 2, 8}, // a node below the lowest
        {TOP + 40 + 8, TOY_BASE + LOW + 2, 8},  // one node in two slots
    };

    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        struct toy toy;
        struct seen s = {0};
        GError *error = NULL;

        toy_init(&toy, NULL, 0);
        put_xarray(&toy);
        toy_put(&toy, damages[i].at, damages[i].value, damages[i].size_bytes);
        assert_corrupt(intro_walk_xarray(toy.k, TOY(XA), 0, UINT64_MAX, see_entry, &s, &error),
                       error);
        toy_clear(&toy);
    }
}

/* ---- the page cache ---- */

#define INODE     0x100
#define MAPPING   0x200
#define PAGE(pfn) (64ull * (pfn)) // struct page; the first pages of RAM, which holds little else

static void put_page(struct toy *toy, unsigned pfn, uint64_t flags, uint64_t mapping,
                     uint64_t index)
{
    toy_put(toy, PAGE(pfn), flags, 8);
    toy_put(toy, PAGE(pfn) + 24, mapping, 8);
    toy_put(toy, PAGE(pfn) + 32, index, 8);
}

static bool read_first_byte(struct toy *toy, uint64_t index, bool *ret_there, uint8_t *ret,
                            GError **error)
{
    uint8_t page[VMM_PAGE_BYTES];

    if (!intro_pagecache_read(toy->k, TOY(INODE), index, page, ret_there, error))
        return false;
    *ret = page[0];
    return true;
}

static void test_pagecache(void)
{
    struct toy toy;
    GError *error = NULL;
    uint8_t byte;
    bool there;

    toy_init(&toy, NULL, 0);
    toy_put(&toy, INODE + 48, TOY_BASE + MAPPING, 8);
    toy_put(&toy, MAPPING + 16, to_node(LOW), 8);
    put_node(&toy, LOW, 0, 0, 0);
    for (unsigned i = 40; i < TOY_PAGES; i++)
        toy.ram[i * VMM_PAGE_BYTES] = (uint8_t)i;

    put_page(&toy, 40, 1 << 2, TOY_BASE + MAPPING, 3); // a single page
    put_slot(&toy, LOW, 3, TOY_BASE + PAGE(40));
    put_page(&toy, 44, 1 << 2, TOY_BASE + MAPPING, 8); // a folio of four
    put_slot(&toy, LOW, 8, TOY_BASE + PAGE(44));
    for (unsigned i = 9; i < 12; i++)
        put_slot(&toy, LOW, i, sibling_of(8));
    put_page(&toy, 48, 1 << 2, TOY_BASE + MAPPING, 16); // its head under each index, as before 5.16
    for (unsigned i = 16; i < 20; i++)
        put_slot(&toy, LOW, i, TOY_BASE + PAGE(48));
    put_page(&toy, 52, 0, TOY_BASE + MAPPING, 21); // still being read
    put_slot(&toy, LOW, 21, TOY_BASE + PAGE(52));
    put_slot(&toy, LOW, 22, 0x41);            // evicted
    put_page(&toy, 53, 1 << 2, TOY_BASE, 23); // of another file
    put_slot(&toy, LOW, 23, TOY_BASE + PAGE(53));

    static const struct {
        uint64_t index;
        int byte; // -1: not there
    } pages[] = {{3, 40},  {8, 44}, {10, 46}, {11, 47}, {16, 48},
                 {19, 51}, {0, -1}, {21, -1}, {22, -1}};
    for (size_t i = 0; i < G_N_ELEMENTS(pages); i++) {
        g_assert_true(read_first_byte(&toy, pages[i].index, &there, &byte, &error));
        g_assert_no_error(error);
        g_assert_cmpint(there ? byte : -1, ==, pages[i].byte);
    }
    assert_corrupt(read_first_byte(&toy, 23, &there, &byte, &error), error);
    toy_clear(&toy);
}

/* ---- paths ---- */

#define MOUNT_SIZE 0x200

static void put_dentry(struct toy *toy, uint64_t at, uint64_t parent, const char *name)
{
    toy_put(toy, at + 16, 1, 8); // hashed
    toy_put(toy, at + 24, TOY_BASE + parent, 8);
    toy_put(toy, at + 36, strlen(name), 4);
    toy_put(toy, at + 40, TOY_BASE + at + 128, 8);
    memcpy(toy->ram + at + 128, name, strlen(name));
}

static void put_mount(struct toy *toy, uint64_t at, uint64_t above, uint64_t mountpoint,
                      uint64_t root)
{
    toy_put(toy, at + 16, TOY_BASE + above, 8);
    toy_put(toy, at + 24, TOY_BASE + mountpoint, 8);
    toy_put(toy, at + 32, TOY_BASE + root, 8);
    toy_put(toy, at + 232, TOY_BASE, 8); // some namespace
}

// mount A at the top: / d usr; mount B on /usr: / s share; share/doc.
enum {
    A = 0x1000,
    B = 0x1200,
    ROOT_A = 0x2000,
    USR = 0x2200,
    ROOT_B = 0x2400,
    SHARE = 0x2600,
    DOC = 0x2800
};

static void put_tree(struct toy *toy)
{
    put_mount(toy, A, A, ROOT_A, ROOT_A);
    put_mount(toy, B, A, USR, ROOT_B);
    put_dentry(toy, ROOT_A, ROOT_A, "/");
    put_dentry(toy, USR, ROOT_A, "usr");
    put_dentry(toy, ROOT_B, ROOT_B, "/");
    put_dentry(toy, SHARE, ROOT_B, "share");
    put_dentry(toy, DOC, SHARE, "doc");
}

static struct intro_path place(uint64_t mount, uint64_t dentry)
{
    return (struct intro_path){TOY(mount + 32), TOY(dentry)};
}

static void assert_path(struct toy *toy, struct intro_path path, struct intro_path root,
                        const char *expected, bool expected_deleted)
{
    GError *error = NULL;
    bool deleted = !expected_deleted;
    g_autofree char *text = intro_path_str(toy->k, path, root, &deleted, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, expected);
    g_assert_cmpint(deleted, ==, expected_deleted);
}

static void assert_no_path(struct toy *toy, struct intro_path path, struct intro_path root,
                           enum intro_error code)
{
    GError *error = NULL;
    bool deleted;

    g_assert_null(intro_path_str(toy->k, path, root, &deleted, &error));
    g_assert_error(error, INTRO_ERROR, (int)code);
    g_error_free(error);
}

static void test_path(void)
{
    struct toy toy;

    toy_init(&toy, NULL, 0);
    put_tree(&toy);
    assert_path(&toy, place(B, DOC), place(A, ROOT_A), "/usr/share/doc", false);
    assert_path(&toy, place(B, ROOT_B), place(A, ROOT_A), "/usr", false);
    assert_path(&toy, place(A, ROOT_A), place(A, ROOT_A), "/", false);
    assert_path(&toy, place(B, DOC), place(B, SHARE), "/doc", false);
    assert_path(&toy, place(B, SHARE), place(B, SHARE), "/", false);
    toy_put(&toy, DOC + 16, 0, 8); // unhashed
    assert_path(&toy, place(B, DOC), place(A, ROOT_A), "/usr/share/doc", true);
    toy_clear(&toy);
}

static void test_path_unreachable(void)
{
    struct toy toy;

    toy_init(&toy, NULL, 0);
    put_tree(&toy);
    assert_no_path(&toy, place(A, USR), place(B, SHARE), INTRO_ERROR_UNSUPPORTED); // chroot
    toy_put(&toy, B + 16, TOY_BASE + B, 8);                                        // umount -l
    toy_put(&toy, B + 232, 0, 8);
    assert_no_path(&toy, place(B, DOC), place(A, ROOT_A), INTRO_ERROR_UNSUPPORTED);
    toy_put(&toy, B + 32, TOY_BASE + DOC, 8); // a bind mount that SHARE was moved out of
    assert_no_path(&toy, place(B, SHARE), place(A, ROOT_A), INTRO_ERROR_UNSUPPORTED);
    toy_clear(&toy);
}

static void test_path_hostile(void)
{
    struct toy toy;

    toy_init(&toy, NULL, 0);
    put_tree(&toy);
    toy_put(&toy, SHARE + 24, TOY_BASE + DOC, 8); // parents in a circle
    assert_no_path(&toy, place(B, DOC), place(A, ROOT_A), INTRO_ERROR_CORRUPT);
    put_tree(&toy);
    toy_put(&toy, A + 16, TOY_BASE + B, 8); // mounts in a circle
    toy_put(&toy, A + 24, TOY_BASE + DOC, 8);
    assert_no_path(&toy, place(B, DOC), place(A, SHARE), INTRO_ERROR_CORRUPT);
    put_tree(&toy);
    toy_put(&toy, DOC + 36, 0x7fffffff, 4); // a name of 2 GiB
    assert_no_path(&toy, place(B, DOC), place(A, ROOT_A), INTRO_ERROR_CORRUPT);
    toy_clear(&toy);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/list/whole", test_list);
    g_test_add_func("/list/hostile", test_list_hostile);
    g_test_add_func("/rbtree", test_rbtree);
    g_test_add_func("/xarray/whole", test_xarray);
    g_test_add_func("/xarray/head", test_xarray_head);
    g_test_add_func("/xarray/hostile", test_xarray_hostile);
    g_test_add_func("/pagecache", test_pagecache);
    g_test_add_func("/path/whole", test_path);
    g_test_add_func("/path/unreachable", test_path_unreachable);
    g_test_add_func("/path/hostile", test_path_hostile);
    return g_test_run();
}
