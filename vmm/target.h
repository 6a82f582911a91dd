// SPDX-License-Identifier: GPL-2.0-or-later
// Target names: which guest the user means, and how it is reached. Internal to vmm/.
#pragma once

#include <glib.h>
#include <stdbool.h>

enum vmm_target_kind {
    VMM_TARGET_SOCKET, // qmp:/path/to/socket
    VMM_TARGET_DOMAIN, // anything else: a domain of libvirt by name, UUID or id
};

typedef struct vmm_target {
    enum vmm_target_kind kind;
    char *socket; // absolute path
    char *domain;
    char *uri; // of libvirt, NULL: whatever libvirt takes by itself
} vmm_target;

// uri: libvirt's, NULL: as virsh has it ($VIRSH_DEFAULT_CONNECT_URI, then libvirt's own default).
// Error: VMM_ERROR_TARGET.
bool vmm_target_parse(const char *name, const char *uri, struct vmm_target *ret, GError **error);
void vmm_target_clear(struct vmm_target *target);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(vmm_target, vmm_target_clear)
