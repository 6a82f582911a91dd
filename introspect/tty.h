// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: pseudo terminals.
#pragma once

#include "introspect/file.h"
#include "introspect/progress.h"
#include "introspect/reentry.h"

// Records an open terminal where that is a pseudo terminal; *ret_is_pty is false for others, of
// which nothing is recorded.
bool intro_record_tty(struct intro_opened *o, bool *ret_is_pty, GError **error);

// The controlling terminal of a process, by its signal_struct.
bool intro_terminal(struct intro_ctx *c, struct gva signal, struct fmt_proc *proc, GError **error);

// To be called when all descriptor tables have been read: refuses terminals that somebody outside
// of the tree has as well.
bool intro_tty_check_peers(struct intro_ctx *c, GError **error);

// ttywait.c: what a read that sleeps in n_tty_read() has taken. *ret is INTRO_NOTHING_DONE as well
// where that is back in the record of the terminal, for the call to take it anew.
bool intro_tty_read(struct intro_reentry *e, enum intro_transfer *ret, GError **error);

// Whether a read that our agent has interrupted returned less than VMIN. What it did is back in the
// record of the terminal then, for the call to take it anew.
bool intro_tty_read_cut(struct intro_reentry *e, bool *ret, GError **error);

// As intro_tty_read(), of a write that sleeps in n_tty_write(), or before it.
bool intro_tty_written(struct intro_reentry *e, struct intro_progress *ret, GError **error);
