// SPDX-License-Identifier: GPL-2.0-or-later
// The agent's end of the channel: a virtio-serial port, or a unix socket.
#pragma once

#include "guestagent/error.h"

/*
 * Opens the port, not blocking, with SIGIO for every change of it. `path` is that of a character
 * device or of a unix socket that somebody listens on; NULL: the port named AGENT_PORT_NAME,
 * wherever it is; then *ret_fd is -1 without an error where the machine has no such port yet.
 */
bool agent_channel_open(const char *path, int *ret_fd, GError **error);
