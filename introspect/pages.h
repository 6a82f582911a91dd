// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: the pages of a take: what is wanted, where it is copied to, how it becomes extents.
#pragma once

#include "formats/image.h"
#include "vmm/memory.h"

/*
 * The memory for the copies is allocated and touched before the pause, from an estimate; a process
 * that grew past it since then costs an allocation within the pause, nothing else.
 */
struct intro_pages *intro_pages_new(void);
// For a take of the records alone: from now on wants are passed over.
void intro_pages_want_none(struct intro_pages *p);
void intro_pages_free(struct intro_pages *p); // NULL-safe

// Guest running: has memory for n_pages ready and mapped. Keeps what is there already if it is
// enough.
bool intro_pages_reserve(struct intro_pages *p, uint64_t n_pages, GError **error);

// Whether a patch (intro_pages_patch) meets these pages.
bool intro_pages_is_patched(const struct intro_pages *p, uint64_t owner, uint64_t start,
                            uint64_t size_bytes);

// Puts what is patched into a copy of these pages that somebody else has made.
void intro_pages_apply(const struct intro_pages *p, uint64_t owner, uint64_t start, uint8_t *data,
                       uint64_t size_bytes);

// Forgets the wants of an earlier take; keeps the memory.
void intro_pages_reset(struct intro_pages *p);
uint64_t intro_pages_count(const struct intro_pages *p); // pages wanted so far

// Guest paused: copies all that is wanted.
bool intro_pages_copy(struct intro_pages *p, VmmMemory *mem, GError **error);

// Guest running again: turns the copies into extents of img (zero pages apart), which takes over
// the memory. Returns the number of pages with contents.
uint64_t intro_pages_finish(struct intro_pages *p, FmtImage *img);
