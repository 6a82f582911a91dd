// SPDX-License-Identifier: GPL-2.0-or-later
// The page cache of an inode: which of its pages are in memory, and where.
#include "introspect/context.h"
#include "introspect/reader.h"
#include "introspect/swap.h"

#include <string.h>

/*
 * address_space.i_pages has an entry for each page, or since 5.16 for each folio, which then takes
 * as many indices as it has pages. Before, a huge page had its head page under each of its indices.
 * Both are read in one way: the entry is the first page of something whose own index says where it
 * starts in the file, and which is contiguous in memory.
 *
 * Until 6.7 the indices of hugetlbfs, those of its pages included, count huge pages: an entry there
 * takes one index.
 *
 * Value entries are the shadows of evicted pages in files, and swap entries in shared memory.
 */

#define MAX_FOLIO_ORDER 18 // 1 GiB, the largest page there is

// Pages [index, index + n_pages) of the file, contiguous in memory from `frame` on.
struct run {
    uint64_t index;
    uint64_t n_pages;
    struct gpa frame;
    bool uptodate; // false: still being read, or never written to (shared memory: zeros)
};

static bool read_run(IntroKernel *k, struct gva mapping, uint64_t index, unsigned order,
                     uint64_t entry, struct run *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva page = GVA(entry);
    int64_t uptodate_bit;
    uint64_t pfn;

    uint64_t flags = rd(&r, page, M_page_flags);
    uint64_t page_mapping = rd(&r, page, M_page_mapping);
    uint64_t skip = index - rd(&r, page, M_page_index);
    if (!rd_done(&r, error) || !intro_page_to_pfn(k, page, &pfn, error))
        return false;
    if (page_mapping != mapping.addr || order > MAX_FOLIO_ORDER || skip >> MAX_FOLIO_ORDER) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "page at %#" G_GINT64_MODIFIER "x is not page %" G_GUINT64_FORMAT
                    " of the address_space at %#" G_GINT64_MODIFIER "x",
                    page.addr, index, mapping.addr);
        return false;
    }
    if (!intro_constant(k, C_PG_uptodate, &uptodate_bit)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_LAYOUT, "no PG_uptodate");
        return false;
    }
    *ret = (struct run){
        .index = index,
        .n_pages = UINT64_C(1) << order,
        .frame = GPA((pfn + skip) << VMM_PAGE_SHIFT),
        .uptodate = flags >> (uptodate_bit & 63) & 1,
    };
    return true;
}

struct wanting {
    struct intro_ctx *c;
    struct gva inode;
    struct gva mapping;
    uint64_t owner;
    uint64_t first, end; // page indices
    enum fmt_pages_kind kind;
    unsigned huge_order; // of hugetlbfs; else 0
    bool swapped;        // one refusal says it for all
};

static void from_huge_index(const struct wanting *w, unsigned order, struct run *run)
{
    if (w->huge_order && order == 0) {
        run->index <<= w->huge_order;
        run->n_pages <<= w->huge_order;
    }
}

// Whether value entries of the inode's page cache are swap slots.
static bool can_be_swapped(IntroKernel *k, struct gva inode, bool *ret, GError **error)
{
    static const char *const names[] = {"tmpfs", "devtmpfs", "rootfs"};
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva name =
        rd_ptr(&r, rd_ptr(&r, rd_ptr(&r, inode, M_inode_sb), M_sb_type), M_fstype_name);

    if (!rd_done(&r, error))
        return false;
    g_autofree char *fstype = intro_read_str(k, name, 64, error);
    *ret = false;
    for (size_t i = 0; fstype && i < G_N_ELEMENTS(names); i++)
        *ret |= strcmp(fstype, names[i]) == 0;
    return fstype != NULL;
}

// `slot` is that of the first of the pages. Of pages that the target has as well those that cannot
// be had are passed over.
static bool want_swapped(struct wanting *w, uint64_t index, unsigned order, uint64_t slot,
                         GError **error)
{
    bool can;

    if (!can_be_swapped(w->c->k, w->inode, &can, error))
        return false;
    const uint64_t end =
        can ? MIN(index + (UINT64_C(1) << MIN(order, MAX_FOLIO_ORDER)), w->end) : 0;
    for (uint64_t i = MAX(index, w->first); i < end; i++) {
        const struct intro_swap_owner owner = {w->owner, 0, i << VMM_PAGE_SHIFT};
        GError *why = NULL;

        if (intro_swap_want(w->c, slot + (i - index), owner, w->kind, &why))
            continue;
        if (!g_error_matches(why, INTRO_ERROR, INTRO_ERROR_SWAPPED)) {
            g_propagate_error(error, why);
            return false;
        }
        if (w->kind == FMT_PAGES_DATA && !w->swapped)
            intro_refuse(w->c, "swap",
                         "page %" G_GUINT64_FORMAT
                         " of shared memory (inode at %#" G_GINT64_MODIFIER "x) %s",
                         i, w->inode.addr, why->message);
        w->swapped = true;
        g_error_free(why);
    }
    return true;
}

