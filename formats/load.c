// SPDX-License-Identifier: GPL-2.0-or-later
// Reads whole images: a file by mapping it, a stream into memory.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/image-priv.h"
#include "formats/stream.h"

#define READ_BYTES (1u << 20)

struct loader {
    FmtImage *img; // reference, set at BODY
    bool mapped;   // contents stay where the decoder shows them
    uint8_t *data; // of the current extent, where they do not
};

static bool load_meta(FmtImage *img, void *user, GError **error)
{
    struct loader *l = user;

    if (fmt_image_head(img)->features & FMT_FEATURE_LIVE) {
        g_set_error(error, FMT_ERROR, FMT_ERROR_VERSION,
                    "this is the stream of a live transfer: contents are missing from it");
        return false;
    }
    l->img = fmt_image_ref(img);
    return true;
}

static void map_extent(struct loader *l, const struct fmt_pages *pages, const void *data)
{
    struct fmt_extent extent = {.pages = *pages, .data = data};

    fmt_image_append_extent(l->img, &extent);
}

static bool load_pages(const struct fmt_pages *pages, uint64_t offset_bytes, const void *data,
                       uint64_t size_bytes, void *user, GError **error)
{
    struct loader *l = user;

    if (l->mapped || !data) {
        // One feed of the whole file: contents come in one piece and point into the mapping.
        map_extent(l, pages, data);
        return true;
    }
    if (offset_bytes == 0) {
        uint64_t whole = pages->n_pages * FMT_PAGE_BYTES;

        l->data = g_malloc(whole);
        fmt_image_hold(l->img, g_bytes_new_take(l->data, whole));
        map_extent(l, pages, l->data);
    }
    memcpy(l->data + offset_bytes, data, size_bytes);
    return true;
}

static const struct fmt_decoder_ops load_ops = {.meta = load_meta, .pages = load_pages};

static bool io_error(GError **error, const char *what, const char *path)
{
    g_set_error(error, FMT_ERROR, FMT_ERROR_IO, "cannot %s %s: %s", what, path, g_strerror(errno));
    return false;
}

struct mapping {
    void *data;
    size_t size_bytes;
};

static void mapping_free(void *user)
{
    struct mapping *m = user;

    munmap(m->data, m->size_bytes);
    g_free(m);
}

static GBytes *map_fd(int fd, size_t size_bytes, GError **error)
{
    void *data = mmap(NULL, size_bytes, PROT_READ, MAP_PRIVATE, fd, 0);

    if (data == MAP_FAILED) {
        io_error(error, "map", "the image");
        return NULL;
    }
    madvise(data, size_bytes, MADV_WILLNEED);

    struct mapping *m = g_new(struct mapping, 1);
    *m = (struct mapping){data, size_bytes};
    return g_bytes_new_with_free_func(data, size_bytes, mapping_free, m);
}

static FmtImage *load_mapped(GBytes *file, GError **error)
{
    struct loader l = {.mapped = true};
    g_autoptr(FmtDecoder) dec = fmt_decoder_new(&load_ops, &l);

    if (fmt_decoder_feed(dec, g_bytes_get_data(file, NULL), g_bytes_get_size(file), error) &&
        fmt_decoder_finish(dec, error)) {
        fmt_image_hold(l.img, g_bytes_ref(file));
        return l.img;
    }
    fmt_image_unref(l.img);
    return NULL;
}

FmtImage *fmt_load(const char *path, GError **error)
{
    g_autoptr(GBytes) file = NULL;
    FmtImage *img = NULL;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0) {
        io_error(error, "open", path);
        return NULL;
    }
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
        file = map_fd(fd, st.st_size, error);
        img = file ? load_mapped(file, error) : NULL;
    } else {
        img = fmt_load_fd(fd, error);
    }
    close(fd);
    if (!img)
        g_prefix_error(error, "%s: ", path);
    return img;
}

// As read(2), but waits on a non-blocking descriptor and goes on after signals.
static ssize_t read_some(int fd, void *buf, size_t len)
{
    for (;;) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        ssize_t n = read(fd, buf, len);

        if (n >= 0 || (errno != EINTR && errno != EAGAIN))
            return n;
        if (errno == EAGAIN && poll(&poll_fd, 1, -1) < 0 && errno != EINTR)
            return -1;
    }
}

static bool feed_fd(FmtDecoder *dec, int fd, GError **error)
{
    g_autofree uint8_t *buf = g_malloc(READ_BYTES);

    for (;;) {
        ssize_t n = read_some(fd, buf, READ_BYTES);

        if (n < 0)
            return io_error(error, "read", "the image");
        if (n == 0)
            return fmt_decoder_finish(dec, error);
        if (!fmt_decoder_feed(dec, buf, n, error))
            return false;
    }
}

FmtImage *fmt_load_fd(int fd, GError **error)
{
    struct loader l = {0};
    g_autoptr(FmtDecoder) dec = fmt_decoder_new(&load_ops, &l);

    if (feed_fd(dec, fd, error))
        return l.img;
    fmt_image_unref(l.img);
    return NULL;
}
