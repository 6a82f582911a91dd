// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: pseudo terminals.
#pragma once

#include "introspect/file.h"

// Records an open terminal where that is a pseudo terminal; *ret_is_pty is false for others, of
// which nothing is recorded.
bool intro_record_tty(struct intro_opened *o, bool *ret_is_pty, GError **error);

// The controlling terminal of a process, by its signal_struct.
bool intro_terminal(struct intro_ctx *c, struct gva signal, struct fmt_proc *proc, GError **error);

// To be called when all descriptor tables have been read: refuses terminals that somebody outside
// of the tree has as well.
bool intro_tty_check_peers(struct intro_ctx *c, GError **error);

// Whether a read of a terminal that sleeps has taken nothing off it yet.
bool intro_tty_read_is_whole(struct intro_ctx *c, struct gva task, uint64_t fd, bool *ret,
                             GError **error);
