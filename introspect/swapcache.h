// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: the swap cache: which slots of a swap area have their page in memory.
#pragma once

#include "introspect/swaparea.h"

/*
 * A slot is a swp_entry_t as the kernel has it outside of page tables: the swap area's number above
 * the page's number in that area (include/linux/swapops.h).
 */
#define INTRO_SLOT_TYPE_SHIFT  58 // BITS_PER_XA_VALUE - MAX_SWAPFILES_SHIFT
#define INTRO_SLOT_OFFSET_MASK ((UINT64_C(1) << INTRO_SLOT_TYPE_SHIFT) - 1)

// BUSY where the page is being read in right now.
bool intro_swap_cache_find(IntroKernel *k, const struct intro_swap_area *area, uint64_t slot,
                           bool *ret_there, struct gpa *ret_frame, bool *ret_zero, GError **error);

// Finds some pages that memory and the device have alike, once for each area that can be read
// from a disk, and puts them into area->disk: they tell whether a disk is the one that is meant.
bool intro_swap_cache_twins(IntroKernel *k, struct intro_swap_area *area, GError **error);
