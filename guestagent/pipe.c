// SPDX-License-Identifier: GPL-2.0-or-later
// Pipes and FIFOs: the ring, its capacity and what is in it.
//
// The agent keeps one read and one write end of each pipe until release, so that nobody sees an end
// of file or a broken pipe in between; the descriptions of the image are opened from them.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guestagent/engine.h"

#define KEPT_FLAGS (O_NONBLOCK | O_DIRECT | O_APPEND)

struct ends {
    int read, write;
    bool read_given, write_given; // a description of the image is this very end
    bool made;                    // nobody else has seen it yet
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

static bool fill(const struct fmt_pipe *pipe, int fd, GError **error)
{
    size_t size = 0, n_packets = 0;
    const uint8_t *data = pipe->data ? g_bytes_get_data(pipe->data, &size) : NULL;
    const uint32_t *packets = pipe->packets ? g_bytes_get_data(pipe->packets, &n_packets) : NULL;

    if (fcntl(fd, F_SETFL, O_NONBLOCK | (packets ? O_DIRECT : 0)) < 0)
        return agent_fail_errno(error, "pipe flags");
    if (!packets)
        return write_all(fd, data, size, error);
    for (size_t i = 0; i < n_packets / sizeof *packets; i++) {
        if (packets[i] > size)
            return agent_fail(error, "the packets of a pipe are longer than its data");
        if (!write_all(fd, data, packets[i], error))
            return false;
        data += packets[i];
        size -= packets[i];
    }
    return true;
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
    return fill(pipe, ends->write, error) && (!ends->made || dress(pipe, ends->write, error))
               ? ends
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
static int open_pipe(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    static const int access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    struct ends *ends = find(r, f, error);
    int fd = ends ? own_end(r, f, ends, error) : -1;

    if (!ends)
        return -1;
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
