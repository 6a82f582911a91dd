// SPDX-License-Identifier: GPL-2.0-or-later
// One domain: its requests, the answers to them, and what is being done.
#pragma once

#include <libvirt/libvirt.h>

#include "daemon/watcher.h"

// What all domains share.
struct daemon_house {
    const struct daemon_options *options;
    virConnectPtr conn; // NULL: not there just now
    GHashTable *busy;   // UUIDs (char *, owned) of the domains that a job has to do with
    unsigned n_jobs;
    bool quit;                     // nothing new is begun
    void (*job_ended)(void *user); // another domain may have waited for that
    void *user;
};

typedef struct DaemonDomain DaemonDomain;

// house is borrowed and lives longer.
DaemonDomain *daemon_domain_new(struct daemon_house *house, const char *uuid);
void daemon_domain_free(DaemonDomain *d); // while no job of it runs

const char *daemon_domain_uuid(const DaemonDomain *d);
bool daemon_domain_is_busy(const DaemonDomain *d);

// Reads the requests in its metadata anew, and goes on.
void daemon_domain_look(DaemonDomain *d, virDomainPtr dom);
// Begins what can be begun; says what could not be said before.
void daemon_domain_go_on(DaemonDomain *d);
// Whether there are answers that libvirt would not take: to be tried again.
bool daemon_domain_is_behind(const DaemonDomain *d);
// Ends its job, as Ctrl-C would.
void daemon_domain_interrupt(DaemonDomain *d);
