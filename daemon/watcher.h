// SPDX-License-Identifier: GPL-2.0-or-later
// Watches the domains of one libvirt for requests and has them done.
#pragma once

#include <glib.h>
#include <stdbool.h>

/*
 *   virsh metadata DOM urn:vmgraft:request --key vmgraft --set '<capture .../>'
 *       -> the domain's metadata changes -> look -> journal: running -> vmgraft capture ...
 *       -> journal: done -> the domain's metadata, urn:vmgraft:answer
 *
 * A domain's requests are looked at when they change, when the domain starts, and when the
 * connection to libvirt has come (back). One is done at a time for each domain, in their order.
 */
typedef struct DaemonWatcher DaemonWatcher;

struct daemon_options {
    char *uri;         // of libvirt, NULL: its default
    char *program;     // the vmgraft command
    char *state;       // folder of the journal
    int lock;          // of the journal
    GStrv folders;     // where captures may go: absolute, without symbolic links
    unsigned max_jobs; // at once
};

// options are borrowed.
DaemonWatcher *daemon_watcher_new(const struct daemon_options *options);
void daemon_watcher_free(DaemonWatcher *w); // NULL-safe

// Connects, or tries again later and so for ever. From the event loop of libvirt.
void daemon_watcher_connect(DaemonWatcher *w);

// Begins nothing new, and interrupts what is being done.
void daemon_watcher_quit(DaemonWatcher *w);
// Whether that is over.
bool daemon_watcher_is_idle(const DaemonWatcher *w);
