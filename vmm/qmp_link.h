// SPDX-License-Identifier: GPL-2.0-or-later
// The ways on which QMP reaches QEMU: a socket of its own, or libvirt's. Internal to vmm/qmp*.c.
#pragma once

#include "vmm/qmp.h"

struct vmm_qmp_link {
    // One request ({"execute", "arguments"}; borrowed) and its answer: an object with "return" or
    // "error", owned by the caller. NULL with an error where none came.
    VmmJson *(*exchange)(void *user, VmmJson *request, int fd, GError **error);
    // The process id of QEMU as this process sees it.
    bool (*pid)(void *user, VmmQmp *qmp, pid_t *ret, GError **error);
    // How often the guest was started since the link was opened. Where events may come after the
    // answer to what caused them: waits for them (some seconds) until there are `expected`.
    unsigned (*n_resumes)(void *user, unsigned expected);
    // NULL: by the commands `stop` and `cont`.
    bool (*stop)(void *user, GError **error);
    bool (*cont)(void *user, GError **error);
    void (*idle)(void *user, unsigned ms); // NULL: to sleep will do
    void (*close)(void *user);
};

// link is borrowed, user is closed with the client.
VmmQmp *vmm_qmp_new(const struct vmm_qmp_link *link, void *user);

// qmp_domain.c: through the libvirt connection of a domain. Errors: CONNECT (no such domain, no
// libvirtd, permission), STATE (it does not run), UNSUPPORTED (not QEMU's driver), TIMEOUT.
VmmQmp *vmm_qmp_domain_open(const struct vmm_target *target, GError **error);
