// SPDX-License-Identifier: GPL-2.0-or-later
// Reads a guest's swap areas from its disks, which libguestfs shows.
#include "cli/diskswap.h"

#include <string.h>

#include "cli/cli.h"
#include "vmm/addr.h"

#define PIECE_BYTES (2u << 20)  // libguestfs' messages hold 4 MiB
#define GAP_BYTES   (64u << 10) // what is not wanted and read all the same, to save a message

// The header (union swap_header in include/linux/swap.h).
#define MAGIC        "SWAPSPACE2"
#define MAGIC_AT     (VMM_PAGE_BYTES - strlen(MAGIC))
#define LAST_PAGE_AT 1028

// To be freed with free(). NULL with an error where not all of it can be had.
static char *read_piece(CliDisk *disk, const char *device, uint64_t at, size_t size_bytes,
                        GError **error)
{
    size_t got = 0;
    char *piece =
        guestfs_pread_device(cli_disk_handle(disk), device, (int)size_bytes, (int64_t)at, &got);

    if (piece && got == size_bytes)
        return piece;
    if (piece)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s ends before it", device);
    else
        cli_disk_fail(disk, "cannot read it", error);
    free(piece);
    return NULL;
}

/* ---- whether it is the one ---- */

static bool has_partition(CliDisk *disk, const char *device, const char *uuid)
{
    CliDiskList *words = guestfs_blkid(cli_disk_handle(disk), device);
    bool has = false;

    for (CliDiskList *at = words; at && at[0] && at[1]; at += 2)
        has |= strcmp(at[0], "PART_ENTRY_UUID") == 0 && g_ascii_strcasecmp(at[1], uuid) == 0;
    cli_disk_list_free(words);
    return has;
}

static bool has_header(CliDisk *disk, const char *device, const struct intro_disk_swap *swap)
{
    char *header =
        read_piece(disk, device, swap->header_page * VMM_PAGE_BYTES, VMM_PAGE_BYTES, NULL);
    uint32_t last_page = 0;

    if (header && memcmp(header + MAGIC_AT, MAGIC, strlen(MAGIC)) == 0)
        memcpy(&last_page, header + LAST_PAGE_AT, sizeof(last_page));
    free(header);
    return GUINT32_FROM_LE(last_page) >= MAX(swap->last_page, 1);
}

static bool has_twins(CliDisk *disk, const char *device, const struct intro_disk_swap *swap)
{
    bool has = true;

    for (size_t i = 0; has && i < swap->n_twins; i++) {
        const struct intro_disk_gap *twin = &swap->twins[i];
        char *piece = read_piece(disk, device, twin->start, twin->size_bytes, NULL);

        has = piece && memcmp(piece, twin->to, twin->size_bytes) == 0;
        free(piece);
    }
    return has;
}

bool cli_disk_swap_is(CliDisk *disk, const char *device, const struct intro_disk_swap *swap)
{
    guestfs_h *g = cli_disk_handle(disk);

    if (!swap->is_file && (uint64_t)guestfs_blockdev_getsize64(g, device) != swap->device_bytes)
        return false;
    if (!swap->is_file && *swap->partition && !has_partition(disk, device, swap->partition))
        return false;
    return guestfs_blockdev_flushbufs(g, device) == 0 && has_header(disk, device, swap) &&
           has_twins(disk, device, swap);
}

/* ---- reading ---- */

// Those from the first on that are worth one message. Processes that share a page since a fork
// want it each.
static size_t count_near(const struct intro_disk_gap *pages, size_t n)
{
    size_t i = 1;

    while (i < n && pages[i].start - pages[i - 1].start <= pages[i - 1].size_bytes + GAP_BYTES &&
           pages[i].start - pages[0].start <= PIECE_BYTES - pages[i].size_bytes)
        i++;
    return i;
}

static bool read_near(CliDisk *disk, const char *device, const struct intro_disk_gap *pages,
                      size_t n, GError **error)
{
    const uint64_t start = pages[0].start;
    const size_t size_bytes = pages[n - 1].start + pages[n - 1].size_bytes - start;
    char *piece = read_piece(disk, device, start, size_bytes, error);

    for (size_t i = 0; piece && i < n; i++)
        memcpy(pages[i].to, piece + (pages[i].start - start), pages[i].size_bytes);
    free(piece);
    return piece != NULL;
}

bool cli_disk_swap_read(CliDisk *disk, const char *device, const struct intro_disk_swap *swap,
                        GError **error)
{
    for (size_t i = 0, n; i < swap->n_pages; i += n) {
        n = count_near(swap->pages + i, swap->n_pages - i);
        if (!read_near(disk, device, swap->pages + i, n, error))
            return false;
    }
    return true;
}
