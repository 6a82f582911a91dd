// SPDX-License-Identifier: GPL-2.0-or-later
// Ctrl-C and its kin, at places where something has to be undone first.
#pragma once

#include "cli/cli.h"

/*
 * Until cli_signals_hold, SIGINT, SIGTERM and SIGHUP end the process at once: there is nothing to
 * undo. From then on they make cli->signal_fd readable, waits end with INTERRUPTED, and the command
 * undoes what it did. main() then ends the process by the signal, as the shell expects.
 */
void cli_signals_hold(struct cli *cli);

// Has one come? Then sets INTERRUPTED, unless the command is committed. Does not wait.
bool cli_signals_check(struct cli *cli, GError **error);

// Ends the process by this signal.
G_NORETURN void cli_signals_die(int signal);
