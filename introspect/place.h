// SPDX-License-Identifier: GPL-2.0-or-later
// Where in physical memory the pages of a process are, for contents that are put there from
// outside.
#pragma once

#include "introspect/kernel.h"

// The page table root of process pid (initial pid namespace).
bool intro_user_root(IntroKernel *k, uint32_t pid, struct gva *ret_pgd, GError **error);

// The frames of n_pages pages from start on, into ret[n_pages]. The machine must be paused.
// NOT_PRESENT where one of them is not in memory.
bool intro_user_frames(IntroKernel *k, struct gva pgd, struct gva start, uint64_t n_pages,
                       struct gpa *ret, GError **error);
