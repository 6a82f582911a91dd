// SPDX-License-Identifier: GPL-2.0-or-later
// The swap cache: which slots of a swap area have their page in memory.
#include "introspect/swapcache.h"

#include <string.h>

#include "introspect/reader.h"

/*
 * Until 6.17 the swap cache is xarrays, one for each 16384 slots of an area, by the slot's number
 * (since 6.11 without the bits that the choice of the xarray says). Since 6.18 it is a table for
 * each cluster of slots, whose entries are (mm/swap_table.h):
 *
 *   0                nothing; while there is a swap_map (until 7.0) the slot may be in use
 *   ...1             a shadow: swapped out
 *   ..10             a frame's number above these bits, since 7.0
 *   .000             the address of the struct folio, in 6.18 and 6.19
 *
 * Bits 60 and up are a count since 7.1; when zeros are told by the table, it is by bit 59.
 */

#define SPACE_SHIFT      14 // SWAP_ADDRESS_SPACE_SHIFT
#define MAX_FOLIO_PAGES  512
#define MAX_CLUSTERS     (1u << 20)
#define MAX_TABLE_SLOTS  512
#define TABLE_BAD        (~UINT64_C(0) << 3)
#define TABLE_ZERO       (UINT64_C(1) << 59)
#define TABLE_FRAME_MASK ((UINT64_C(1) << 42) - 1) // of 52 physical bits, and the two of the mark

#define MAX_TWINS     16
#define MAX_LOOKED_AT 4096 // pages in the cache, for as many twins

// 0 where this kernel does not say.
static uint64_t flag(IntroKernel *k, enum intro_const bit)
{
    int64_t n;

    return intro_constant(k, bit, &n) && n >= 0 && n < 64 ? UINT64_C(1) << n : 0;
}

// The frame of a slot, given the first page of the folio that the cache has for it.
static bool check_page(IntroKernel *k, struct gva head, uint64_t slot, struct gpa *ret_frame,
                       GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    const uint64_t flags = rd(&r, head, M_page_flags);
    const uint64_t skip = slot - rd(&r, head, M_page_private);
    struct gva own_head;
    uint64_t pfn;

    if (!rd_done(&r, error) || !intro_page_to_pfn(k, head, &pfn, error) ||
        !intro_page_head(k, intro_pfn_to_page(k, pfn + (skip < MAX_FOLIO_PAGES ? skip : 0)),
                         &own_head, error))
        return false;
    if (skip >= MAX_FOLIO_PAGES || own_head.addr != head.addr) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "page at %#" G_GINT64_MODIFIER "x is not that of swap slot %#" G_GINT64_MODIFIER
                    "x",
                    head.addr, slot);
        return false;
    }
    // Not what the disk has: zswap gives up its copy before it says so.
    if (!(flags & flag(k, C_PG_uptodate))) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "the page of swap slot %#" G_GINT64_MODIFIER "x is being read in", slot);
        return false;
    }
    *ret_frame = GPA((pfn + skip) << VMM_PAGE_SHIFT);
    return true;
}

/* ---- xarrays ---- */

static bool get_space(IntroKernel *k, const struct intro_swap_area *area, uint64_t i,
                      struct gva *ret_xarray, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva spaces, counts;

    if (!intro_symbol(k, "swapper_spaces", &spaces, error) ||
        !intro_symbol(k, "nr_swapper_spaces", &counts, error))
        return false;
    spaces = rd_ptr_at(&r, GVA(spaces.addr + (uint64_t)area->type * 8));
    const uint32_t n = rd_u32_at(&r, GVA(counts.addr + (uint64_t)area->type * 4));
    if (!rd_done(&r, error))
        return false;
    if (!spaces.addr || i >= n) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "swap area %u has no part %" G_GUINT64_FORMAT, area->type, i);
        return false;
    }
    *ret_xarray = intro_member_addr(k, GVA(spaces.addr + i * intro_sizeof(k, T_address_space)),
                                    M_mapping_pages);
    return true;
}

