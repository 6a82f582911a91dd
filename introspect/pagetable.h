// SPDX-License-Identifier: GPL-2.0-or-later
// x86-64 page tables of the guest, as its kernel (not its MMU) understands them.
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "introspect/frames.h"
#include "introspect/kernel.h"

struct intro_page_table {
    IntroFrames *frames;
    unsigned levels;     // 4 or 5
    uint64_t frame_mask; // the physical address in an entry; without the encryption bit of SME
};

// The frame mask of a kernel whose entries carry sme_mask (0: none).
uint64_t intro_frame_mask(uint64_t sme_mask);

// The leaf that maps `at` below the top table at root. *ret_present is as in intro_user_page_fn;
// where the walk ends at an empty entry it is false and ret->entry is 0. CORRUPT where a table is
// not in RAM.
bool intro_page_table_lookup(const struct intro_page_table *pt, struct gpa root, struct gva at,
                             struct intro_user_page *ret, bool *ret_present, GError **error);

// Calls fn for each leaf that meets [start, end), a part of the lower (user) half: see
// intro_walk_user. More tables than the guest has pages of RAM are CORRUPT.
bool intro_page_table_walk(const struct intro_page_table *pt, struct gpa root, struct gva start,
                           struct gva end, intro_user_page_fn fn, void *user, GError **error);
