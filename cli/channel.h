// SPDX-License-Identifier: GPL-2.0-or-later
// The channel of a guest's agent, opened by another process or on another host.
#pragma once

#include <gio/gio.h>

#include "cli/remote.h"

/*
 * `vmgraft remote-channel` opens the channel and passes bytes on, between it and its descriptor 3.
 * First it says there in one line how that went: {} or {"error": TEXT}. When either end is closed
 * it ends, which is to the agent as if this process had gone.
 */

// Says that line; failure: NULL for none. False where nobody waits for it.
bool cli_channel_answer(const char *failure);

// Starts it on this host, or on that of the URI, where the operand is a domain. *ret_fd is the
// caller's: a stream socket.
bool cli_channel_start(struct cli *cli, const char *operand, const char *uri, int *ret_fd,
                       GError **error);

// Waits for the line. fd is taken over, also on failure.
GSocketConnection *cli_channel_await(struct cli *cli, int fd, GError **error);