static bool take_entry(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    struct gva *page = user;

    if (!(entry & 1)) // else a shadow
        *page = GVA(entry);
    return true;
}

static bool find_in_space(IntroKernel *k, const struct intro_swap_area *area, uint64_t offset,
                          struct gva *ret_page, GError **error)
{
    const uint64_t index[] = {offset, offset & ((1u << SPACE_SHIFT) - 1)};
    struct gva xa;

    if (!get_space(k, area, offset >> SPACE_SHIFT, &xa, error))
        return false;
    *ret_page = GVA(0);
    // Numbers of either kind are none of the other, except for those that are the same.
    for (size_t i = 0; i < G_N_ELEMENTS(index) && !ret_page->addr; i++) {
        if (!intro_walk_xarray(k, xa, index[i], index[i], take_entry, ret_page, error))
            return false;
    }
    return true;
}

/* ---- tables ---- */

static uint64_t slots_of_table(IntroKernel *k)
{
    return CLAMP(intro_place(k, M_swap_table_entries)->n_elements, 1, MAX_TABLE_SLOTS);
}

// NULL where there is none.
static struct gva table_of(IntroReader *r, const struct intro_swap_area *area, uint64_t cluster)
{
    struct gva clusters = rd_ptr(r, area->info, M_swap_cluster_info);

    return rd_ptr(r, GVA(clusters.addr + cluster * intro_sizeof(r->k, T_swap_cluster_info)),
                  M_swap_cluster_table);
}

// NULL where the entry has none.
static struct gva page_of(IntroKernel *k, uint64_t entry)
{
    if ((entry & 3) == 2)
        return intro_pfn_to_page(k, (entry & TABLE_FRAME_MASK) >> 2);
    return GVA(entry & 7 || entry == TABLE_BAD ? 0 : entry);
}

static bool find_in_table(IntroKernel *k, const struct intro_swap_area *area, uint64_t offset,
                          struct gva *ret_page, bool *ret_zero, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    const uint64_t n = slots_of_table(k);
    struct gva table = table_of(&r, area, offset / n);
    const uint64_t entry = table.addr ? rd_u64_at(&r, GVA(table.addr + offset % n * 8)) : 0;

    if (!rd_done(&r, error))
        return false;
    *ret_page = page_of(k, entry);
    if (!ret_page->addr && !(entry & 1) && (entry || !intro_has(k, M_swap_info_map))) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "page %" G_GUINT64_FORMAT " of swap area %u is not in use", offset, area->type);
        return false;
    }
    *ret_zero = !intro_has(k, M_swap_info_zeromap) && entry & TABLE_ZERO;
    return true;
}

bool intro_swap_cache_find(IntroKernel *k, const struct intro_swap_area *area, uint64_t slot,
                           bool *ret_there, struct gpa *ret_frame, bool *ret_zero, GError **error)
{
    const uint64_t offset = slot & INTRO_SLOT_OFFSET_MASK;
    struct gva page = {0};
    bool zero = false;

    if (!(intro_has(k, M_swap_cluster_table) ? find_in_table(k, area, offset, &page, &zero, error)
                                             : find_in_space(k, area, offset, &page, error)) ||
        (page.addr && !check_page(k, page, slot, ret_frame, error)))
        return false;
    *ret_there = page.addr != 0;
    *ret_zero = zero;
    return true;
}

/* ---- what is in memory and on the device alike ---- */

struct finding {
    IntroKernel *k;
    struct intro_swap_area *area;
    unsigned n_looked_at;
};

static bool is_enough(const struct finding *f)
{
    return f->area->twins->len == MAX_TWINS || f->n_looked_at == MAX_LOOKED_AT;
}

// One word over and over is what many disks have.
static bool is_uniform(const uint8_t page[VMM_PAGE_BYTES])
{
    return memcmp(page, page + 8, VMM_PAGE_BYTES - 8) == 0;
}

