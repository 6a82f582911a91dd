// SPDX-License-Identifier: GPL-2.0-or-later
// An image for people.
#pragma once

#include "formats/image.h"

// Prints where the image comes from and what it holds: processes, threads, mappings, descriptors.
void cli_print_image(const FmtImage *img);
