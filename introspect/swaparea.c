// SPDX-License-Identifier: GPL-2.0-or-later
// Swap areas (struct swap_info_struct): which device has which of their pages.
#include "introspect/swaparea.h"

#include <string.h>

#include "introspect/reader.h"

/*
 * An area is a block device, or a file whose blocks the kernel has looked up once (swap_extent, in
 * pages of the device that its file system is on) and reads and writes without asking the file
 * system. Which of the disks that device is shows in what the kernel knows of it: the UUID of the
 * file system, or of the partition. Of a whole disk or a logical volume it knows none: such a
 * device is the one that has what memory has of it as well (swapcache.h). No UUID outweighs that.
 */

#define MAX_EXTENTS  (1u << 22)
#define SECTOR_BYTES 512
#define NAME_BYTES   32 // DISK_NAME_LEN

struct extent {
    uint64_t first, n; // pages of the area
    uint64_t page;     // of the device
};

struct reading {
    IntroKernel *k;
    struct intro_swap_area *area;
};

static bool add_extent(struct gva node, void *user, GError **error)
{
    const struct reading *reading = user;
    struct gva at = intro_container(reading->k, node, M_swap_extent_node);
    g_auto(IntroReader) r = INTRO_READER(reading->k);
    const struct extent extent = {
        .first = rd(&r, at, M_swap_extent_start),
        .n = rd(&r, at, M_swap_extent_pages),
        .page = rd(&r, at, M_swap_extent_block),
    };

    g_array_append_val(reading->area->extents, extent);
    return rd_done(&r, error);
}

static uint64_t device_bytes(IntroReader *r, struct gva bdev)
{
    if (intro_has(r->k, M_bdev_sectors))
        return rd(r, bdev, M_bdev_sectors) * SECTOR_BYTES;
    return rd(r, rd_ptr(r, bdev, M_bdev_inode), M_inode_size);
}

static void read_device(IntroReader *r, struct intro_swap_area *area, struct gva bdev)
{
    struct gva disk = rd_ptr(r, bdev, M_bdev_disk), meta = {0};
    char name[NAME_BYTES + 1] = "";

    rd_bytes(r, disk, M_gendisk_name, name, NAME_BYTES);
    area->name = g_utf8_make_valid(name, -1);
    area->disk.device_bytes = device_bytes(r, bdev);
    if (intro_has(r->k, M_bdev_meta))
        meta = rd_ptr(r, bdev, M_bdev_meta);
    else if (intro_has(r->k, M_bdev_part) && intro_has(r->k, M_part_meta))
        meta = rd_ptr(r, rd_ptr(r, bdev, M_bdev_part), M_part_meta);
    if (meta.addr)
        rd_bytes(r, meta, M_partition_uuid, area->disk.partition, sizeof(area->disk.partition) - 1);
    if (g_str_has_prefix(area->name, "zram"))
        area->why_not = g_strdup_printf("%s, which is memory, compressed", area->name);
}

// The device is the one that the file system is on.
static bool read_file(IntroReader *r, struct intro_swap_area *area, GError **error)
{
    static const char *const known[] = {"ext2", "ext3", "ext4", "xfs"}; // are on one device
    struct gva sb =
        rd_ptr(r, rd_ptr(r, rd_ptr(r, area->info, M_swap_info_file), M_file_inode), M_inode_sb);
    struct gva name = rd_ptr(r, rd_ptr(r, sb, M_sb_type), M_fstype_name);
    bool is_known = false;

    rd_bytes(r, sb, M_sb_uuid, area->disk.uuid, sizeof(area->disk.uuid));
    if (!rd_done(r, error))
        return false;
    g_autofree char *fstype = intro_read_str(r->k, name, 64, error);
    if (!fstype)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++)
        is_known |= strcmp(fstype, known[i]) == 0;
    area->disk.is_file = true;
    g_free(area->name);
    area->name = g_strdup_printf("a file of %s", fstype);
    if (!is_known && !area->why_not)
        area->why_not = g_strdup_printf("%s, which nobody here can read", area->name);
    return true;
}

