// SPDX-License-Identifier: GPL-2.0-or-later
// Page tables as data: 4 and 5 levels, huge pages, PROT_NONE, swap, and tables that lie.
#include "introspect/pagetable.h"
#include "introspect/swap.h"

#include "intro_fixture.h"

#define P         0x1ull   // present
#define RW        0x2ull   // writable
#define PSE       0x80ull  // huge (in a PTE: PAT)
#define PROTNONE  0x100ull // present for the kernel only
#define NX        (1ull << 63)
#define INV(pfn)  (~((pfn) << 12) & 0x000ffffffffff000ull)
#define MIB       (1ull << 20)
#define GIB       (1ull << 30)
#define RAM_PAGES 2048 // 8 MiB; tables are at 1, 2, ... pages

struct entry {
    unsigned table; // page number
    unsigned index;
    uint64_t entry;
};

struct leaf {
    uint64_t at, size, frame;
    bool present, is_ram;
};

struct fixture {
    const char *name;
    unsigned levels;
    uint64_t sme_mask;
    uint64_t start, end;
    struct entry entries[16];
    struct leaf leaves[8];
    int error; // an intro_error, or -1
};

static const struct fixture fixtures[] = {
    {
        .name = "four-levels",
        .levels = 4,
        .end = 1ull << 47,
        .entries = {{1, 0, 0x2000 | P},
                    {2, 0, 0x3000 | P},
                    {3, 2, 0x4000 | P},
                    {4, 0, 0x9000 | P | RW},
                    {4, 511, 0xa000 | P | NX},
                    {1, 255, 0x5000 | P},
                    {5, 511, 0x6000 | P},
                    {6, 511, 0x7000 | P},
                    {7, 511, 0xb000 | P | PSE},
                    {1, 256, 0x5000 | P}}, // the kernel's half is not walked
        .leaves = {{0x400000, 4096, 0x9000, true, true},
                   {0x5ff000, 4096, 0xa000, true, true},
                   {0x7ffffffff000, 4096, 0xb000, true, true}},
        .error = -1,
    },
    {
        .name = "five-levels",
        .levels = 5,
        .end = 1ull << 56,
        .entries = {{1, 0, 0x2000 | P},
                    {2, 0, 0x3000 | P},
                    {3, 0, 0x4000 | P},
                    {4, 0, 0x5000 | P},
                    {5, 1, 0x9000 | P},
                    {1, 255, 0x6000 | P},
                    {6, 511, 0x7000 | P},
                    {7, 511, 0x8000 | P},
                    {8, 511, 0xc000 | P},
                    {12, 511, 0xa000 | P}},
        .leaves = {{0x1000, 4096, 0x9000, true, true},
                   {0xfffffffffff000, 4096, 0xa000, true, true}},
        .error = -1,
    },
    {
        .name = "huge",
        .levels = 4,
        .end = 1ull << 47,
        .entries = {{1, 0, 0x2000 | P},
                    {2, 0, 0x3000 | P},
                    {2, 1, GIB | P | PSE},
                    {3, 0, 2 * MIB | P | PSE | 0x1000},
                    {3, 3, 4 * MIB | P | PSE | NX}},
        .leaves = {{0, 2 * MIB, 2 * MIB, true, true}, // bit 12 of a huge entry is PAT
                   {6 * MIB, 2 * MIB, 4 * MIB, true, true},
                   {GIB, GIB, GIB, true, false}},
        .error = -1,
    },
    {
        .name = "a range meets huge pages and skips others",
        .levels = 4,
        .start = 3 * MIB + 0x1000,
        .end = 6 * MIB,
        .entries = {{1, 0, 0x2000 | P},
                    {2, 0, 0x3000 | P},
                    {3, 0, 2 * MIB | P | PSE},
                    {3, 1, 4 * MIB | P | PSE},
                    {3, 2, 0x4000 | P},
                    {3, 3, 6 * MIB | P | PSE},
                    {4, 0, 0x9000 | P},
                    {4, 511, 0xa000 | P}},
        .leaves = {{2 * MIB, 2 * MIB, 4 * MIB, true, true},
                   {4 * MIB, 4096, 0x9000, true, true},
                   {6 * MIB - 4096, 4096, 0xa000, true, true}},
        .error = -1,
    },
    {
        .name = "not for the MMU",
        .levels = 4,
        .end = 1ull << 47,
        .entries = {{1, 0, 0x2000 | P},
                    {2, 0, 0x3000 | P},
                    {3, 0, 0x4000 | P},
                    {4, 1, INV(9ull) | PROTNONE},      // mprotect(PROT_NONE)
                    {4, 2, 0x6ull << 59 | 0x7e00 | 8}, // swapped out
                    {3, 1, INV(512ull) | PSE},         // huge, being split
                    {3, 2, 0x7ull << 59 | 0x7e00}},    // huge, migrating
        .leaves = {{0x1000, 4096, 0x9000, true, true},
                   {0x2000, 4096, 0, false, false},
                   {2 * MIB, 2 * MIB, 2 * MIB, true, true},
                   {4 * MIB, 2 * MIB, 0, false, false}},
        .error = -1,
    },
    {
        .name = "encryption bit",
        .levels = 4,
        .sme_mask = 1ull << 47,
        .end = 1ull << 47,
        .entries = {{1, 0, 0x2000 | P | 1ull << 47},
                    {2, 0, 0x3000 | P | 1ull << 47},
                    {3, 0, 0x4000 | P | 1ull << 47},
                    {4, 0, 0x9000 | P | 1ull << 47},
                    {4, 1, 0xa000 | P}},
        .leaves = {{0, 4096, 0x9000, true, true}, {0x1000, 4096, 0xa000, true, true}},
        .error = -1,
    },
    {
        .name = "a device's memory",
        .levels = 4,
        .end = 1ull << 47,
        .entries =
            {{1, 0, 0x2000 | P}, {2, 0, 0x3000 | P}, {3, 0, 0x4000 | P}, {4, 0, 0xfe000000 | P}},
        .leaves = {{0, 4096, 0xfe000000, true, false}},
        .error = -1,
    },
    {
        .name = "a table outside of RAM",
        .levels = 4,
        .end = 1ull << 47,
        .entries = {{1, 0, 0x2000 | P}, {2, 0, 0xfe000000 | P}},
        .error = INTRO_ERROR_CORRUPT,
    },
    {
        .name = "PSE where there are no leaves",
        .levels = 4,
        .end = 1ull << 47,
        .entries = {{1, 0, 0x2000 | P | PSE}, {2, 0, 0xfe000000 | P}},
        .error = INTRO_ERROR_CORRUPT,
    },
    {
        .name = "not a user range",
        .levels = 4,
        .end = (1ull << 47) + 1,
        .error = INTRO_ERROR_CORRUPT,
    },
    {
        .name = "nothing",
        .levels = 4,
        .start = 0x5000,
        .end = 0x5000,
        .error = -1,
    },
};

