// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: pages that are swapped out: in the swap cache, zeros, or on a disk.
#pragma once

#include "introspect/context.h"

/*
 * A slot is as in swapcache.h.
 *
 * INTRO_ERROR_SWAPPED says of a slot that its page is where it cannot be had, and why; it is the
 * same at the next look.
 */
struct intro_swap_owner {
    uint64_t ref;    // whose page it is
    uint64_t within; // of pages that are next to each other, those with the same become one extent
    uint64_t start;  // as for intro_pages_want
};

// Of an entry of a page table that is neither empty nor present; of a value entry of an xarray.
uint64_t intro_swap_slot_of_pte(uint64_t entry);
uint64_t intro_swap_slot_of_xa(uint64_t entry);

// The page of the slot becomes one of the owner's pages, as intro_pages_want does it: now, or by
// intro_swap_complete() where a disk has it.
bool intro_swap_want(struct intro_ctx *c, uint64_t slot, struct intro_swap_owner owner,
                     enum fmt_pages_kind kind, GError **error);

// Whether intro_swap_want() would succeed. Errors are others than SWAPPED.
bool intro_swap_can(struct intro_ctx *c, uint64_t slot, bool *ret, GError **error);

// From now on intro_read_user() finds swapped pages as well, until intro_swap_end(), which forgets
// everything that is known.
void intro_swap_begin(struct intro_ctx *c);
void intro_swap_end(struct intro_ctx *c);

// When nothing else of a take is to be done: reads from the disks what is wanted from there.
// Refuses what cannot be read.
void intro_swap_complete(struct intro_ctx *c);
