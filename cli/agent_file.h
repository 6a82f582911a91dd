// SPDX-License-Identifier: GPL-2.0-or-later
// The agent's program, as a file of this host.
#pragma once

#include <glib.h>

// `given`, or where it is NULL the agent that was built or installed with this vmgraft. An error
// where there is none, or it would not run in a guest: it has to be static, for x86-64. Owned by
// the caller.
char *cli_agent_file(const char *given, GError **error);
