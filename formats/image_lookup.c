// SPDX-License-Identifier: GPL-2.0-or-later
// Finds mappings and page contents of an image by address.
#include <string.h>

#include "formats/image-priv.h"

struct place {
    uint64_t owner;
    uint64_t start;
};

static int place_compare(struct place a, struct place b)
{
    if (a.owner != b.owner)
        return a.owner < b.owner ? -1 : 1;
    return a.start < b.start ? -1 : a.start > b.start;
}

static struct place place_of_vma(const void *vma)
{
    return (struct place){((const struct fmt_vma *)vma)->mm, ((const struct fmt_vma *)vma)->start};
}

static struct place place_of_extent(const void *extent)
{
    const struct fmt_pages *pages = &((const struct fmt_extent *)extent)->pages;

    return (struct place){pages->owner, pages->start};
}

static int compare_vmas(const void *a, const void *b)
{
    return place_compare(place_of_vma(*(void *const *)a), place_of_vma(*(void *const *)b));
}

static int compare_extents(const void *a, const void *b)
{
    return place_compare(place_of_extent(*(void *const *)a), place_of_extent(*(void *const *)b));
}

static const GPtrArray *vmas_by_place(const FmtImage *img)
{
    struct image_index *index = fmt_image_index(img);

    if (!index->vmas_fresh) {
        g_ptr_array_set_size(index->vmas, 0);
        for (size_t i = 0; i < fmt_image_count(img, FMT_VMA); i++)
            g_ptr_array_add(index->vmas, fmt_image_nth(img, FMT_VMA, i));
        g_ptr_array_sort(index->vmas, compare_vmas);
        index->vmas_fresh = true;
    }
    return index->vmas;
}

static const GPtrArray *extents_by_place(const FmtImage *img)
{
    struct image_index *index = fmt_image_index(img);

    if (!index->extents_fresh) {
        g_ptr_array_set_size(index->extents, 0);
        for (size_t i = 0; i < fmt_image_n_extents(img); i++)
            g_ptr_array_add(index->extents, fmt_image_extent(img, i));
        g_ptr_array_sort(index->extents, compare_extents);
        index->extents_fresh = true;
    }
    return index->extents;
}

