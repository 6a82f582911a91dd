// SPDX-License-Identifier: GPL-2.0-or-later
// Puts page contents straight into the RAM of the target guest, past the agent's channel.
#pragma once

#include "cli/guest.h"
#include "formats/stream.h"
#include "guestagent/protocol.h"

/*
 * A virtio-serial port moves some 20 MB/s, memory a thousand times that. On the host that runs the
 * target, the contents of private memory need not go through the port:
 *
 *   agent                                   this process
 *   makes each page private to the process
 *   and marks it with a nonce  ----------->
 *                                           pauses the guest, finds each page by its page tables,
 * checks the mark, writes the contents, resumes
 *                              <-----------
 *   goes on
 *
 * A page that is not where it should be, or whose mark differs, ends the attempt before anything is
 * written: the contents then go through the port.
 */

// Less than this is not worth finding the target's kernel for.
#define CLI_PLACE_MIN_BYTES (2u << 20)

// Bytes of private memory that could be placed.
uint64_t cli_place_bytes(const FmtImage *img);

// placed: struct fmt_extent of img, as from fmt_image_make_live; spaces: the agent's list of {mm,
// pid}.
bool cli_place(struct cli *cli, struct cli_guest *target, const FmtImage *img, const GArray *placed,
               uint64_t nonce, struct json_object *spaces, GError **error);
