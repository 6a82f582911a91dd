// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: vector state that the kernel keeps in memory.
#pragma once

#include "introspect/reader.h"

// Bits of XCR0/XSTATE_BV.
#define XFEATURE_X87  (1ull << 0)
#define XFEATURE_SSE  (1ull << 1)
#define XFEATURE_PKRU (1ull << 9)
#define XFEATURE_TILE (3ull << 17)
#define XFEATURE_USER                                                                              \
    (0x602ffull) // what user programs hold in registers; supervisor state is not carried

struct intro_xsave_layout {
    uint32_t
        offset[64]; // standard form, from the guest's own CPUID by way of its kernel; 0: not there
    uint32_t size[64];
    uint64_t aligned; // components that start at a multiple of 64 in the compacted form
};

// Reads where the guest's CPU puts each component.
bool intro_xsave_layout(IntroKernel *k, struct intro_xsave_layout *ret, GError **error);

// Size of a standard-form area with these components.
size_t intro_xsave_bytes(const struct intro_xsave_layout *layout, uint64_t components);

// Turns an XSAVE area (standard or compacted, as xcomp_bv says; of 512 bytes: FXSAVE's) into the
// standard form. Components that are not in it are left in their initial state. The area is
// hostile: sizes are checked. Returns the bytes of the standard form, NULL with
// INTRO_ERROR_CORRUPT. Pure: unit tests and the fuzzer call it.
GBytes *intro_xsave_expand(const struct intro_xsave_layout *layout, const uint8_t *area,
                           size_t area_bytes, GError **error);

// The saved vector state of a task that is on no CPU, in standard form, PKRU included.
GBytes *intro_xsave_of_task(IntroKernel *k, struct gva task,
                            const struct intro_xsave_layout *layout, GError **error);

// The components of the XSAVE area that the process has asked to be allowed, 0 where it had not to.
uint64_t intro_xsave_permitted(IntroReader *r, struct gva task);
