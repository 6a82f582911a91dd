// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: open files that were read already, for the checks at the end of a walk.
#pragma once

#include "introspect/context.h"

// The number of references that hold a struct file open (f_count).
bool intro_file_count(IntroKernel *k, struct gva file, uint64_t *ret, GError **error);
