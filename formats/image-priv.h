// SPDX-License-Identifier: GPL-2.0-or-later
// What the decoder and the encoder do to an image and others may not.
#pragma once

#include "formats/image.h"

// Like fmt_image_add with an objref that is not taken yet.
void *fmt_image_add_as(FmtImage *img, enum fmt_type type, uint64_t objref);

// The lowest objref above all that are in use.
uint64_t fmt_image_next_ref(const FmtImage *img);

// Adds an extent as it was read: objref and hash stay.
void fmt_image_append_extent(FmtImage *img, const struct fmt_extent *extent);
