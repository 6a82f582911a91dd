// SPDX-License-Identifier: GPL-2.0-or-later
// A kernel of which nothing is there but some memory and the places of some members.
#pragma once

#include "introspect/kernel.h"

/*
 * TOY_PAGES of RAM from guest physical address 0 on, all of it in the direct map at TOY_BASE. The
 * members that the walks of introspect/ read are where Linux 6.1 has them. There are no symbols.
 */
#define TOY_PAGES 64
#define TOY_BYTES (TOY_PAGES * 4096u)
#define TOY_BASE  0xffff888000000000ull

struct toy {
    uint8_t *ram;
    IntroKernel *k;
};

// With the first `size_bytes` bytes of RAM copied from `bytes` (may be NULL).
void toy_init(struct toy *toy, const void *bytes, size_t size_bytes);
void toy_clear(struct toy *toy);

// Writes at an offset into RAM.
void toy_put(struct toy *toy, uint64_t at, uint64_t value, size_t size_bytes);
#define TOY(offset) GVA(TOY_BASE + (offset))
