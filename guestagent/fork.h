// SPDX-License-Identifier: GPL-2.0-or-later
// Forking helpers of the agent whose pids are in nobody's way.
#pragma once

#include <stdint.h>
#include <sys/types.h>

// Like fork(), but the child gets a free pid from the top of the range: fresh guests hand out the
// same small numbers, and the next one may well be what an image wants. Falls back to whatever pid
// comes. `flags`: CLONE_FILES or 0.
pid_t agent_fork_high(uint64_t flags);
