// SPDX-License-Identifier: GPL-2.0-or-later
// A child process that puts a guest's pause right if this process dies in the middle of it.
// Internal to vmm/.
#pragma once

#include "vmm/target.h"

/*
 *   us        -> P   the guest is about to be paused
 *   us        -> L   a guest that somebody else has paused is about to be let run for a moment
 *   us        -> R   it is again as it was, or stays as it is by intent
 *   us        -> N   QEMU serves the guest's disks for us
 *   us        -> n   no longer
 *   (closed)         after N: connect, and end that
 *                    after P: connect, and let the guest run if it is paused
 *                    after L: connect, and pause the guest if it runs
 *                    after R: exit
 *
 * The child holds nothing but its end of that channel, has its own session and default signals, so
 * that what kills this process (SIGKILL, a closed terminal) does not reach it.
 */
typedef struct VmmWatchdog VmmWatchdog;

// Forks the child. Call it before the process has grown, and before any pause.
VmmWatchdog *vmm_watchdog_start(const struct vmm_target *target, GError **error);

// What the child does if we die.
enum vmm_rescue { VMM_RESCUE_RESUME = 'P', VMM_RESCUE_PAUSE = 'L' };

// Each is one byte on a socket: microseconds. False: the child is gone (VMM_ERROR_STATE).
bool vmm_watchdog_arm(VmmWatchdog *dog, enum vmm_rescue rescue, GError **error);
void vmm_watchdog_disarm(VmmWatchdog *dog);

// Whether QEMU's NBD server is ours, and to be ended with us.
bool vmm_watchdog_serving(VmmWatchdog *dog, bool serving, GError **error);

// Ends the child; where it is armed it does that first, which is why the QMP connection
// must have been closed by then. NULL-safe.
void vmm_watchdog_stop(VmmWatchdog *dog);
