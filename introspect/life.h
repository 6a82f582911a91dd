// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: whether a process lives, is stopped or has ended.
#pragma once

#include "introspect/task.h"

// Reads it into proc: state, exit_code, stop_signal, continued. BUSY where it is changing.
bool intro_life(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc, GError **error);

// The TASK of a leader that has ended: of a zombie, or of a process whose other threads go on.
bool intro_ended_leader(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc,
                        GError **error);

// A thread that has not ended; *ret is the leader where that is one. Address 0 for a zombie.
bool intro_main_thread(IntroKernel *k, struct gva leader, struct gva *ret, GError **error);
