// SPDX-License-Identifier: GPL-2.0-or-later
// What QEMU's run states mean for somebody who wants to pause the guest.
#include "vmm/runstate.h"

#include <string.h>

#include "vmm/machine.h"

// RunState of QEMU's qapi/run-state.json.
static const struct {
    const char *name;
    enum vmm_run run;
    const char *reason;
} states[] = {
    {"running", VMM_RUN_RUNNING, NULL},
    {"paused", VMM_RUN_PAUSED, NULL},
    {"debug", VMM_RUN_STOPPED, "a debugger has stopped it"},
    {"guest-panicked", VMM_RUN_STOPPED, "its kernel has panicked"},
    {"internal-error", VMM_RUN_STOPPED, "QEMU has stopped it on an error of its own"},
    {"io-error", VMM_RUN_STOPPED, "it stopped when a disk of it failed"},
    // -S, also of a VM that was loaded from a snapshot
    {"prelaunch", VMM_RUN_STOPPED, "nobody has let it run yet"},
    {"watchdog", VMM_RUN_STOPPED, "its watchdog has stopped it"},
    {"colo", VMM_RUN_REFUSED, "it is one half of a fault-tolerant pair"},
    {"finish-migrate", VMM_RUN_REFUSED, "it is being migrated away"},
    {"inmigrate", VMM_RUN_REFUSED, "it is still being migrated in"},
    {"postmigrate", VMM_RUN_REFUSED, "it has been migrated away"},
    {"restore-vm", VMM_RUN_REFUSED, "a snapshot is being restored"},
    {"save-vm", VMM_RUN_REFUSED, "a snapshot is being saved"},
    {"shutdown", VMM_RUN_REFUSED, "it has shut down"},
    {"suspended", VMM_RUN_REFUSED, "it sleeps (ACPI S3) and may wake by itself"},
};

bool vmm_runstate_query(VmmQmp *qmp, enum vmm_run *ret, const char **ret_reason, GError **error)
{
    g_autoptr(VmmJson) answer = vmm_qmp_call(qmp, "query-status", NULL, -1, error);
    const char *name;

    if (!answer)
        return false;
    name = vmm_json_string(answer, "status");
    for (size_t i = 0; name && i < G_N_ELEMENTS(states); i++) {
        if (strcmp(states[i].name, name) != 0)
            continue;
        *ret = states[i].run;
        *ret_reason = states[i].reason;
        return true;
    }
    g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QEMU reports an unknown state: %s",
                name ? name : "none");
    return false;
}

bool vmm_runstate_check_migration(VmmQmp *qmp, GError **error)
{
    static const char *const idle[] = {"none", "completed", "failed", "cancelled", NULL};
    g_autoptr(VmmJson) answer = vmm_qmp_call(qmp, "query-migrate", NULL, -1, error);
    const char *status;

    if (!answer)
        return false;
    status = vmm_json_string(answer, "status"); // missing where there never was a migration
    if (!status || g_strv_contains(idle, status))
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "a migration is under way (%s)", status);
    return false;
}
