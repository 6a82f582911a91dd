// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: walking descriptor tables, in and outside of the captured tree.
#pragma once

#include "introspect/context.h"

// Called for each open descriptor in order; file is 0 where the descriptor is taken but not
// installed yet (an open in progress).
typedef bool (*intro_fd_fn)(uint64_t fd, struct gva file, bool cloexec, void *user, GError **error);
bool intro_walk_fds(IntroKernel *k, struct gva files, intro_fd_fn fn, void *user, GError **error);

// Who outside of the captured tree has which file open: address of a struct file or of an inode ->
// a phrase like "process 12 (cat) as descriptor 3" (char *). The caller frees the table.
GHashTable *intro_outside_holders(struct intro_ctx *c, GError **error);

// Makes the refusals that follow speak of a process and a descriptor through which the tree holds
// `object`, a FILE or what one refers to (PIPE, SHM ...); of the tree's root where there is none.
void intro_blame_holder(struct intro_ctx *c, uint64_t object);
