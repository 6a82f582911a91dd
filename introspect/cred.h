// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: credentials (struct cred).
#pragma once

#include "introspect/context.h"

// One struct cred into a CRED record; tasks that share it share the record. Returns its objref.
uint64_t intro_cred(struct intro_ctx *c, struct gva cred, GError **error);
