// SPDX-License-Identifier: GPL-2.0-or-later
// What other files of this folder do to an image and users may not.
#pragma once

#include "formats/image.h"

// Like fmt_image_add with an objref that is not taken yet.
void *fmt_image_add_as(FmtImage *img, enum fmt_type type, uint64_t objref);

// The lowest objref above all that are in use.
uint64_t fmt_image_next_ref(const FmtImage *img);

// Adds an extent as it was read: objref and hash stay.
void fmt_image_append_extent(FmtImage *img, const struct fmt_extent *extent);

// Where addresses lead. Made anew at the first look-up after something was added.
struct image_index {
    bool vmas_fresh;
    bool extents_fresh;
    GPtrArray *vmas;    // struct fmt_vma by (mm, start)
    GPtrArray *extents; // struct fmt_extent by (owner, start)
};

// The index of an image, fresh or not.
struct image_index *fmt_image_index(const FmtImage *img);
