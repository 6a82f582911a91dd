// SPDX-License-Identifier: GPL-2.0-or-later
// Which process the user means: by pid, or by something that it is known by.
#pragma once

#include "cli/guest.h"

/*
 *   4009             its pid
 *   name:nginx       its name, as `ps -o comm` has it
 *   cgroup:/a/b      in this cgroup of the hierarchy version 2, or below it
 *   port:443         a TCP port that it listens on, or a UDP port that it is bound to
 *
 * Of several that fit, the one is meant that all others descend from; where there is none such, it
 * is an error that names their pids.
 */

// Whether text is one of these forms; CLI_ERROR_USAGE where not.
bool cli_select_check(const char *text, GError **error);

// Looks into the guest, which is paused for that where text is no pid.
bool cli_select(struct cli *cli, struct cli_guest *guest, const char *text, uint32_t *ret_pid,
                GError **error);
