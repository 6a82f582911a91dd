// SPDX-License-Identifier: GPL-2.0-or-later
// Where a captured image goes: a file, whole or not at all, or standard output.
#pragma once

#include "cli/cli.h"
#include "formats/image.h"

typedef struct CliOutput CliOutput;

// Checks that the output can be written, before any guest is touched. "-" is standard output, which
// must not be a terminal.
CliOutput *cli_output_open(const char *path, GError **error);
void cli_output_free(CliOutput *out); // NULL-safe; without a successful write nothing is left
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliOutput, cli_output_free)

// Of a vmgraft that runs for one of another host: descriptor 3.
CliOutput *cli_output_here(void);

bool cli_output_is_stdout(const CliOutput *out);

// For who has the image written by others.
int cli_output_fd(const CliOutput *out); // borrowed
bool cli_output_commit(CliOutput *out, GError **error);

// Writes all of it, with progress; a signal ends it with INTERRUPTED.
bool cli_output_write(CliOutput *out, struct cli *cli, const FmtImage *img, GError **error);
