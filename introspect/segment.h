// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: segments of a program's own, and 32-bit address spaces.
#pragma once

#include "introspect/context.h"

// Fills ia32 and ldt of an MM record; refuses x32.
bool intro_segments_mm(struct intro_ctx *c, struct gva mm, struct fmt_mm *rec, GError **error);

// Fills tls0..tls2 of a TASK record and, where the kernel does not keep them, its fs and gs bases.
bool intro_segments_task(struct intro_ctx *c, struct gva task, struct fmt_task *rec,
                         GError **error);
