// SPDX-License-Identifier: GPL-2.0-or-later
// Pipes and FIFOs: the ring, its capacity and what is in it.
//
// The agent keeps one read and one write end of each pipe until release, so that nobody sees an end
// of file or a broken pipe in between; the descriptions of the image are opened from them.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guestagent/engine.h"

#define KEPT_FLAGS (O_NONBLOCK | O_DIRECT | O_APPEND)

struct ends {
    int read, write;
    bool read_given, write_given; // a description of the image is this very end
    bool made;                    // nobody else has seen it yet
    bool in_order;                // all descriptions are open, in r->objects
};

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_pipe *pipe = fmt_image_by_ref(r->img, f->object, FMT_PIPE);
    struct stat st;

    if (!pipe) {
        agent_refuse_file(r, "pipe", f->rec.objref, "the image lacks the pipe");
        return;
    }
    if (!f->path || g_str_has_prefix(f->path, "pipe:"))
        return;
    const char *path = f->path;

    if (f->deleted) {
        if (!agent_name_is_possible(path, &st))
            agent_refuse_file(r, "file-deleted", f->rec.objref,
                              "%s was deleted and cannot be made again: %s", path,
                              g_strerror(errno));
    } else if (agent_name_is_free(r, path))
        agent_note_file(r, "carried", f->rec.objref, "%s was missing and is made", path);
    else if (stat(path, &st) < 0)
        agent_refuse_file(r, "file-missing", f->rec.objref, "%s: %s", path, g_strerror(errno));
    else if (!S_ISFIFO(st.st_mode))
        agent_refuse_file(r, "file-type", f->rec.objref, "%s is no FIFO on this machine", path);
}

