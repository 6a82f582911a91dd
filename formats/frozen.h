// SPDX-License-Identifier: GPL-2.0-or-later
// What an agent that has stopped a tree tells whoever looks at it from outside.
#pragma once

// orig_rax of a thread that slept in a call which a handler, and also a stop, ends with EINTR: it
// is wound back to the instruction that enters the call. To a kernel it is a thread in no call, as
// -1.
#define FMT_FROZEN_IN_CALL (-2)
