// SPDX-License-Identifier: GPL-2.0-or-later
// Pipes and FIFOs (struct pipe_inode_info): what is in them, and who else holds an end.
#include "introspect/fd.h"
#include "introspect/file.h"
#include "introspect/reader.h"

#include <string.h>

/*
 * A pipe is a ring of ring_size (a power of two) buffers, each a piece of a page. head and tail
 * count buffers and never wrap at the ring's size. max_usage of them may be in use at once: that is
 * what F_SETPIPE_SZ sets. Pages that were spliced in from a file are read like any other.
 */

// include/linux/pipe_fs_i.h; the second since 5.8
#define PIPE_BUF_FLAG_PACKET    0x08
#define PIPE_BUF_FLAG_CAN_MERGE 0x10

#define FMODE_READ 1 // include/linux/fs.h

#define NS_PER_S INT64_C(1000000000)

#define MAX_RING_BUFFERS (1u << 20)
#define MAX_BUFFER_BYTES (2u << 20) // a piece of a huge page at most

struct ring {
    struct gva pipe, bufs;
    uint64_t head, tail, ring_size, max_usage;
};

static bool read_ring(IntroKernel *k, struct gva pipe, struct ring *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct ring ring = {
        .pipe = pipe,
        .bufs = rd_ptr(&r, pipe, M_pipe_bufs),
        .head = rd(&r, pipe, M_pipe_head),
        .tail = rd(&r, pipe, M_pipe_tail),
        .ring_size = rd(&r, pipe, M_pipe_ring_size),
        .max_usage = rd(&r, pipe, M_pipe_max_usage),
    };

    if (!rd_done(&r, error))
        return false;
    if (ring.ring_size == 0 || ring.ring_size > MAX_RING_BUFFERS ||
        ring.ring_size & (ring.ring_size - 1) || ring.max_usage > ring.ring_size ||
        (uint32_t)(ring.head - ring.tail) > ring.ring_size) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "pipe_inode_info at %#" G_GINT64_MODIFIER "x: %u of %" G_GUINT64_FORMAT
                    " buffers in use",
                    pipe.addr, (uint32_t)(ring.head - ring.tail), ring.ring_size);
        return false;
    }
    *ret = ring;
    return true;
}

struct buffer {
    uint32_t offset, len;
    uint32_t flags; // enum fmt_buffer_flag
};

// Appends the contents of one buffer.
static bool read_buffer(IntroKernel *k, struct gva buf, GByteArray *data, struct buffer *ret,
                        GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva page = rd_ptr(&r, buf, M_pipebuf_page);
    uint64_t offset = rd(&r, buf, M_pipebuf_offset);
    uint64_t len = rd(&r, buf, M_pipebuf_len);
    uint64_t flags = rd(&r, buf, M_pipebuf_flags);
    uint64_t pfn;

    if (!rd_done(&r, error) || !intro_page_to_pfn(k, page, &pfn, error))
        return false;
    if (offset > MAX_BUFFER_BYTES || len > MAX_BUFFER_BYTES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "pipe_buffer at %#" G_GINT64_MODIFIER "x: %" G_GUINT64_FORMAT
                    " bytes at offset %" G_GUINT64_FORMAT " of a page",
                    buf.addr, len, offset);
        return false;
    }
    guint before = data->len;
    g_byte_array_set_size(data, before + (guint)len);
    if (!vmm_memory_read(intro_kernel_memory(k), GPA((pfn << VMM_PAGE_SHIFT) + offset),
                         data->data + before, len, error))
        return false;
    *ret = (struct buffer){(uint32_t)(offset % VMM_PAGE_BYTES), (uint32_t)len,
                           (flags & PIPE_BUF_FLAG_PACKET ? FMT_BUFFER_PACKET : 0) |
                               (flags & PIPE_BUF_FLAG_CAN_MERGE ? FMT_BUFFER_MERGE : 0)};
    return true;
}

static void add_word(GByteArray *words, uint32_t word)
{
    const uint32_t le = GUINT32_TO_LE(word);

    g_byte_array_append(words, (const guint8 *)&le, sizeof(le));
}