static bool write_all(int fd, const uint8_t *data, size_t size, GError **error)
{
    while (size > 0) {
        const ssize_t n = write(fd, data, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return agent_fail_errno(error, "contents of a pipe");
        data += n;
        size -= n;
    }
    return true;
}

static bool set_flags(int fd, int flags, GError **error)
{
    return fcntl(fd, F_SETFL, O_NONBLOCK | flags) == 0 || agent_fail_errno(error, "pipe flags");
}

static bool fill_packets(const struct fmt_pipe *pipe, int fd, GError **error)
{
    size_t size, n;
    const uint8_t *data = g_bytes_get_data(pipe->data, &size);
    const uint32_t *packets = g_bytes_get_data(pipe->packets, &n);

    if (!set_flags(fd, O_DIRECT, error))
        return false;
    for (size_t i = 0; i < n / sizeof *packets; i++) {
        if (packets[i] > size)
            return agent_fail(error, "the packets of a pipe are longer than its data");
        if (!write_all(fd, data, packets[i], error))
            return false;
        data += packets[i];
        size -= packets[i];
    }
    return true;
}

/*
 * A pipe is full when all of its buffers are in use, however little is in them, so they are made as
 * they were: what was written by writing it in the same pieces, which the kernel then keeps apart
 * for the same reason; what was spliced, and takes nothing behind it, from a page of ours. Of the
 * first some may have been read: that is read once more.
 */
struct buffer {
    uint32_t offset, len, flags;
};

static bool is_partly_read(const struct buffer *b)
{
    return b->flags & FMT_BUFFER_MERGE && b->offset + b->len <= FMT_PAGE_BYTES;
}

static bool splice_page(int fd, const struct buffer *b, const uint8_t *data, GError **error)
{
    const size_t size = (size_t)b->offset + b->len;
    uint8_t *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec left = {page + b->offset, b->len};
    ssize_t n = 0;

    if (page == MAP_FAILED)
        return agent_fail_errno(error, "a page for a pipe");
    memcpy(left.iov_base, data, left.iov_len);
    while (left.iov_len > 0 &&
           ((n = vmsplice(fd, &left, 1, SPLICE_F_NONBLOCK)) > 0 || (n < 0 && errno == EINTR))) {
        left.iov_base = (uint8_t *)left.iov_base + MAX(n, 0);
        left.iov_len -= (size_t)MAX(n, 0);
    }
    const bool ok = left.iov_len == 0 || agent_fail_errno(error, "contents of a pipe");
    munmap(page, size); // the pipe has it
    return ok;
}

static bool write_buffer(int fd, const struct buffer *b, const uint8_t *data, bool is_first,
                         GError **error)
{
    uint8_t page[FMT_PAGE_BYTES] = {0};

    if (!(b->flags & (FMT_BUFFER_PACKET | FMT_BUFFER_MERGE)))
        return splice_page(fd, b, data, error);
    if (!set_flags(fd, b->flags & FMT_BUFFER_PACKET ? O_DIRECT : 0, error))
        return false;
    if (!is_first || !is_partly_read(b))
        return write_all(fd, data, b->len, error);
    memcpy(page + b->offset, data, b->len);
    return write_all(fd, page, b->offset + b->len, error);
}

static bool fill_buffers(const struct fmt_pipe *pipe, const struct ends *ends, GError **error)
{
    size_t size, n;
    const uint8_t *data = g_bytes_get_data(pipe->data, &size);
    const uint32_t *words = g_bytes_get_data(pipe->buffers, &n);
    uint8_t read_before[FMT_PAGE_BYTES];
    uint32_t n_before = 0;

    for (size_t i = 0; i < n / sizeof *words / FMT_BUFFER_WORDS; i++, words += FMT_BUFFER_WORDS) {
        const struct buffer b = {words[0] % FMT_PAGE_BYTES, words[1], words[2]};

        if (b.len > size)
            return agent_fail(error, "the buffers of a pipe are longer than its data");
        if (!write_buffer(ends->write, &b, data, i == 0, error))
            return false;
        if (i == 0 && is_partly_read(&b))
            n_before = b.offset;
        data += b.len;
        size -= b.len;
    }
    if (size > 0)
        return agent_fail(error, "the buffers of a pipe are shorter than its data");
    return read(ends->read, read_before, n_before) == (ssize_t)n_before ||
           agent_fail_errno(error, "contents of a pipe");
}

static bool fill(const struct fmt_pipe *pipe, const struct ends *ends, GError **error)
{
    size_t size = 0;
    const uint8_t *data = pipe->data ? g_bytes_get_data(pipe->data, &size) : NULL;

    if (size > 0 && pipe->packets)
        return fill_packets(pipe, ends->write, error);
    if (!set_flags(ends->write, 0, error))
        return false;
    if (size > 0 && pipe->buffers)
        return fill_buffers(pipe, ends, error) && set_flags(ends->write, 0, error);
    return write_all(ends->write, data, size, error);
}

// Owner, permissions and times of what no other program can have seen yet.
static bool dress(const struct fmt_pipe *pipe, int fd, GError **error)
{
    const struct timespec times[2] = {
        {pipe->atime_ns / 1000000000, pipe->atime_ns % 1000000000},
        {pipe->mtime_ns / 1000000000, pipe->mtime_ns % 1000000000},
    };

    if (pipe->mode && (fchown(fd, (uid_t)pipe->uid, (gid_t)pipe->gid) < 0 ||
                       fchmod(fd, pipe->mode & 07777) < 0 || futimens(fd, times) < 0))
        return agent_fail_errno(error, "owner of a pipe");
    return true;
}

static int open_deleted(AgentRestore *r, const char *path, GError **error)
{
    struct agent_name name;
    int fd;

    if (!agent_name_take(r, path, &name, error))
        return -1;
    fd = mkfifo(name.path, 0600) < 0 ? -1 : open(name.path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        agent_fail_errno(error, "%s", name.path);
    unlink(name.path);
    agent_name_drop(&name);
    return fd;
}

// Linux opens a FIFO for both ways without waiting for the other side.
static int open_fifo(AgentRestore *r, const struct fmt_file *f, bool *ret_made, GError **error)
{
    const char *path = f->path;
    int fd, there = 0;

    *ret_made = f->deleted || (agent_name_is_free(r, path) && mkfifo(path, 0600) == 0);
    if (f->deleted)
        return open_deleted(r, path, error);
    if (*ret_made)
        g_ptr_array_add(r->created, g_strdup(path));
    fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        agent_fail_errno(error, "open");
    } else if (ioctl(fd, FIONREAD, &there) < 0 || there > 0) {
        agent_fail(error, "the FIFO is in use on this machine");
        close(fd);
        fd = -1;
    }
    return fd;
}

// Both ends of the object: a FIFO by its path, else a new pipe.
static bool open_ends(AgentRestore *r, const struct fmt_file *f, struct ends *ends, GError **error)
{
    int fds[2];

    if (f->path && !g_str_has_prefix(f->path, "pipe:")) {
        if ((fds[0] = open_fifo(r, f, &ends->made, error)) < 0)
            return false;
        fds[1] = dup(fds[0]);
    } else {
        ends->made = true;
        if (pipe2(fds, O_CLOEXEC) < 0)
            fds[0] = fds[1] = -1;
    }
    if (fds[0] < 0 || fds[1] < 0) {
        agent_fail_errno(error, "pipe");
        return false;
    }
    ends->read = agent_fd_up(r, fds[0], error);
    ends->write = agent_fd_up(r, fds[1], error);
    return ends->read >= 0 && ends->write >= 0;
}

static struct ends *find(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_pipe *pipe = fmt_image_by_ref(r->img, f->object, FMT_PIPE);
    struct ends *ends = g_hash_table_lookup(r->objects, &f->object);

    if (ends)
        return ends;
    ends = g_new0(struct ends, 1);
    ends->read = ends->write = -1;
    if (!open_ends(r, f, ends, error)) {
        g_free(ends);
        return NULL;
    }
    g_hash_table_insert(r->objects, (void *)&pipe->rec.objref, ends);
    if (pipe->capacity_bytes && fcntl(ends->write, F_SETPIPE_SZ, (int)pipe->capacity_bytes) < 0) {
        agent_fail_errno(error, "pipe of %" G_GUINT64_FORMAT " bytes", pipe->capacity_bytes);
        return NULL;
    }
    return fill(pipe, ends, error) && (!ends->made || dress(pipe, ends->write, error)) ? ends
                                                                                       : NULL;
}

// The very end that pipe2() made; only such a description lacks O_LARGEFILE.
static int own_end(AgentRestore *r, const struct fmt_file *f, struct ends *ends, GError **error)
{
    bool *given = f->mode & 1 ? &ends->read_given : &ends->write_given;

    if (*given || (f->mode & 3) == 3 || f->flags & O_LARGEFILE || f->path)
        return -1;
    *given = true;
    return agent_fd_up(r, dup(f->mode & 1 ? ends->read : ends->write), error);
}

// A description of its own for each record: status flags belong to it.
static int open_one(AgentRestore *r, const struct fmt_file *f, struct ends *ends, GError **error)
{
    static const int access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    int fd = own_end(r, f, ends, error);

    if (fd < 0)
        fd = agent_reopen(r, f->mode & 1 ? ends->read : ends->write,
                          access[f->mode & 3] | O_NONBLOCK, error);
    // O_DIRECT, which makes packets, is not taken by open().
    if (fd >= 0 && fcntl(fd, F_SETFL, f->flags & KEPT_FLAGS) < 0) {
        agent_fail_errno(error, "pipe flags");
        return -1;
    }
    return fd;
}

/*
 * A reader that has yet to see a writer is told of no hangup, which the kernel takes from there
 * being no writer when it is opened, and none since. So these come last, and then we have no end
 * for writing any more, nor has the image one.
 */
static bool awaits_writer(AgentRestore *r, uint64_t pipe)
{
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++) {
        if (f->kind == FMT_FILE_PIPE && f->object == pipe && f->awaits_writer)
            return true;
    }
    return false;
}

