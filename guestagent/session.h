// SPDX-License-Identifier: GPL-2.0-or-later
// The agent's loop: one host at a time, one job at a time.
#pragma once

#include "guestagent/error.h"

struct agent_session_options {
    const char *port_path; // NULL: look for the port
    bool verbose;          // say on standard error what happens
};

// Serves hosts until SIGTERM or SIGINT; only then returns true.
bool agent_session_run(const struct agent_session_options *options, GError **error);
