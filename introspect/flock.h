// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: locks on the files of a tree.
#pragma once

#include "introspect/context.h"

// To be called when all descriptor tables have been read: records the locks that the tree holds,
// refuses where it waits for those of others.
bool intro_locks(struct intro_ctx *c, GError **error);
