// SPDX-License-Identifier: GPL-2.0-or-later
// Refusals as the user sees them, and those that the user allows.
#pragma once

#include "cli/cli.h"

// One reason in a list of char *: "pid 812 fd 7: external-pipe: has a pipe ...". pid is 0 and fd -1
// where there is none. Owned by the caller. The agent writes its own in the same way.
char *cli_reason(uint64_t pid, int64_t fd, const char *kind, const char *text);

// Orders reasons (char *) by pid, descriptor and kind.
void cli_reasons_sort(GPtrArray *reasons);

// An array of {kind, pid, fd, text} from reasons (char *); pid and fd only where there is one.
struct json_object *cli_reasons_json(const GPtrArray *reasons);

// The kinds among the reasons that --allow would take, separated by commas; NULL where there is
// none, or where others would remain. Owned by the caller.
char *cli_reasons_allowable(const GPtrArray *reasons);

// Adds the kinds (NULL: none; several in one string are separated by commas) to `ret` as static
// strings. Kinds that are unknown or cannot be allowed are CLI_ERROR_USAGE.
bool cli_parse_allow(char *const *kinds, GPtrArray *ret, GError **error);

// For --help: every kind that --allow takes, and what becomes of it. Owned by the caller.
char *cli_allow_help(void);
