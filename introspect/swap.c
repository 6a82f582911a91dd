// SPDX-License-Identifier: GPL-2.0-or-later
// Pages that are swapped out: in the swap cache, zeros, or on a disk.
#include "introspect/swap.h"

#include <string.h>

#include "introspect/pages.h"
#include "introspect/reader.h"
#include "introspect/swapcache.h"

/*
 * What is looked at, in this order:
 *
 *   the swap cache   a page on its way out, or in: what it holds is the newest there is
 *   zeros            since 6.12 a page of zeros is not written, and a bit says so
 *   zswap            keeps pages compressed: where it has any, a slot's is perhaps there
 *   the area         on a block device: all that was written there is in place, because the page
 *                    stays in the swap cache until it is
 */

#define PTE_TYPE_SHIFT   59 // arch/x86/include/asm/pgtable_64.h; the offset is inverted
#define PTE_OFFSET_SHIFT 9
#define PTE_OFFSET_BITS  50

#define MAX_ITEMS (1u << 24)

uint64_t intro_swap_slot_of_pte(uint64_t entry)
{
    const uint64_t offset = ~(entry >> PTE_OFFSET_SHIFT) & ((UINT64_C(1) << PTE_OFFSET_BITS) - 1);

    return entry >> PTE_TYPE_SHIFT << INTRO_SLOT_TYPE_SHIFT | offset;
}

uint64_t intro_swap_slot_of_xa(uint64_t entry)
{
    return entry >> 1;
}

// A page that a disk has.
struct item {
    struct intro_swap_owner owner;
    enum fmt_pages_kind kind;
    bool zero;
    unsigned area;
    uint64_t page; // of the area's device
};

struct intro_swap {
    struct intro_ctx *c;
    struct intro_swap_area *areas[INTRO_SWAP_MAX_AREAS];
    GArray *items;     // struct item, in the order of the walk
    GHashTable *pages; // slot -> its page, of those that were looked into
};

static struct intro_swap *state_of(struct intro_ctx *c)
{
    if (!c->swap) {
        c->swap = g_new0(struct intro_swap, 1);
        c->swap->c = c;
        c->swap->items = g_array_new(FALSE, FALSE, sizeof(struct item));
        c->swap->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    }
    return c->swap;
}

static struct intro_swap_area *area_of(struct intro_swap *s, uint64_t slot, GError **error)
{
    const uint64_t type = slot >> INTRO_SLOT_TYPE_SHIFT;

    if (type >= INTRO_SWAP_MAX_AREAS) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "there is no swap area %" G_GUINT64_FORMAT, type);
        return NULL;
    }
    if (!s->areas[type])
        s->areas[type] = intro_swap_area_read(s->c->k, (unsigned)type, error);
    return s->areas[type];
}

static bool is_zero_by_map(IntroKernel *k, const struct intro_swap_area *area, uint64_t offset,
                           bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);

    if (!intro_has(k, M_swap_info_zeromap))
        return true;
    struct gva map = rd_ptr(&r, area->info, M_swap_info_zeromap);
    *ret = map.addr && rd_u64_at(&r, GVA(map.addr + offset / 64 * 8)) >> offset % 64 & 1;
    return rd_done(&r, error);
}

/* ---- where a slot's page is ---- */

struct where {
    bool cached; // at frame
    bool zero;
    struct gpa frame;
    unsigned area;
    uint64_t page; // of its device, where it is neither
};

static bool check_zswap(IntroKernel *k, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva stored;

    const bool counts = intro_symbol(k, "zswap_stored_pages", &stored, NULL);
    const bool has_zswap =
        intro_has_symbol(k, "zswap_load") || intro_has_symbol(k, "zswap_frontswap_load");

    const uint32_t n = counts ? rd_u32_at(&r, stored) : has_zswap;
    if (!rd_done(&r, error))
        return false;
    if (n)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_SWAPPED,
                    "is swapped out, and zswap keeps such pages compressed");
    return !n;
}

