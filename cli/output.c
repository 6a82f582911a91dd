// SPDX-License-Identifier: GPL-2.0-or-later
// Where a captured image goes: a file, whole or not at all, or standard output.
#include "cli/output.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "cli/progress.h"
#include "cli/signals.h"
#include "formats/outfile.h"
#include "formats/stream.h"

#define BUFFER_BYTES (1u << 20)
#define WRITE_BYTES  (1u << 20) // at most in one call, so that a signal is seen soon

struct CliOutput {
    FmtOutfile *file; // NULL: fd, standard output or what stands for it
    int fd;
    char *name;
    uint8_t *buffer;
    size_t used;
    uint64_t done_bytes;
    struct cli *cli;
    CliProgress *progress;
};

CliOutput *cli_output_open(const char *path, GError **error)
{
    g_autoptr(CliOutput) out = g_new0(CliOutput, 1);

    if (strcmp(path, "-") == 0) {
        if (isatty(STDOUT_FILENO)) {
            g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE,
                        "an image is binary and standard output is a terminal: "
                        "redirect it, or give a file with -o");
            return NULL;
        }
        out->fd = STDOUT_FILENO;
        out->name = g_strdup("standard output");
    } else {
        out->file = fmt_outfile_new(path, 0, error);
        if (!out->file)
            return NULL;
        out->name = g_strdup(path);
    }
    return g_steal_pointer(&out);
}

CliOutput *cli_output_here(void)
{
    CliOutput *out = g_new0(CliOutput, 1);

    out->fd = CLI_STREAM_FD;
    out->name = g_strdup("the other host");
    return out;
}

void cli_output_free(CliOutput *out)
{
    if (!out)
        return;
    fmt_outfile_free(out->file);
    g_free(out->name);
    g_free(out);
}

bool cli_output_is_stdout(const CliOutput *out)
{
    return !out->file;
}

int cli_output_fd(const CliOutput *out)
{
    return out->file ? fmt_outfile_fd(out->file) : out->fd;
}

bool cli_output_commit(CliOutput *out, GError **error)
{
    return !out->file || fmt_outfile_commit(out->file, error);
}

static bool write_all(CliOutput *out, const uint8_t *data, size_t len, GError **error)
{
    int fd = cli_output_fd(out);

    while (len > 0) {
        struct pollfd fds[] = {{fd, POLLOUT, 0}, {out->cli->signal_fd, POLLIN, 0}};
        ssize_t n;

        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno != EINTR)
            return fmt_set_write_error(error, out->name, errno);
        if (cli_signals_check(out->cli, error))
            return false;
        if (!fds[0].revents)
            continue;
        n = write(fd, data, MIN(len, out->file ? WRITE_BYTES : 4096));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return fmt_set_write_error(error, out->name, errno);
        data += n;
        len -= (size_t)n;
        out->done_bytes += (size_t)n;
        cli_progress_set(out->progress, out->done_bytes);
    }
    return true;
}

static bool flush(CliOutput *out, GError **error)
{
    size_t used = out->used;

    out->used = 0;
    return write_all(out, out->buffer, used, error);
}

static bool write_piece(const void *data, size_t len, void *user, GError **error)
{
    CliOutput *out = user;

    if (out->used + len > BUFFER_BYTES && !flush(out, error))
        return false;
    if (len > BUFFER_BYTES)
        return write_all(out, data, len, error);
    memcpy(out->buffer + out->used, data, len);
    out->used += len;
    return true;
}

bool cli_output_write(CliOutput *out, struct cli *cli, const FmtImage *img, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(BUFFER_BYTES);
    g_autoptr(CliProgress) progress = cli_progress_new(cli, "writing", fmt_encoded_size(img));

    out->cli = cli;
    out->buffer = buffer;
    out->progress = progress;
    return fmt_encode(img, write_piece, out, error) && flush(out, error) &&
           cli_output_commit(out, error);
}