static bool read_contents(struct intro_ctx *c, const struct ring *ring, struct fmt_pipe *rec,
                          GError **error)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autoptr(GByteArray) lengths = g_byte_array_new();
    g_autoptr(GByteArray) buffers = g_byte_array_new();
    uint32_t n = (uint32_t)(ring->head - ring->tail), n_packets = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t slot = (ring->tail + i) & (ring->ring_size - 1);
        struct gva buf = GVA(ring->bufs.addr + slot * intro_sizeof(c->k, T_pipe_buffer));
        struct buffer buffer;
        if (data->len > G_MAXINT32) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                        "pipe_inode_info at %#" G_GINT64_MODIFIER
                        "x: more contents than it can hold",
                        ring->pipe.addr);
            return false;
        }
        if (!read_buffer(c->k, buf, data, &buffer, error))
            return false;
        add_word(lengths, buffer.len);
        add_word(buffers, buffer.offset);
        add_word(buffers, buffer.len);
        add_word(buffers, buffer.flags);
        n_packets += (buffer.flags & FMT_BUFFER_PACKET) != 0;
    }

    rec->data = g_byte_array_free_to_bytes(g_steal_pointer(&data));
    if (n && n_packets == n)
        rec->packets = g_byte_array_free_to_bytes(g_steal_pointer(&lengths));
    else if (n)
        rec->buffers = g_byte_array_free_to_bytes(g_steal_pointer(&buffers));
    return true;
}

static void read_inode(IntroReader *r, struct gva inode, struct fmt_pipe *rec)
{
    rec->ino = rd(r, inode, M_inode_ino);
    rec->mode = rd(r, inode, M_inode_mode);
    rec->uid = rd(r, inode, M_inode_uid);
    rec->gid = rd(r, inode, M_inode_gid);
    rec->atime_ns = (int64_t)rd(r, inode, M_inode_atime_sec) * NS_PER_S +
                    (int64_t)rd(r, inode, M_inode_atime_nsec);
    rec->mtime_ns = (int64_t)rd(r, inode, M_inode_mtime_sec) * NS_PER_S +
                    (int64_t)rd(r, inode, M_inode_mtime_nsec);
}

uint64_t intro_pipe(struct intro_ctx *c, struct gva inode, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    uint64_t known = intro_object_ref(c, inode);
    struct ring ring;

    if (known)
        return known;
    struct gva pipe = rd_ptr(&r, inode, M_inode_pipe);
    uint64_t watch_queue = pipe.addr ? rd_opt(&r, pipe, M_pipe_watch_queue, 0) : 0;
    if (!rd_done(&r, error))
        return 0;
    if (!pipe.addr) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "inode at %#" G_GINT64_MODIFIER "x: an open pipe without a pipe_inode_info",
                    inode.addr);
        return 0;
    }
    if (!intro_check_mutex(c->k, intro_member_addr(c->k, pipe, M_pipe_mutex), "pipe_inode_info",
                           error) ||
        !read_ring(c->k, pipe, &ring, error))
        return 0;
    if (watch_queue)
        intro_refuse(c, "notification-pipe", "has a pipe for notifications of the kernel");

    struct fmt_pipe *rec = intro_object_add(c, inode, FMT_PIPE);
    read_inode(&r, inode, rec);
    rec->capacity_bytes = ring.max_usage * VMM_PAGE_BYTES;
    return rd_done(&r, error) && read_contents(c, &ring, rec, error) ? rec->rec.objref : 0;
}

// fifo_open() (fs/pipe.c): such a reader keeps the number of writers that there have been, and
// poll() tells it of no hangup while that is the same.
bool intro_fifo_waits(struct intro_opened *o, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);

    if (o->rec->mode != FMODE_READ || !intro_has(o->c->k, M_file_w_counter))
        return true;
    struct gva pipe = rd_ptr(&r, o->inode, M_inode_pipe);
    const uint64_t writers = rd(&r, pipe, M_pipe_writers), n = rd(&r, pipe, M_pipe_w_counter);
    o->rec->awaits_writer = writers == 0 && rd(&r, o->file, M_file_w_counter) == n;
    return rd_done(&r, error);
}