static bool want_entry(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    struct wanting *w = user;
    struct run run;

    if (entry & 1)
        return want_swapped(w, index, order, intro_swap_slot_of_xa(entry), error);
    if (!read_run(w->c->k, w->mapping, index, order, entry, &run, error))
        return false;
    if (!run.uptodate)
        return true;
    from_huge_index(w, order, &run);

    uint64_t first = MAX(run.index, w->first), end = MIN(run.index + run.n_pages, w->end);
    if (first >= end)
        return true;
    intro_pages_want(w->c->pages, w->owner, first << VMM_PAGE_SHIFT,
                     GPA(run.frame.addr + ((first - run.index) << VMM_PAGE_SHIFT)),
                     (end - first) << VMM_PAGE_SHIFT, w->kind);
    return true;
}

bool intro_pagecache(struct intro_ctx *c, struct gva inode, uint64_t owner, uint64_t start,
                     uint64_t end, enum fmt_pages_kind kind, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct wanting w = {.c = c, .inode = inode, .owner = owner, .kind = kind};

    const struct fmt_shm *shm = fmt_image_by_ref(c->img, owner, FMT_SHM);

    w.mapping = rd_ptr(&r, inode, M_inode_mapping);
    uint64_t size_bytes = rd(&r, inode, M_inode_size);
    if (!rd_done(&r, error))
        return false;
    if (shm && shm->flags & FMT_SHM_HUGETLB) {
        uint64_t pages = MAX(shm->huge_page_bytes >> VMM_PAGE_SHIFT, 1);
        w.huge_order = MIN(g_bit_nth_msf(pages, -1), MAX_FOLIO_ORDER);
    }

    size_bytes = MIN(size_bytes, UINT64_MAX & VMM_PAGE_MASK);
    end = MIN(end, size_bytes);
    w.first = start >> VMM_PAGE_SHIFT;
    w.end = (end + VMM_PAGE_BYTES - 1) >> VMM_PAGE_SHIFT;
    if (w.first >= w.end)
        return true;
    return intro_walk_xarray(c->k, intro_member_addr(c->k, w.mapping, M_mapping_pages),
                             w.huge_order ? 0 : w.first, w.end - 1, want_entry, &w, error);
}

struct counting {
    struct intro_ctx *c;
    IntroKernel *k;
    bool in_memory;
    struct gva mapping;
    uint64_t end;     // page index
    uint64_t n_pages; // up to date
    bool elsewhere;   // swapped out, or evicted
};

static bool count_swapped(struct counting *n, unsigned order, uint64_t slot, GError **error)
{
    const uint64_t end = n->in_memory ? UINT64_C(1) << MIN(order, MAX_FOLIO_ORDER) : 0;

    n->elsewhere |= !n->in_memory;
    for (uint64_t i = 0; i < end && !n->elsewhere; i++) {
        bool can;

        if (!intro_swap_can(n->c, slot + i, &can, error))
            return false;
        n->elsewhere |= !can;
    }
    return true;
}

static bool count_entry(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    struct counting *n = user;
    struct run run;

    if (entry & 1)
        return count_swapped(n, order, intro_swap_slot_of_xa(entry), error);
    if (!read_run(n->k, n->mapping, index, order, entry, &run, error))
        return false;
    if (run.uptodate)
        n->n_pages += MIN(run.index + run.n_pages, n->end) - run.index;
    return true;
}

bool intro_pagecache_is_whole(struct intro_ctx *c, struct gva inode, bool in_memory,
                              bool *ret_whole, GError **error)
{
    IntroKernel *k = c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    struct counting n = {
        .c = c, .k = k, .in_memory = in_memory, .mapping = rd_ptr(&r, inode, M_inode_mapping)};
    uint64_t size_bytes = rd(&r, inode, M_inode_size);

    if (!rd_done(&r, error))
        return false;
    n.end = (MIN(size_bytes, UINT64_MAX & VMM_PAGE_MASK) + VMM_PAGE_BYTES - 1) >> VMM_PAGE_SHIFT;
    if (n.end > 0 && !intro_walk_xarray(k, intro_member_addr(k, n.mapping, M_mapping_pages), 0,
                                        n.end - 1, count_entry, &n, error))
        return false;
    *ret_whole = !n.elsewhere && (in_memory || n.n_pages == n.end);
    return true;
}

struct missing {
    IntroKernel *k;
    struct gva mapping;
    uint64_t next, end; // page indices
    GArray *ranges;
};

