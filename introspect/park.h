// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: the safe-point rule: may a thread be captured where it is?
#pragma once

#include "introspect/context.h"

// Decides where the thread is and fills the registers, state, restart and blocked fields of rec. mm
// is its address space, which has its record already. BUSY, naming the thread and what it does,
// where it must be let run on.
bool intro_park(struct intro_ctx *c, struct gva task, struct gva mm, struct fmt_task *rec,
                GError **error);