// How many of sorted items start at or before the place.
static size_t count_up_to(const GPtrArray *sorted, struct place (*place_of)(const void *item),
                          struct place place)
{
    size_t low = 0, high = sorted->len;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (place_compare(place_of(sorted->pdata[mid]), place) <= 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct fmt_vma *fmt_image_vma(const FmtImage *img, uint64_t mm, uint64_t addr)
{
    const GPtrArray *vmas = vmas_by_place(img);
    size_t n = count_up_to(vmas, place_of_vma, (struct place){mm, addr});
    struct fmt_vma *vma = n > 0 ? vmas->pdata[n - 1] : NULL;

    return vma && vma->mm == mm && addr < vma->end ? vma : NULL;
}

size_t fmt_cow_set_count(const struct fmt_cow_set *set)
{
    return set->members ? g_bytes_get_size(set->members) / sizeof(uint64_t) : 0;
}

uint64_t fmt_cow_set_member(const struct fmt_cow_set *set, size_t i)
{
    const uint8_t *members = g_bytes_get_data(set->members, NULL);
    uint64_t member;

    memcpy(&member, members + i * sizeof member, sizeof member);
    return GUINT64_FROM_LE(member);
}

bool fmt_cow_set_has(const struct fmt_cow_set *set, uint64_t mm)
{
    size_t low = 0, high = fmt_cow_set_count(set);

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        uint64_t member = fmt_cow_set_member(set, mid);

        if (member == mm)
            return true;
        if (member < mm)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

bool fmt_cow_fits(const struct fmt_cow *cow, const struct fmt_vma *vma)
{
    if (vma->start < cow->start || vma->end > cow->end ||
        (vma->flags & FMT_COW_FLAGS) != cow->flags || fmt_vma_is_shared(vma) ||
        vma->flags & (FMT_VMA_DROPPABLE | FMT_VMA_HUGETLB))
        return false;
    return cow->object ? vma->kind == FMT_VMA_FILE && vma->object == cow->object &&
                             vma->offset_bytes - vma->start == cow->offset_bytes - cow->start
                       : vma->kind == FMT_VMA_ANON;
}

// The first run of an owner at or behind a place.
static bool owner_run(const FmtImage *img, uint64_t owner, uint64_t at, struct fmt_run *ret)
{
    const GPtrArray *extents = extents_by_place(img);
    size_t n = count_up_to(extents, place_of_extent, (struct place){owner, at});

    for (size_t i = n > 0 ? n - 1 : 0; i < extents->len && i <= n; i++) {
        const struct fmt_extent *extent = extents->pdata[i];
        uint64_t end = extent->pages.start + extent->pages.n_pages * FMT_PAGE_BYTES;

        if (extent->pages.owner == owner && end > at) {
            ret->start = MAX(extent->pages.start, at);
            ret->end = end;
            ret->data = extent->data ? extent->data + (ret->start - extent->pages.start) : NULL;
            return true;
        }
    }
    return false;
}

// The same for what is mapped in a vma, at or behind an address. A FILE stands for what it has
// open.
static bool backing_run(const FmtImage *img, const struct fmt_vma *vma, uint64_t addr,
                        struct fmt_run *ret)
{
    const struct fmt_file *file = fmt_image_by_ref(img, vma->object, FMT_FILE);
    uint64_t owner = file ? file->object : vma->object;

    if ((vma->kind != FMT_VMA_FILE && vma->kind != FMT_VMA_SHM) || owner == 0 ||
        !owner_run(img, owner, addr - vma->start + vma->offset_bytes, ret))
        return false;
    ret->start = ret->start - vma->offset_bytes + vma->start;
    ret->end = ret->end - vma->offset_bytes + vma->start;
    return true;
}

// The same for what an address space shares with others. Its own pages come first.
static void shared_run(const FmtImage *img, const struct fmt_vma *vma, uint64_t addr,
                       struct fmt_run *own)
{
    const struct fmt_cow_set *set;
    struct fmt_run run;

    if ((vma->kind != FMT_VMA_ANON && vma->kind != FMT_VMA_FILE) || fmt_vma_is_shared(vma))
        return;
    for (size_t i = 0; FMT_NEXT(img, COW_SET, i, set); i++) {
        if (!fmt_cow_set_has(set, vma->mm) || !owner_run(img, set->rec.objref, addr, &run) ||
            run.start >= own->start)
            continue;
        run.end = MIN(run.end, own->start);
        *own = run;
    }
}

bool fmt_image_next_run(const FmtImage *img, const struct fmt_vma *vma, uint64_t addr,
                        struct fmt_run *ret)
{
    struct fmt_run own = {vma->end, vma->end, NULL}, backing = own;

    if (addr >= vma->end)
        return false;
    addr = MAX(addr, vma->start);
    owner_run(img, vma->mm, addr, &own);
    shared_run(img, vma, addr, &own);
    backing_run(img, vma, addr, &backing);

    struct fmt_run run = own;
    if (backing.start < own.start) {
        run = backing;
        run.end = MIN(backing.end, own.start);
    }
    if (run.start >= vma->end)
        return false;
    run.end = MIN(run.end, vma->end);
    *ret = run;
    return true;
}

bool fmt_image_read(const FmtImage *img, uint64_t mm, uint64_t addr, void *ret, size_t len)
{
    g_autofree uint8_t *copy = g_malloc(len);

    for (size_t done = 0; done < len;) {
        const struct fmt_vma *vma = fmt_image_vma(img, mm, addr + done);
        uint64_t skip = (addr + done) % FMT_PAGE_BYTES;
        struct fmt_run run;

        if (!vma || !fmt_image_next_run(img, vma, addr + done - skip, &run) ||
            run.start > addr + done)
            return false;

        size_t n = MIN(len - done, run.end - run.start - skip);
        if (run.data)
            memcpy(copy + done, run.data + skip, n);
        else
            memset(copy + done, 0, n);
        done += n;
    }
    if (len > 0)
        memcpy(ret, copy, len);
    return true;
}
