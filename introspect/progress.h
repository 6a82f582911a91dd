// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: how much a call that sleeps has already done.
#pragma once

#include "introspect/syscall.h"

// What a call that transfers bytes has done.
struct intro_progress {
    bool known;
    uint64_t messages; // of sendmmsg and recvmmsg: those that are done; *bytes* counts in the next
    uint64_t bytes;
};

// Reads it off the kernel stack, where the kernel counts what remains (struct iov_iter). Not known
// where there is no such count, or it does not fit the arguments of the call.
bool intro_progress(struct intro_ctx *c, const struct intro_where *where,
                    const struct intro_call *call, struct intro_progress *ret, GError **error);
