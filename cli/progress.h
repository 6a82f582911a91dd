// SPDX-License-Identifier: GPL-2.0-or-later
// A line on the terminal that tells how far long work has come.
#pragma once

#include "cli/cli.h"

// Nothing is shown where stderr is no terminal, with --quiet, or in the first half second.
typedef struct CliProgress CliProgress;

// `what` is shown before the figures and must outlive the object. total_bytes 0: not known.
CliProgress *cli_progress_new(const struct cli *cli, const char *what, uint64_t total_bytes);
void cli_progress_set(CliProgress *p, uint64_t done_bytes);
void cli_progress_end(CliProgress *p); // wipes the line and frees; NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliProgress, cli_progress_end)