static void add_missing(struct missing *m, uint64_t end)
{
    if (end > m->next) {
        g_array_append_val(m->ranges, m->next);
        g_array_append_val(m->ranges, end);
    }
}

static bool pass_entry(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    struct missing *m = user;
    struct run run;

    if (entry & 1)
        return true; // evicted
    if (!read_run(m->k, m->mapping, index, order, entry, &run, error))
        return false;
    if (!run.uptodate) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "page %" G_GUINT64_FORMAT " is being read or written just now", run.index);
        return false;
    }
    add_missing(m, MIN(run.index, m->end));
    m->next = MAX(m->next, run.index + run.n_pages);
    return true;
}

bool intro_pagecache_missing(IntroKernel *k, struct gva inode, uint64_t first, uint64_t end,
                             GArray *ranges, GError **error)
{
    struct missing m = {.k = k, .next = first, .end = end, .ranges = ranges};

    if (first >= end)
        return true;
    if (!intro_get_ptr(k, inode, M_inode_mapping, &m.mapping, error) ||
        !intro_walk_xarray(k, intro_member_addr(k, m.mapping, M_mapping_pages), first, end - 1,
                           pass_entry, &m, error))
        return false;
    add_missing(&m, end);
    return true;
}

struct reserving {
    IntroKernel *k;
    struct gva mapping;
    GArray *ranges; // of uint64_t: start, end, in bytes
};

static bool reserve_entry(uint64_t index, unsigned order, uint64_t entry, void *user,
                          GError **error)
{
    struct reserving *v = user;
    GArray *ranges = v->ranges;
    struct run run;

    if (entry & 1)
        return true;
    if (!read_run(v->k, v->mapping, index, order, entry, &run, error))
        return false;
    if (run.uptodate)
        return true;
    const uint64_t start = run.index << VMM_PAGE_SHIFT;
    const uint64_t end = (run.index + run.n_pages) << VMM_PAGE_SHIFT;
    if (ranges->len > 0 && g_array_index(ranges, uint64_t, ranges->len - 1) == start) {
        g_array_index(ranges, uint64_t, ranges->len - 1) = end;
    } else {
        g_array_append_val(ranges, start);
        g_array_append_val(ranges, end);
    }
    return true;
}

bool intro_pagecache_reserved(IntroKernel *k, struct gva inode, GBytes **ret, GError **error)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    struct reserving v = {.k = k, .ranges = ranges};

    if (!intro_get_ptr(k, inode, M_inode_mapping, &v.mapping, error) ||
        !intro_walk_xarray(k, intro_member_addr(k, v.mapping, M_mapping_pages), 0,
                           UINT64_MAX >> VMM_PAGE_SHIFT, reserve_entry, &v, error))
        return false;
    for (guint i = 0; i < ranges->len; i++)
        g_array_index(ranges, uint64_t, i) = GUINT64_TO_LE(g_array_index(ranges, uint64_t, i));
    *ret = ranges->len > 0 ? g_bytes_new(ranges->data, ranges->len * sizeof(uint64_t)) : NULL;
    return true;
}

struct reading {
    IntroKernel *k;
    struct gva mapping;
    uint64_t index;
    uint8_t *page;
    enum intro_cached cached;
};

static bool read_entry(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    struct reading *g = user;
    struct run run;

    if (entry & 1)
        return true;
    if (!read_run(g->k, g->mapping, index, order, entry, &run, error))
        return false;
    g->cached = run.uptodate ? INTRO_CACHED : INTRO_CACHED_PARTLY;
    if (!run.uptodate)
        return true;
    struct gpa from = GPA(run.frame.addr + ((g->index - index) << VMM_PAGE_SHIFT));
    return vmm_memory_read(intro_kernel_memory(g->k), from, g->page, VMM_PAGE_BYTES, error);
}

bool intro_pagecache_look(IntroKernel *k, struct gva inode, uint64_t index,
                          uint8_t ret[VMM_PAGE_BYTES], enum intro_cached *ret_cached,
                          GError **error)
{
    struct reading g = {.k = k, .index = index, .page = ret};

    if (!intro_get_ptr(k, inode, M_inode_mapping, &g.mapping, error) ||
        !intro_walk_xarray(k, intro_member_addr(k, g.mapping, M_mapping_pages), index, index,
                           read_entry, &g, error))
        return false;
    *ret_cached = g.cached;
    return true;
}

bool intro_pagecache_read(IntroKernel *k, struct gva inode, uint64_t index,
                          uint8_t ret[VMM_PAGE_BYTES], bool *ret_there, GError **error)
{
    enum intro_cached cached;

    if (!intro_pagecache_look(k, inode, index, ret, &cached, error))
        return false;
    *ret_there = cached == INTRO_CACHED;
    return true;
}
