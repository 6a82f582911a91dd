// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: swap areas (struct swap_info_struct): which device has which of their pages.
#pragma once

#include "introspect/context.h"

#define INTRO_SWAP_MAX_AREAS INTRO_PTE_TYPE_SPECIAL

struct intro_swap_area {
    unsigned type;
    struct gva info;             // struct swap_info_struct
    uint64_t n_pages;            // with the header, which is page 0
    char *name;                  // of the device, for people
    char *why_not;               // why the pages on it cannot be had; NULL where they can
    struct intro_disk_swap disk; // without pages
    GArray *extents;             // in the order of the area's pages
    GArray *twins; // of struct intro_disk_gap, with their contents: intro_swap_cache_twins()
    uint8_t *twin_data;
};

struct intro_swap_area *intro_swap_area_read(IntroKernel *k, unsigned type, GError **error);
void intro_swap_area_free(struct intro_swap_area *area); // NULL-safe

// SWAPPED where what has been written there cannot be read. The twins have been looked for.
bool intro_swap_area_check(const struct intro_swap_area *area, bool has_disks, GError **error);

// The page of the device that has a page of the area.
bool intro_swap_area_page(const struct intro_swap_area *area, uint64_t offset, uint64_t *ret,
                          GError **error);
