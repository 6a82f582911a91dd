// SPDX-License-Identifier: GPL-2.0-or-later
// An image as a command is given it.
#include "cli/input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "formats/stream.h"

static bool check_stdin(GError **error)
{
    if (!isatty(STDIN_FILENO))
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE,
                "an image is binary and standard input is a terminal: redirect it");
    return false;
}

int cli_open_image(const char *path, GError **error)
{
    const bool is_stdin = strcmp(path, "-") == 0;
    int fd;

    if (is_stdin && !check_stdin(error))
        return -1;
    fd = is_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: %s", path, g_strerror(errno));
    return fd;
}

FmtImage *cli_load_image_here(GError **error)
{
    return fmt_load_fd(CLI_STREAM_FD, error);
}

FmtImage *cli_load_image(const char *path, GError **error)
{
    FmtImage *img;

    if (strcmp(path, "-") != 0)
        return fmt_load(path, error);
    if (!check_stdin(error))
        return NULL;
    img = fmt_load_fd(STDIN_FILENO, error);
    if (!img)
        g_prefix_error(error, "standard input: ");
    return img;
}
