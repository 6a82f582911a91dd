// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: what unix.c and unix_queue.c share.
#pragma once

#include "introspect/socket.h"

// A message of which the sender is to be found once all sockets are known.
struct intro_sent {
    struct fmt_unix_message *message;
    struct gva sender; // struct sock
};

// unix_queue.c: reads what waits in socket i of c->sockets, connections or messages; adds to `sent`
// (of struct intro_sent) those with a sender, and to c->sockets what it finds.
bool intro_unix_queue(struct intro_ctx *c, guint i, GArray *sent, GError **error);
