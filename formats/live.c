// SPDX-License-Identifier: GPL-2.0-or-later
// Images for a live transfer, without the contents that the target has or gets in another way.
#include "formats/hash.h"
#include "formats/image-priv.h"
#include "formats/stream.h"

static void make_hashed(struct fmt_extent *extent)
{
    extent->pages.kind = FMT_PAGES_HASHED;
    extent->pages.hash = fmt_hash64(extent->data, extent->pages.n_pages * FMT_PAGE_BYTES);
    extent->data = NULL;
}

static void make_placed(struct fmt_extent *extent, GArray *placed)
{
    g_array_append_vals(placed, extent, 1);
    extent->pages.kind = FMT_PAGES_PLACED;
    extent->data = NULL;
}

// Memory that the target's processes will have at this address: not the vdso, which is compared and
// rebuilt.
static bool is_memory(const FmtImage *img, const struct fmt_extent *extent)
{
    if (fmt_image_by_ref(img, extent->pages.owner, FMT_COW_SET))
        return true;
    const struct fmt_vma *vma = fmt_image_by_ref(img, extent->pages.owner, FMT_MM)
                                    ? fmt_image_vma(img, extent->pages.owner, extent->pages.start)
                                    : NULL;

    return vma && vma->kind != FMT_VMA_VDSO && vma->kind != FMT_VMA_VVAR;
}

// The target may lack the file: then the contents make it.
static bool is_carried(const FmtImage *img, const struct fmt_extent *extent)
{
    const struct fmt_inode *inode = fmt_image_by_ref(img, extent->pages.owner, FMT_INODE);

    return inode && inode->contents == FMT_CONTENTS_CARRIED;
}

void fmt_image_make_live(FmtImage *img, GArray **ret_placed)
{
    if (ret_placed)
        *ret_placed = g_array_new(FALSE, FALSE, sizeof(struct fmt_extent));
    fmt_image_head(img)->features |= FMT_FEATURE_LIVE;
    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        struct fmt_extent *extent = fmt_image_extent(img, i);

        if (extent->pages.kind == FMT_PAGES_CLEAN && !is_carried(img, extent))
            make_hashed(extent);
        else if (ret_placed && extent->pages.kind == FMT_PAGES_DATA && is_memory(img, extent))
            make_placed(extent, *ret_placed);
    }
}

void fmt_image_unplace(FmtImage *img, const GArray *placed)
{
    guint next = 0;

    for (size_t i = 0; i < fmt_image_n_extents(img) && next < placed->len; i++) {
        struct fmt_extent *extent = fmt_image_extent(img, i);

        if (extent->pages.kind == FMT_PAGES_PLACED)
            *extent = g_array_index(placed, struct fmt_extent, next++);
    }
}
