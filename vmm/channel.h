// SPDX-License-Identifier: GPL-2.0-or-later
// Finds and connects a virtio-serial port of the machine. Internal to vmm/.
#pragma once

#include <gio/gio.h>

#include "vmm/qmp.h"

// See vmm_machine_open_channel().
GSocketConnection *vmm_channel_open(VmmQmp *qmp, const char *port_name, GError **error);

// The path in a chardev's description, "unix:/path,server=on" or
// "disconnected:unix:/path,server=on"; NULL where it is none of a unix socket. *ret_connected:
// somebody is connected. Free with g_free.
char *vmm_channel_parse_filename(const char *filename, bool *ret_connected);