static bool has_members(IntroKernel *k)
{
    static const enum intro_member needed[] = {
        M_swap_info_flags,   M_swap_info_max,    M_swap_info_extents, M_swap_info_bdev,
        M_swap_info_file,    M_swap_extent_node, M_swap_extent_start, M_swap_extent_pages,
        M_swap_extent_block, M_page_private,     M_page_mapcount,     M_bdev_disk,
        M_gendisk_name,      M_sb_uuid,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++) {
        if (!intro_has(k, needed[i]))
            return false;
    }
    return intro_has(k, M_bdev_sectors) || intro_has(k, M_bdev_inode);
}

static bool fill(IntroKernel *k, struct intro_swap_area *area, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    int64_t is_device = 0, asks_fs = 0;
    struct reading reading = {k, area};

    const uint64_t flags = rd(&r, area->info, M_swap_info_flags);
    area->n_pages = rd(&r, area->info, M_swap_info_max);
    area->disk.last_page = area->n_pages - 1;
    struct gva bdev = rd_ptr(&r, area->info, M_swap_info_bdev);
    struct gva top = rd_ptr(&r, area->info, M_swap_info_extents);
    if (!intro_constant(k, C_SWP_BLKDEV, &is_device) ||
        !intro_constant(k, C_SWP_FS_OPS, &asks_fs) || flags & (uint64_t)asks_fs || !bdev.addr) {
        area->name = g_strdup("a file");
        area->why_not = g_strdup("a file that has no blocks on a disk of the guest");
        return rd_done(&r, error);
    }
    read_device(&r, area, bdev);
    if (!rd_done(&r, error) || (!(flags & (uint64_t)is_device) && !read_file(&r, area, error)) ||
        !intro_walk_rbtree(k, top, MAX_EXTENTS, add_extent, &reading, error))
        return false;
    return intro_swap_area_page(area, 0, &area->disk.header_page, error);
}

struct intro_swap_area *intro_swap_area_read(IntroKernel *k, unsigned type, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct intro_swap_area *area;
    struct gva infos;

    if (!has_members(k) || !intro_symbol(k, "swap_info", &infos, NULL)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_SWAPPED,
                    "is swapped out, and this kernel does not tell where to");
        return NULL;
    }
    area = g_new0(struct intro_swap_area, 1);
    area->type = type;
    area->extents = g_array_new(FALSE, FALSE, sizeof(struct extent));
    area->info = rd_ptr_at(&r, GVA(infos.addr + type * 8));
    if (rd_done(&r, error) && fill(k, area, error))
        return area;
    g_prefix_error(error, "swap area %u: ", type);
    intro_swap_area_free(area);
    return NULL;
}

void intro_swap_area_free(struct intro_swap_area *area)
{
    if (!area)
        return;
    g_array_unref(area->extents);
    g_clear_pointer(&area->twins, g_array_unref);
    g_free(area->twin_data);
    g_free(area->name);
    g_free(area->why_not);
    g_free(area);
}

bool intro_swap_area_check(const struct intro_swap_area *area, bool has_disks, GError **error)
{
    const struct intro_disk_swap *disk = &area->disk;
    const bool told = disk->is_file || *disk->partition || disk->n_twins;

    if (area->why_not)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_SWAPPED, "is swapped out to %s", area->why_not);
    else if (!told)
        g_set_error(
            error, INTRO_ERROR, INTRO_ERROR_SWAPPED,
            "is swapped out to %s, which nothing tells from other disks: it is no partition "
            "with a UUID, and no page of it is in memory as well",
            area->name);
    else if (!has_disks)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_SWAPPED,
                    "is swapped out to %s; --disks reads it there", area->name);
    return !area->why_not && told && has_disks;
}

bool intro_swap_area_page(const struct intro_swap_area *area, uint64_t offset, uint64_t *ret,
                          GError **error)
{
    guint low = 0, high = area->extents->len;

    while (low < high) { // the last that begins not behind it
        const guint middle = low + (high - low) / 2;

        if (g_array_index(area->extents, struct extent, middle).first <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    const struct extent *extent =
        low ? &g_array_index(area->extents, struct extent, low - 1) : NULL;
    if (extent && offset - extent->first < extent->n) {
        *ret = extent->page + (offset - extent->first);
        return true;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "page %" G_GUINT64_FORMAT " of the swap area is nowhere", offset);
    return false;
}
