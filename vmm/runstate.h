// SPDX-License-Identifier: GPL-2.0-or-later
// What QEMU's run states mean for somebody who wants to pause the guest. Internal to vmm/.
#pragma once

#include "vmm/qmp.h"

enum vmm_run {
    VMM_RUN_RUNNING, // the vCPUs run
    VMM_RUN_PAUSED,  // stopped by `stop`
    VMM_RUN_STOPPED, // stopped for another reason, RAM and registers are whole
    VMM_RUN_REFUSED, // there is nothing to be read that would be true
};

// Asks QEMU. *ret_reason: why it is refused or stopped, a constant; NULL otherwise.
bool vmm_runstate_query(VmmQmp *qmp, enum vmm_run *ret, const char **ret_reason, GError **error);

// Refuses (VMM_ERROR_STATE) while a migration is under way: it stops and starts the guest as it
// sees fit, and a `cont` after it has completed would let the guest run in two places.
bool vmm_runstate_check_migration(VmmQmp *qmp, GError **error);