// What is written or read is locked until it is under writeback, or has been; who changes it has it
// mapped or makes it dirty.
static bool is_clean(IntroReader *r, struct gva page)
{
    static const enum intro_const none_of[] = {C_PG_locked, C_PG_dirty, C_PG_writeback, C_PG_head};
    const uint64_t flags = rd(r, page, M_page_flags);
    bool clean =
        flags & flag(r->k, C_PG_uptodate) && (uint32_t)rd(r, page, M_page_mapcount) == UINT32_MAX;

    for (size_t i = 0; i < G_N_ELEMENTS(none_of); i++)
        clean &= flag(r->k, none_of[i]) && !(flags & flag(r->k, none_of[i]));
    return clean;
}

static bool look_at(struct finding *f, struct gva page, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(f->k);
    struct intro_swap_area *area = f->area;
    struct intro_disk_gap twin = {.size_bytes = VMM_PAGE_BYTES};
    struct gpa frame;
    uint64_t at;

    if (is_enough(f))
        return true;
    f->n_looked_at++;
    const uint64_t slot = rd(&r, page, M_page_private);
    const uint64_t offset = slot & INTRO_SLOT_OFFSET_MASK;
    const bool clean = is_clean(&r, page);
    if (!rd_done(&r, error))
        return false;
    if (!clean || slot >> INTRO_SLOT_TYPE_SHIFT != area->type)
        return true;
    if (!check_page(f->k, page, slot, &frame, error) ||
        !intro_swap_area_page(area, offset, &at, error))
        return false;
    twin.start = at << VMM_PAGE_SHIFT;
    twin.to = area->twin_data + (size_t)area->twins->len * VMM_PAGE_BYTES;
    if (!vmm_memory_read(intro_kernel_memory(f->k), frame, twin.to, VMM_PAGE_BYTES, error))
        return false;
    if (!is_uniform(twin.to))
        g_array_append_val(area->twins, twin);
    return true;
}

static bool look_at_entry(uint64_t index, unsigned order, uint64_t entry, void *user,
                          GError **error)
{
    return entry & 1 || look_at(user, GVA(entry), error);
}

static bool look_at_table(struct finding *f, uint64_t cluster, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(f->k);
    const uint64_t n = slots_of_table(f->k);
    uint64_t entries[MAX_TABLE_SLOTS];
    struct gva table = table_of(&r, f->area, cluster);

    if (!rd_done(&r, error))
        return false;
    if (!table.addr)
        return true;
    if (!intro_read(f->k, table, entries, n * sizeof(*entries), error))
        return false;
    for (uint64_t i = 0; i < n && !is_enough(f); i++) {
        struct gva page = page_of(f->k, GUINT64_FROM_LE(entries[i]));

        if (page.addr && !look_at(f, page, error))
            return false;
    }
    return true;
}

static bool look_at_part(struct finding *f, uint64_t i, GError **error)
{
    struct gva xa;

    if (intro_has(f->k, M_swap_cluster_table))
        return look_at_table(f, i, error);
    return get_space(f->k, f->area, i, &xa, error) &&
           intro_walk_xarray(f->k, xa, 0, UINT64_MAX, look_at_entry, f, error);
}

bool intro_swap_cache_twins(IntroKernel *k, struct intro_swap_area *area, GError **error)
{
    const uint64_t n =
        intro_has(k, M_swap_cluster_table) ? slots_of_table(k) : UINT64_C(1) << SPACE_SHIFT;
    const uint64_t n_parts = MIN((area->n_pages - 1) / n + 1, MAX_CLUSTERS);
    struct finding finding = {.k = k, .area = area};

    if (area->twins || area->why_not)
        return true;
    area->twins = g_array_new(FALSE, FALSE, sizeof(struct intro_disk_gap));
    area->twin_data = g_malloc(MAX_TWINS * VMM_PAGE_BYTES);
    for (uint64_t i = 0; i < n_parts && !is_enough(&finding); i++) {
        if (!look_at_part(&finding, i, error))
            return false;
    }
    area->disk.twins = (const struct intro_disk_gap *)(const void *)area->twins->data;
    area->disk.n_twins = area->twins->len;
    return true;
}