static bool end_writing(AgentRestore *r, struct ends *ends, GError **error)
{
    const int left = agent_reopen(r, ends->read, O_RDONLY | O_NONBLOCK, error);

    if (left < 0)
        return false;
    agent_fd_close(r, ends->read);
    agent_fd_close(r, ends->write);
    ends->read = left;
    ends->write = -1;
    return true;
}

static bool open_in_order(AgentRestore *r, uint64_t pipe, struct ends *ends, GError **error)
{
    ends->in_order = true;
    for (unsigned waiting = 0; waiting < 2; waiting++) {
        const struct fmt_file *f;

        if (waiting && !end_writing(r, ends, error))
            return false;
        for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++) {
            if (f->kind != FMT_FILE_PIPE || f->object != pipe || f->awaits_writer != waiting)
                continue;
            const int fd = open_one(r, f, ends, error);
            if (fd < 0)
                return false;
            g_hash_table_insert(r->objects, (void *)&f->rec.objref, g_memdup2(&fd, sizeof fd));
        }
    }
    return true;
}

static int open_pipe(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    struct ends *ends = find(r, f, error);

    if (!ends)
        return -1;
    if (!ends->in_order && !awaits_writer(r, f->object))
        return open_one(r, f, ends, error);
    if (!ends->in_order && !open_in_order(r, f->object, ends, error))
        return -1;
    return *(const int *)g_hash_table_lookup(r->objects, &f->rec.objref);
}

void agent_pipes_finish(AgentRestore *r)
{
    const struct fmt_pipe *pipe;

    for (size_t i = 0; FMT_NEXT(r->img, PIPE, i, pipe); i++) {
        const struct ends *ends = g_hash_table_lookup(r->objects, &pipe->rec.objref);

        if (!ends)
            continue;
        agent_fd_close(r, ends->read);
        agent_fd_close(r, ends->write);
        g_hash_table_remove(r->objects, &pipe->rec.objref);
    }
}

// A pipe that is empty gets a byte for a moment, one that is full more room.
static bool stir(AgentRestore *r, const struct fmt_file *f, bool on, GError **error)
{
    const struct fmt_pipe *pipe = fmt_image_by_ref(r->img, f->object, FMT_PIPE);
    const struct ends *ends = g_hash_table_lookup(r->objects, &f->object);
    const bool empty = !pipe->data || g_bytes_get_size(pipe->data) == 0;
    const int capacity = (int)(on ? pipe->capacity_bytes * 2 : pipe->capacity_bytes);
    char byte = 0;
    bool ok;

    if (ends->write < 0)
        return agent_fail(error, "nobody has written to the FIFO");
    if (!empty)
        ok = fcntl(ends->write, F_SETPIPE_SZ, capacity) >= 0;
    else
        ok = (on ? write(ends->write, &byte, 1) : read(ends->read, &byte, 1)) == 1;
    return ok || agent_fail_errno(error, "pipe");
}

const struct agent_file_kind agent_file_pipe = {
    .kind = FMT_FILE_PIPE,
    .name = "pipe",
    .plan = plan,
    .open = open_pipe,
    .stir = stir,
};
