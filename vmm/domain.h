// SPDX-License-Identifier: GPL-2.0-or-later
// A domain of libvirt, as far as a guest's monitor goes. Internal to vmm/.
#pragma once

#include <libvirt/libvirt.h>

#include "vmm/target.h"

// Connects and finds the domain by name, UUID or id. *ret_conn and *ret_dom are the caller's, to be
// freed with vmm_domain_close. Errors: CONNECT (no libvirtd, no such domain, permission),
// UNSUPPORTED (no QEMU behind this URI).
bool vmm_domain_open(const struct vmm_target *target, virConnectPtr *ret_conn,
                     virDomainPtr *ret_dom, GError **error);
void vmm_domain_close(virConnectPtr conn, virDomainPtr dom); // NULL-safe, both

// Sets an error from what libvirt said last: "WHAT: libvirt's words". Returns false.
bool vmm_domain_fail(GError **error, const char *what);

// Fails with STATE where the domain has no QEMU, or somebody else's job has hold of it.
bool vmm_domain_check(virDomainPtr dom, GError **error);

// For the watchdog: lets the domain run if it is paused by request; with `pause`, suspends it if it
// runs. True: nothing is left to do.
bool vmm_domain_rescue(const struct vmm_target *target, bool pause);
// Likewise: ends the NBD server of the domain's QEMU.
bool vmm_domain_end_disks(const struct vmm_target *target);
