// SPDX-License-Identifier: GPL-2.0-or-later
// An image as a command is given it.
#pragma once

#include "cli/cli.h"
#include "formats/image.h"

// Loads and checks all of FILE; "-" is standard input, which must not be a terminal.
FmtImage *cli_load_image(const char *path, GError **error);
// Of a vmgraft that runs for one of another host: from descriptor 3.
FmtImage *cli_load_image_here(GError **error);
// For who passes it on unread; -1 on failure.
int cli_open_image(const char *path, GError **error);