struct check {
    const struct fixture *f;
    unsigned n;
};

static bool check_leaf(const struct intro_user_page *page, bool present, void *user)
{
    struct check *c = user;
    const struct leaf *want = &c->f->leaves[c->n++];

    g_assert_cmpuint(c->n, <=, G_N_ELEMENTS(c->f->leaves));
    g_assert_cmphex(page->at.addr, ==, want->at);
    g_assert_cmphex(page->size_bytes, ==, want->size);
    g_assert_cmphex(page->frame.addr, ==, want->frame);
    g_assert_true(present == want->present);
    g_assert_true(page->is_ram == want->is_ram);
    return true;
}

// What a walk says of a place is what a lookup of it says.
static void check_lookups(const struct intro_page_table *pt, const struct fixture *f)
{
    for (unsigned i = 0; f->leaves[i].size; i++) {
        const struct leaf *want = &f->leaves[i];
        struct intro_user_page page;
        bool present;

        g_assert_true(intro_page_table_lookup(pt, GPA(0x1000), GVA(want->at + want->size - 1),
                                              &page, &present, NULL));
        g_assert_cmphex(page.at.addr, ==, want->at);
        g_assert_cmphex(page.frame.addr, ==, want->frame);
        g_assert_true(present == want->present);
    }
}

static void test_fixture(gconstpointer data)
{
    const struct fixture *f = data;
    struct check check = {.f = f};
    struct intro_page_table pt;
    struct fixture_ram ram;
    g_autoptr(GError) error = NULL;
    bool ok;

    fixture_ram_init(&ram, RAM_PAGES);
    for (unsigned i = 0; i < G_N_ELEMENTS(f->entries) && f->entries[i].table; i++)
        fixture_put_u64(&ram, f->entries[i].table * 4096 + f->entries[i].index * 8,
                        f->entries[i].entry);
    pt = (struct intro_page_table){
        .frames = intro_frames_new(ram.mem),
        .levels = f->levels,
        .frame_mask = intro_frame_mask(f->sme_mask),
    };
    ok = intro_page_table_walk(&pt, GPA(0x1000), GVA(f->start), GVA(f->end), check_leaf, &check,
                               &error);
    if (f->error >= 0) {
        g_assert_error(error, INTRO_ERROR, f->error);
    } else {
        g_assert_no_error(error);
        g_assert_cmphex(f->leaves[check.n].size, ==, 0);
        check_lookups(&pt, f);
    }
    g_assert_true(ok == (f->error < 0));
    intro_frames_free(pt.frames);
    fixture_ram_clear(&ram);
}

