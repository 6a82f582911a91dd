// SPDX-License-Identifier: GPL-2.0-or-later
// What restore and migrate have in common: the agent's option, and a process that has arrived.
#pragma once

#include "cli/cli.h"

#define CLI_AGENT_TIMEOUT_OPTION(variable)                                                         \
    {                                                                                              \
        "agent-timeout", 0, 0, G_OPTION_ARG_DOUBLE, (variable),                                    \
            "Give up when an agent says nothing for so long (default 10)", "SECONDS"               \
    }

// Adds new_pid, pids (uint32_t, root first, as the guest sees them) and notes (char *).
void cli_arrival_add_json(struct json_object *obj, const GArray *pids, const GPtrArray *notes);
// Each difference on a line, unless --quiet.
void cli_print_notes(const struct cli *cli, const GPtrArray *notes);