static bool find(struct intro_swap *s, uint64_t slot, struct where *ret, GError **error)
{
    IntroKernel *k = s->c->k;
    const uint64_t offset = slot & INTRO_SLOT_OFFSET_MASK;
    struct intro_swap_area *area = area_of(s, slot, error);

    if (!area)
        return false;
    if (offset == 0 || offset >= area->n_pages) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "swap slot %#" G_GINT64_MODIFIER "x is outside of its area", slot);
        return false;
    }
    *ret = (struct where){.area = area->type};
    if (!intro_swap_cache_find(k, area, slot, &ret->cached, &ret->frame, &ret->zero, error))
        return false;
    if (ret->cached)
        return true;
    if (!ret->zero && !is_zero_by_map(k, area, offset, &ret->zero, error))
        return false;
    return ret->zero || (check_zswap(k, error) && intro_swap_cache_twins(k, area, error) &&
                         intro_swap_area_check(area, s->c->opt->disks != NULL, error) &&
                         intro_swap_area_page(area, offset, &ret->page, error));
}

bool intro_swap_can(struct intro_ctx *c, uint64_t slot, bool *ret, GError **error)
{
    struct where where;
    GError *why = NULL;

    *ret = find(state_of(c), slot, &where, &why);
    if (*ret || g_error_matches(why, INTRO_ERROR, INTRO_ERROR_SWAPPED)) {
        g_clear_error(&why);
        return true;
    }
    g_propagate_error(error, why);
    return false;
}

bool intro_swap_want(struct intro_ctx *c, uint64_t slot, struct intro_swap_owner owner,
                     enum fmt_pages_kind kind, GError **error)
{
    struct where where;

    if (!find(state_of(c), slot, &where, error))
        return false;
    if (where.cached) {
        intro_pages_want(c->pages, owner.ref, owner.start, where.frame, VMM_PAGE_BYTES, kind);
        return true;
    }
    const struct item item = {
        .owner = owner, .kind = kind, .zero = where.zero, .area = where.area, .page = where.page};
    if (c->opt->records_only)
        return true;
    if (c->swap->items->len == MAX_ITEMS) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_SWAPPED,
                    "is swapped out, and that is more than can be read");
        return false;
    }
    g_array_append_val(c->swap->items, item);
    return true;
}

/* ---- reading ---- */

static bool read_disk(struct intro_swap *s, unsigned area, const struct intro_disk_gap *pages,
                      size_t n, GError **error)
{
    const struct intro_disks *disks = s->c->opt->disks;
    struct intro_disk_swap swap;
    GError *why = NULL;

    if (n == 0) // where the area may not be known either
        return true;
    swap = s->areas[area]->disk;
    swap.pages = pages;
    swap.n_pages = n;
    if (disks->read_swap(disks->user, &swap, &why))
        return true;
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_SWAPPED,
                "is swapped out to %s, which cannot be read: %s", s->areas[area]->name,
                why->message);
    g_error_free(why);
    return false;
}

// For intro_read_user().
static bool read_slot(void *user, uint64_t entry, uint8_t ret[VMM_PAGE_BYTES], GError **error)
{
    struct intro_ctx *c = user;
    struct intro_swap *s = state_of(c);
    const uint64_t slot = intro_swap_slot_of_pte(entry);
    const uint8_t *known = g_hash_table_lookup(s->pages, &slot);
    struct where where;

    if (known) {
        memcpy(ret, known, VMM_PAGE_BYTES);
        return true;
    }
    if (!find(s, slot, &where, error))
        return false;
    memset(ret, 0, VMM_PAGE_BYTES);
    if (where.cached)
        return vmm_memory_read(intro_kernel_memory(c->k), where.frame, ret, VMM_PAGE_BYTES, error);
    const struct intro_disk_gap gap = {where.page << VMM_PAGE_SHIFT, VMM_PAGE_BYTES, ret};
    if (!where.zero && !read_disk(s, where.area, &gap, 1, error))
        return false;
    g_hash_table_insert(s->pages, g_memdup2(&slot, sizeof(slot)), g_memdup2(ret, VMM_PAGE_BYTES));
    return true;
}

