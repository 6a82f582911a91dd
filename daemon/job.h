// SPDX-License-Identifier: GPL-2.0-or-later
// A request being carried out: one run of the vmgraft command.
#pragma once

#include "daemon/journal.h"
#include "daemon/request.h"

/*
 * The command runs as a process of its own, so that whatever a guest does to it is not done to the
 * daemon. It gets SIGTERM when the daemon dies, and then leaves the guest as it was. It holds the
 * journal's lock as long as it lives.
 */
typedef struct DaemonJob DaemonJob;

// Called from libvirt's event loop when the command has ended: result is DONE, FAILED or REFUSED,
// with pause_ms and message set. The job is freed afterwards.
typedef void (*daemon_job_fn)(const struct daemon_entry *result, void *user);

struct daemon_job_spec {
    const char *program; // the vmgraft command
    const char *uri;     // libvirt's, NULL: its default
    const char *domain;
    const char *target;    // of a move
    const char *file;      // capture: where to
    const char *out, *err; // what the command says goes there
    int lock;              // daemon_journal_lock's
};

// Starts it; NULL with DAEMON_ERROR_STATE where that fails. Everything is borrowed for the call.
DaemonJob *daemon_job_start(const struct daemon_job_spec *spec,
                            const struct daemon_request *request, daemon_job_fn done, void *user,
                            GError **error);
// Ends it as Ctrl-C would. It is over when done is called.
void daemon_job_interrupt(DaemonJob *job);

// How a command ended that another daemon had begun, from what it said; FAILED where it did not
// come to an end.
struct daemon_entry *daemon_job_result(const char *out, const char *err, const char *domain);

// Of the files that such requests have written before the oldest are dropped, but never `file`, the
// one of now.
void daemon_job_prune(const struct daemon_request *request, const char *file);
// Where a capture goes: `to`, with the time where several are kept. Free with g_free.
char *daemon_job_file(const struct daemon_request *request, const char *to);
