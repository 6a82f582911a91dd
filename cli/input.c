// SPDX-License-Identifier: GPL-2.0-or-later
// An image as a command is given it.
#include "cli/input.h"

#include <string.h>
#include <unistd.h>

#include "formats/stream.h"

FmtImage *cli_load_image(const char *path, GError **error)
{
    FmtImage *img;

    if (strcmp(path, "-") != 0)
        return fmt_load(path, error);
    if (isatty(STDIN_FILENO)) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE,
                    "an image is binary and standard input is a terminal: redirect it");
        return NULL;
    }
    img = fmt_load_fd(STDIN_FILENO, error);
    if (!img)
        g_prefix_error(error, "standard input: ");
    return img;
}
