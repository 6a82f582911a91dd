// SPDX-License-Identifier: GPL-2.0-or-later
// Pages of guest physical memory, kept for the length of one pause.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

#include "vmm/memory.h"

/*
 * Memory that can be lent (shared RAM, buffers) is used in place. Private RAM costs a system call a
 * read, so its pages are copied into a direct-mapped cache of bounded size. One thread at a time.
 */
typedef struct IntroFrames IntroFrames;

IntroFrames *intro_frames_new(VmmMemory *mem);
void intro_frames_free(IntroFrames *frames); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IntroFrames, intro_frames_free)

VmmMemory *intro_frames_memory(IntroFrames *frames); // borrowed
void intro_frames_forget(IntroFrames *frames);

// Whether the guest has RAM for all of [at, at + len).
bool intro_frames_is_ram(const IntroFrames *frames, struct gpa at, uint64_t len);

// The VMM_PAGE_BYTES at a page-aligned address, borrowed until the next call on frames. NULL with
// INTRO_ERROR_FAULT where the guest has no RAM there; a host that cannot read passes its
// VMM_MEMORY_ERROR_IO on.
const uint8_t *intro_frames_get(IntroFrames *frames, struct gpa at, GError **error);

// Copies len bytes; more than a page at a time goes past the cache.
bool intro_frames_read(IntroFrames *frames, struct gpa at, void *ret, size_t len, GError **error);
