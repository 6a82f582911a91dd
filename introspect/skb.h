// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: socket buffers (struct sk_buff).
#pragma once

#include "introspect/context.h"

// Called for each buffer of a queue, in order.
typedef bool (*intro_skb_fn)(struct gva skb, void *user, GError **error);

// Walks the receive queue of a struct sock.
bool intro_walk_receive_queue(IntroKernel *k, struct gva sk, intro_skb_fn fn, void *user,
                              GError **error);

// The bytes that a buffer holds; NULL with error.
GBytes *intro_skb_data(IntroKernel *k, struct gva skb, GError **error);
