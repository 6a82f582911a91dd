// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: signal actions and pending signals.
#pragma once

#include "introspect/context.h"

// struct sighand_struct into a SIGHAND record and its SIGACTIONs. Returns its objref.
uint64_t intro_sighand(struct intro_ctx *c, struct gva sighand, GError **error);

// struct sigpending into SIGNAL records that belong to owner (a PROC or TASK).
bool intro_sigpending(struct intro_ctx *c, struct gva pending, uint64_t owner, GError **error);