void intro_swap_begin(struct intro_ctx *c)
{
    intro_kernel_set_swap(c->k, read_slot, c);
}

void intro_swap_end(struct intro_ctx *c)
{
    intro_kernel_set_swap(c->k, NULL, NULL);
    if (!c->swap)
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(c->swap->areas); i++)
        intro_swap_area_free(c->swap->areas[i]);
    g_array_unref(c->swap->items);
    g_hash_table_unref(c->swap->pages);
    g_clear_pointer(&c->swap, g_free);
}

static gint by_place(gconstpointer a, gconstpointer b)
{
    const struct intro_disk_gap *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

// `data` has room for all items, in their order.
static bool read_area(struct intro_swap *s, unsigned area, uint8_t *data, GError **error)
{
    g_autoptr(GArray) gaps = g_array_new(FALSE, FALSE, sizeof(struct intro_disk_gap));

    for (guint i = 0; i < s->items->len; i++) {
        const struct item *item = &g_array_index(s->items, struct item, i);
        const struct intro_disk_gap gap = {item->page << VMM_PAGE_SHIFT, VMM_PAGE_BYTES,
                                           data + (uint64_t)i * VMM_PAGE_BYTES};

        if (item->area == area && !item->zero)
            g_array_append_val(gaps, gap);
    }
    g_array_sort(gaps, by_place);
    return read_disk(s, area, (const struct intro_disk_gap *)(const void *)gaps->data, gaps->len,
                     error);
}

static bool continues(const struct item *last, const struct item *next)
{
    return next->owner.ref == last->owner.ref && next->owner.within == last->owner.within &&
           next->kind == last->kind && next->owner.start == last->owner.start + VMM_PAGE_BYTES;
}

static void give_items(struct intro_swap *s, uint8_t *data)
{
    const struct item *items = (const struct item *)(const void *)s->items->data;
    g_autoptr(GBytes) all = NULL;

    for (guint i = 0; i < s->items->len; i++)
        intro_pages_apply(s->c->pages, items[i].owner.ref, items[i].owner.start,
                          data + (uint64_t)i * VMM_PAGE_BYTES, VMM_PAGE_BYTES);
    all = g_bytes_new_take(data, (uint64_t)s->items->len * VMM_PAGE_BYTES);
    for (guint i = 0, n; i < s->items->len; i += n) {
        for (n = 1; i + n < s->items->len && continues(&items[i + n - 1], &items[i + n]);)
            n++;
        intro_pages_give(
            s->c->pages, items[i].owner.ref, items[i].owner.start,
            g_bytes_new_from_bytes(all, (uint64_t)i * VMM_PAGE_BYTES, (uint64_t)n * VMM_PAGE_BYTES),
            items[i].kind);
    }
}

void intro_swap_complete(struct intro_ctx *c)
{
    struct intro_swap *s = c->swap;
    g_autofree uint8_t *data = NULL;
    g_autoptr(GError) error = NULL;

    if (!s || s->items->len == 0)
        return;
    c->pid = c->opt->pid;
    data = g_try_malloc0_n(s->items->len, VMM_PAGE_BYTES);
    if (!data)
        g_set_error(&error, INTRO_ERROR, INTRO_ERROR_HOST, "does not fit into this host's memory");
    for (unsigned area = 0; area < INTRO_SWAP_MAX_AREAS && !error; area++)
        read_area(s, area, data, &error);
    if (error)
        intro_refuse(c, "swap", "memory of the process %s", error->message);
    else
        give_items(s, g_steal_pointer(&data));
}
