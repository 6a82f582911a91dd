// SPDX-License-Identifier: GPL-2.0-or-later
// The kinds of refusal, and which of them a user may accept as a loss.
#pragma once

#include <stddef.h>

struct fmt_refusal {
    const char *kind;    // short name, e.g. external-pipe
    const char *meaning; // what of a process it speaks of
    const char *loss; // what becomes of it where the user allows that; NULL: it cannot be allowed
};

// All of them, in order of their names (refusals.def); static.
const struct fmt_refusal *fmt_refusals(size_t *ret_n);

// NULL for a kind that there is none of.
const struct fmt_refusal *fmt_refusal_find(const char *kind);
