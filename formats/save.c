// SPDX-License-Identifier: GPL-2.0-or-later
// Encodes an image to a descriptor or a file, in few and large writes.
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

#include "formats/outfile.h"
#include "formats/stream.h"

// Pieces that lie in the image are written from where they are; smaller ones are copied together.
#define COPY_BELOW_BYTES 4096u
#define COPY_BYTES       (256u << 10)
#define GATHER_BYTES     (8u << 20)
#define GATHER_PIECES    512

struct gather {
    int fd;
    const char *path; // for messages
    struct iovec pieces[GATHER_PIECES];
    int n_pieces;
    size_t bytes;
    uint8_t *copy;
    size_t copied;
    struct fmt_progress progress;
    fmt_progress_fn on_progress;
    void *user;
};

// A descriptor may be non-blocking: somebody else's choice, not to be changed.
static bool wait_writable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};

    return poll(&poll_fd, 1, -1) >= 0 || errno == EINTR;
}

static bool flush(struct gather *g, GError **error)
{
    struct iovec *next = g->pieces;

    while (g->n_pieces > 0) {
        ssize_t n = writev(g->fd, next, g->n_pieces);

        if (n < 0 && (errno == EINTR || (errno == EAGAIN && wait_writable(g->fd))))
            continue;
        if (n < 0)
            return fmt_set_write_error(error, g->path, errno);
        g->progress.done_bytes += n;
        while (g->n_pieces > 0 && (size_t)n >= next->iov_len) {
            n -= next->iov_len;
            next++;
            g->n_pieces--;
        }
        if (g->n_pieces > 0) {
            next->iov_base = (uint8_t *)next->iov_base + n;
            next->iov_len -= n;
        }
    }
    g->bytes = 0;
    g->copied = 0;
    if (g->on_progress)
        g->on_progress(&g->progress, g->user);
    return true;
}

static void add_piece(struct gather *g, void *data, size_t len)
{
    struct iovec *last = g->n_pieces > 0 ? &g->pieces[g->n_pieces - 1] : NULL;

    if (last && (uint8_t *)last->iov_base + last->iov_len == data)
        last->iov_len += len;
    else
        g->pieces[g->n_pieces++] = (struct iovec){data, len};
    g->bytes += len;
}

static bool gather_write(const void *data, size_t len, void *user, GError **error)
{
    struct gather *g = user;
    void *piece = (void *)data;

    if ((g->n_pieces == GATHER_PIECES || g->bytes >= GATHER_BYTES ||
         (len < COPY_BELOW_BYTES && g->copied + len > COPY_BYTES)) &&
        !flush(g, error))
        return false;
    if (len < COPY_BELOW_BYTES) {
        piece = memcpy(g->copy + g->copied, data, len);
        g->copied += len;
    }
    add_piece(g, piece, len);
    return true;
}

static bool encode_to(const FmtImage *img, int fd, const char *path, uint64_t size_bytes,
                      fmt_progress_fn progress, void *user, GError **error)
{
    g_autofree uint8_t *copy = g_malloc(COPY_BYTES);
    struct gather g = {.fd = fd,
                       .path = path,
                       .copy = copy,
                       .progress.total_bytes = size_bytes,
                       .on_progress = progress,
                       .user = user};

    return fmt_encode(img, gather_write, &g, error) && flush(&g, error);
}

bool fmt_encode_fd(const FmtImage *img, int fd, fmt_progress_fn progress, void *user,
                   GError **error)
{
    uint64_t size = progress ? fmt_encoded_size(img) : 0;

    return encode_to(img, fd, "the image", size, progress, user, error);
}

bool fmt_save(const FmtImage *img, const char *path, fmt_progress_fn progress, void *user,
              GError **error)
{
    uint64_t size = fmt_encoded_size(img);
    g_autoptr(FmtOutfile) out = fmt_outfile_new(path, size, error);

    return out && encode_to(img, fmt_outfile_fd(out), path, size, progress, user, error) &&
           fmt_outfile_commit(out, error);
}
