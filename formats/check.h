// SPDX-License-Identifier: GPL-2.0-or-later
// The rules that every image obeys: the encoder writes no other, the decoder takes no other.
#pragma once

#include "formats/image.h"

// References lead to records of the right type, mappings are in order and do not overlap.
bool fmt_check_records(const FmtImage *img, GError **error);

// Extents, one after the other: owned, aligned, ascending, inside a mapping.
typedef struct FmtExtentCheck FmtExtentCheck;
FmtExtentCheck *fmt_extent_check_new(const FmtImage *img); // borrows img
void fmt_extent_check_free(FmtExtentCheck *check);         // NULL-safe
bool fmt_extent_check(FmtExtentCheck *check, const struct fmt_pages *pages, GError **error);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FmtExtentCheck, fmt_extent_check_free)
