// SPDX-License-Identifier: GPL-2.0-or-later
// A client of the QEMU Machine Protocol. Internal to vmm/.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <sys/types.h>

#include "vmm/target.h"

/*
 *   QEMU   -> {"QMP": {...}}                        greeting, once
 *   client -> {"execute": NAME, "arguments": {...}, "id": N}
 *   QEMU   -> {"return": VALUE, "id": N}  or  {"error": {"class", "desc"}, "id": N}
 *   QEMU   -> {"event": NAME, ...}                  at any time
 *
 * One JSON value a line. A QMP socket serves one client; a second one may connect but is not
 * greeted until the first has gone. One thread.
 */
typedef struct VmmQmp VmmQmp;

// Reaches QEMU the way the target says: by its socket, or through libvirt. Errors as below, and
// STATE where a domain does not run.
VmmQmp *vmm_qmp_open(const struct vmm_target *target, GError **error);

// Connects and negotiates. Errors: TARGET (the path does not fit a socket address), CONNECT (nobody
// listens, permission), TIMEOUT (accepted but never greeted: another client holds the socket),
// PROTOCOL (no QMP).
VmmQmp *vmm_qmp_connect(const char *path, GError **error);
void vmm_qmp_close(VmmQmp *qmp); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmQmp, vmm_qmp_close)

typedef struct json_object VmmJson;
static inline void vmm_json_put(VmmJson *value)
{
    json_object_put(value);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmmJson, vmm_json_put)

// Runs a command and returns its value, owned by the caller. args is consumed, may be NULL.
// fd: passed along with the command, or -1. Errors: UNSUPPORTED (QEMU has no such command), STATE
// (QEMU refused, in its words), TIMEOUT, PROTOCOL, CONNECT (the connection broke).
VmmJson *vmm_qmp_call(VmmQmp *qmp, const char *command, VmmJson *args, int fd, GError **error);

// Runs a command for its effect.
bool vmm_qmp_do(VmmQmp *qmp, const char *command, GError **error);

// Runs a line of the human monitor and returns what it printed; free with g_free.
char *vmm_qmp_hmp(VmmQmp *qmp, const char *line, GError **error);

// Pause and start of the guest, such that whoever manages it knows too.
bool vmm_qmp_stop(VmmQmp *qmp, GError **error);
bool vmm_qmp_cont(VmmQmp *qmp, GError **error);

// QEMU's process. UNSUPPORTED where it is not visible from here (another host or pid namespace).
bool vmm_qmp_pid(VmmQmp *qmp, pid_t *ret, GError **error);

// How often QEMU has reported since connecting that the guest runs again. Reports may be late:
// where fewer than `expected` have come it waits some seconds for them.
unsigned vmm_qmp_n_resumes(VmmQmp *qmp, unsigned expected);

// Lets that many milliseconds pass. libvirtd drops whom it has not heard of for half a minute.
void vmm_qmp_idle(VmmQmp *qmp, unsigned ms);

// Members of QMP answers, typed. False/NULL where it is missing or of another type; borrowed.
const char *vmm_json_string(const VmmJson *object, const char *key);
bool vmm_json_bool(const VmmJson *object, const char *key, bool *ret);
bool vmm_json_int(const VmmJson *object, const char *key, int64_t *ret);
