// SPDX-License-Identifier: GPL-2.0-or-later
// Finds and connects a virtio-serial port of the machine. Internal to vmm/.
#pragma once

#include <gio/gio.h>

#include "vmm/qmp.h"

// See vmm_machine_open_channel().
GSocketConnection *vmm_channel_open(VmmQmp *qmp, const char *port_name, GError **error);

// What query-chardev says in "filename":
//   disconnected:unix:/path,server=on    nobody is connected
//   unix:/path,server=on                 somebody is; QEMU 7.2 leaves the rest out: "unix:"
// False: this is no unix socket. *ret_path is NULL where it is not given; free with g_free.
bool vmm_channel_parse_filename(const char *filename, char **ret_path, bool *ret_connected);
