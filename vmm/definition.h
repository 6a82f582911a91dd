// SPDX-License-Identifier: GPL-2.0-or-later
// What libvirt has written down about a domain, running or not: its state, its virtio-serial ports.
#pragma once

#include <glib.h>
#include <stdbool.h>

// Not to be kept for long: nothing answers libvirt's questions whether we are still there.
typedef struct VmmDefinition VmmDefinition;

// target: a domain's name, UUID or id; uri: libvirt's, NULL: as virsh has it by itself. Errors:
// VMM_ERROR_TARGET (names no domain), CONNECT, UNSUPPORTED (no QEMU behind this URI).
VmmDefinition *vmm_definition_open(const char *target, const char *uri, GError **error);
void vmm_definition_free(VmmDefinition *def); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmDefinition, vmm_definition_free)

// Borrowed until vmm_definition_free.
const char *vmm_definition_name(const VmmDefinition *def);
const char *vmm_definition_uuid(const VmmDefinition *def);
const char *vmm_definition_uri(const VmmDefinition *def);

// Whether there is a QEMU that runs it, or holds it paused.
bool vmm_definition_is_active(const VmmDefinition *def);
// Fails with VMM_ERROR_STATE where its disks are not at rest: it is active, or saved to disk.
bool vmm_definition_check_off(const VmmDefinition *def, GError **error);

enum vmm_port {
    VMM_PORT_ABSENT,
    VMM_PORT_FOREIGN, // there, by somebody else's hand
    VMM_PORT_OURS,    // there, and vmm_definition_add_port has put it there
};

// The virtio-serial port of this name in what the domain is started with next.
bool vmm_definition_find_port(VmmDefinition *def, const char *port, enum vmm_port *ret,
                              GError **error);
// To be called where it is absent.
bool vmm_definition_add_port(VmmDefinition *def, const char *port, GError **error);
// To be called where it is ours.
bool vmm_definition_remove_port(VmmDefinition *def, const char *port, GError **error);