static bool count_leaf(const struct intro_user_page *page, bool present, void *user)
{
    ++*(uint64_t *)user;
    return true;
}

// Every entry points to the same table: 512 tables of 512 tables, were it believed.
static void test_loop(void)
{
    struct intro_page_table pt = {.levels = 4, .frame_mask = intro_frame_mask(0)};
    g_autoptr(GError) error = NULL;
    struct fixture_ram ram;
    uint64_t n = 0;

    fixture_ram_init(&ram, 64);
    pt.frames = intro_frames_new(ram.mem);
    for (unsigned i = 0; i < 512; i++)
        fixture_put_u64(&ram, 0x1000 + i * 8, 0x1000 | P);
    g_assert_false(
        intro_page_table_walk(&pt, GPA(0x1000), GVA(0), GVA(1ull << 47), count_leaf, &n, &error));
    g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
    g_assert_cmpuint(n, <=, 64 * 512);
    intro_frames_free(pt.frames);
    fixture_ram_clear(&ram);
}

static bool stop(const struct intro_user_page *page, bool present, void *user)
{
    return ++*(uint64_t *)user < 3;
}

static void test_stop(void)
{
    struct intro_page_table pt = {.levels = 4, .frame_mask = intro_frame_mask(0)};
    struct fixture_ram ram;
    uint64_t n = 0;

    fixture_ram_init(&ram, 64);
    pt.frames = intro_frames_new(ram.mem);
    for (unsigned table = 1; table <= 3; table++)
        fixture_put_u64(&ram, table * 0x1000, (table + 1) * 0x1000 | P);
    for (unsigned i = 0; i < 512; i++)
        fixture_put_u64(&ram, 0x4000 + i * 8, 0x9000 | P);
    g_assert_true(intro_page_table_walk(&pt, GPA(0x1000), GVA(0), GVA(1ull << 47), stop, &n, NULL));
    g_assert_cmpuint(n, ==, 3);
    intro_frames_free(pt.frames);
    fixture_ram_clear(&ram);
}

// As the kernel writes them: in page tables with the offset inverted above the low bits, which are
// marks of its own; in xarrays with bit 0 set.
static void test_swap_slots(void)
{
    static const struct {
        uint64_t type, offset;
    } slots[] = {{0, 1}, {0, 0x123456}, {6, 0x3ffffffffffff}, {22, 1ull << 49}, {1, 1ull << 14}};

    for (size_t i = 0; i < G_N_ELEMENTS(slots); i++) {
        const uint64_t slot = slots[i].type << 58 | slots[i].offset;
        const uint64_t marks[] = {0, 0x2, 0x4, 0xe};

        for (size_t j = 0; j < G_N_ELEMENTS(marks); j++) {
            const struct intro_user_page page = {
                .size_bytes = VMM_PAGE_BYTES,
                .entry = slots[i].type << 59 | ~slots[i].offset << 14 >> 5 | marks[j],
            };

            g_assert_true(intro_page_is_swapped(&page));
            g_assert_cmphex(intro_swap_slot_of_pte(page.entry), ==, slot);
        }
        g_assert_cmphex(intro_swap_slot_of_xa(slot << 1 | 1), ==, slot);
    }
    // A marker, a migration, nothing, a huge page on its way.
    const struct intro_user_page others[] = {
        {.size_bytes = VMM_PAGE_BYTES, .entry = 31ull << 59 | 2},
        {.size_bytes = VMM_PAGE_BYTES, .entry = 28ull << 59},
        {.size_bytes = VMM_PAGE_BYTES},
        {.size_bytes = VMM_PAGE_BYTES << 9, .entry = 1ull << 59},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++)
        g_assert_false(intro_page_is_swapped(&others[i]));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(fixtures); i++) {
        g_autofree char *name = g_strdup_printf("/intro/pagetable/%s", fixtures[i].name);

        g_test_add_data_func(g_strdelimit(name, " ", '-'), &fixtures[i], test_fixture);
    }
    g_test_add_func("/intro/pagetable/loop", test_loop);
    g_test_add_func("/intro/pagetable/stop", test_stop);
    g_test_add_func("/intro/pagetable/swap-slots", test_swap_slots);
    return g_test_run();
}