/* ---- who else ---- */

// What the tree itself holds of a pipe or of an open file.
struct census {
    GHashTable *files_of_pipe; // objref of PIPE -> number of FILE records
    GHashTable *fds_of_file;   // objref of FILE -> number of descriptors
};

static void count(GHashTable *table, uint64_t ref)
{
    size_t n = GPOINTER_TO_SIZE(g_hash_table_lookup(table, GSIZE_TO_POINTER(ref)));

    g_hash_table_insert(table, GSIZE_TO_POINTER(ref), GSIZE_TO_POINTER(n + 1));
}

static void take_census(struct intro_ctx *c, struct census *ret)
{
    const struct fmt_file *file;
    const struct fmt_fd *fd;

    ret->files_of_pipe = g_hash_table_new(NULL, NULL);
    ret->fds_of_file = g_hash_table_new(NULL, NULL);
    for (size_t i = 0; FMT_NEXT(c->img, FILE, i, file); i++)
        if (file->kind == FMT_FILE_PIPE)
            count(ret->files_of_pipe, file->object);
    for (size_t i = 0; FMT_NEXT(c->img, FD, i, fd); i++)
        count(ret->fds_of_file, fd->file);
}

static void census_clear(struct census *census)
{
    g_hash_table_unref(census->files_of_pipe);
    g_hash_table_unref(census->fds_of_file);
}

// Whether the object at `at` is held by more than the tree knows of. For a pipe that is certain: it
// counts its files. A file may for a moment be held by a system call as well.
static bool is_shared(struct intro_ctx *c, const struct census *census, struct gva at, uint64_t ref,
                      bool *ret_pipe, bool *ret_file, GError **error)
{
    const struct fmt_file *file = fmt_image_by_ref(c->img, ref, FMT_FILE);
    uint64_t held, seen;

    *ret_pipe = *ret_file = false;
    if (fmt_image_by_ref(c->img, ref, FMT_PIPE)) {
        struct gva pipe;
        if (!intro_get_ptr(c->k, at, M_inode_pipe, &pipe, error) ||
            !intro_get(c->k, pipe, M_pipe_files, &held, error))
            return false;
        seen = GPOINTER_TO_SIZE(g_hash_table_lookup(census->files_of_pipe, GSIZE_TO_POINTER(ref)));
        *ret_pipe = held > seen;
    } else if (file && file->kind == FMT_FILE_PIPE) {
        if (!intro_file_count(c->k, at, &held, error))
            return false;
        seen = GPOINTER_TO_SIZE(g_hash_table_lookup(census->fds_of_file, GSIZE_TO_POINTER(ref)));
        *ret_file = held > seen;
    }
    return true;
}

static bool check_peers(struct intro_ctx *c, const struct census *census, GError **error)
{
    g_autoptr(GHashTable) holders = NULL; // made when the first is needed
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        bool pipe, file;
        if (!is_shared(c, census, GVA(GPOINTER_TO_SIZE(at)), GPOINTER_TO_SIZE(ref), &pipe, &file,
                       error))
            return false;
        if (!pipe && !file)
            continue;
        if (!holders && !(holders = intro_outside_holders(c, error)))
            return false;
        const char *holder = g_hash_table_lookup(holders, at);
        intro_blame_holder(c, GPOINTER_TO_SIZE(ref));
        // Who opens a FIFO counts as one of its files before it has got a descriptor.
        if (pipe && !holder && c->n_openers)
            continue;
        if (pipe)
            intro_refuse(c, "external-pipe", "has a pipe whose other end is held by %s",
                         holder ? holder : "something outside of the tree");
        else if (holder)
            intro_refuse(c, "external-pipe", "has the end of a pipe that is also held by %s",
                         holder);
    }
    return true;
}

bool intro_pipe_check_peers(struct intro_ctx *c, GError **error)
{
    struct census census;

    take_census(c, &census);
    bool ok = check_peers(c, &census, error);
    c->fd = -1;
    census_clear(&census);
    return ok;
}
