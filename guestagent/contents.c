// SPDX-License-Identifier: GPL-2.0-or-later
// Page contents as they stream in: to memory of a process, to shared memory, or compared with and
// written to files of this machine.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/hash.h"
#include "guestagent/engine.h"

// Reads all of it; what lies behind the end of the file reads as zeros, as in a mapping.
static bool read_file(int fd, uint64_t offset, uint8_t *ret, uint64_t size, GError **error)
{
    uint64_t done = 0;

    while (done < size) {
        const ssize_t n = pread(fd, ret + done, size - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return agent_fail_errno(error, "read");
        if (n == 0)
            break;
        done += n;
    }
    memset(ret + done, 0, size - done);
    return true;
}

static bool write_file(int fd, uint64_t offset, const uint8_t *data, uint64_t size, GError **error)
{
    while (size > 0) {
        const ssize_t n = pwrite(fd, data, size, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return agent_fail_errno(error, "write");
        data += n;
        offset += n;
        size -= n;
    }
    return true;
}

bool agent_contents_compare(AgentRestore *r, int fd, const char *path, uint64_t offset,
                            const void *data, uint64_t size, GError **error)
{
    g_autofree uint8_t *here = g_malloc(size);
    g_autofree uint8_t *zeros = data ? NULL : g_malloc0(size);
    const uint8_t *want = data ? data : zeros;
    uint64_t at = 0;

    if (!read_file(fd, offset, here, size, error)) {
        g_prefix_error(error, "%s: ", path);
        return false;
    }
    if (memcmp(here, want, size) == 0)
        return true;
    while (here[at] == want[at])
        at++;
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_MISMATCH,
                "%s is not the file that the process uses: it differs at offset %" G_GUINT64_FORMAT,
                path, offset + at);
    return false;
}

static bool compare_hash(int fd, const char *path, uint64_t offset, uint64_t size, uint64_t hash,
                         GError **error)
{
    g_autofree uint8_t *here = g_malloc(size);

    if (!read_file(fd, offset, here, size, error)) {
        g_prefix_error(error, "%s: ", path);
        return false;
    }
    if (fmt_hash64(here, size) == hash)
        return true;
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_MISMATCH,
                "%s is not the file that the process uses: it differs between offsets "
                "%" G_GUINT64_FORMAT " and %" G_GUINT64_FORMAT,
                path, offset, offset + size);
    return false;
}

// A file with this inode, open for one of these (1: reading, 2: writing), and its path.
static const struct fmt_file *inode_file(AgentRestore *r, uint64_t inode, uint64_t mode)
{
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++) {
        if (f->object == inode && f->mode & mode && agent_file_fd(r, f->rec.objref) >= 0)
            return f;
    }
    return NULL;
}

// A file that was carried and is here: it must be the same, also where the process only writes.
static bool compare_carried(AgentRestore *r, const struct fmt_file *f, uint64_t offset,
                            const void *data, uint64_t size, GError **error)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", agent_file_fd(r, f->rec.objref));
    const int fd = open(self, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    bool same;

    if (fd < 0)
        return agent_fail_errno(error, "%s", f->path);
    same = agent_contents_compare(r, fd, f->path, offset, data, size, error);
    close(fd);
    return same;
}

// Through a description of its own, which is gone before anybody could see it.
static bool write_anew(int fd, uint64_t offset, const uint8_t *data, uint64_t size, GError **error)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", fd);
    const int own = open(self, O_RDWR | O_CLOEXEC);

    if (own < 0)
        return agent_fail_errno(error, "open");
    const bool ok = write_file(own, offset, data, size, error);
    close(own);
    return ok;
}

/*
 * Changed pages of a file that is mapped shared: the program has written them, they belong to the
 * file. Bytes behind its end exist only in the mapping and are lost with it on the source as well.
 * What was there before is kept until release, so that a restore that fails has changed nothing.
 */
static bool file_data(AgentRestore *r, const struct fmt_file *f, uint64_t offset, const void *data,
                      uint64_t size, uint64_t file_bytes, GError **error)
{
    const int fd = agent_file_fd(r, f->rec.objref);

    if (offset >= file_bytes)
        return true;
    size = MIN(size, file_bytes - offset);
    g_autofree uint8_t *before = g_malloc(size);
    g_autofree uint8_t *zeros = data ? NULL : g_malloc0(size);
    const uint8_t *want = data ? data : zeros;

    if (!read_file(fd, offset, before, size, error))
        return false;
    if (memcmp(before, want, size) == 0)
        return true;
    const struct agent_undo undo = {.file = f->rec.objref,
                                    .offset = offset,
                                    .before = g_bytes_new_take(g_steal_pointer(&before), size)};

    g_array_append_val(r->undo, undo);
    return write_anew(fd, offset, want, size, error);
}

// What lies behind the end of a file, in its last page, is there for mappings alone.
static bool write_behind(int fd, uint64_t end, const void *data, uint64_t size, GError **error)
{
    const uint64_t start = end & ~4095ull;
    uint8_t *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)start);

    if (at == MAP_FAILED)
        return agent_fail_errno(error, "behind the end of a file");
    memcpy(at + (end - start), data, MIN(size, start + 4096 - end));
    munmap(at, 4096);
    return true;
}

static bool is_zero(const uint8_t *data, uint64_t size)
{
    return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

// A file that we have made.
static bool new_data(int fd, uint64_t offset, const void *data, uint64_t size, uint64_t file_bytes,
                     GError **error)
{
    static const uint8_t zeros[1 << 20];

    if (offset >= file_bytes)
        return true;
    const uint64_t behind = size - MIN(size, file_bytes - offset);

    size -= behind;
    if (data)
        return write_file(fd, offset, data, size, error) &&
               (is_zero((const uint8_t *)data + size, behind) ||
                write_behind(fd, file_bytes, (const uint8_t *)data + size, behind, error));
    for (uint64_t done = 0; done < size; done += sizeof zeros)
        if (!write_file(fd, offset + done, zeros, MIN(size - done, sizeof zeros), error))
            return false;
    return true;
}

static bool inode_pages(AgentRestore *r, const struct fmt_pages *pages, uint64_t offset,
                        const void *data, uint64_t size, GError **error)
{
    const struct fmt_file *f = inode_file(r, pages->owner, 1);
    const int new_file = agent_inode_fd(r, pages->owner);
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, pages->owner, FMT_INODE);

    if (new_file >= 0)
        return new_data(new_file, offset, data, size, inode->size_bytes, error);
    if (!f && inode->contents == FMT_CONTENTS_CARRIED &&
        (f = inode_file(r, pages->owner, 2)) != NULL)
        return compare_carried(r, f, offset, data, size, error);
    if (!f)
        return true; // nobody can read it: nothing to compare
    const int fd = agent_file_fd(r, f->rec.objref);

    if (pages->kind == FMT_PAGES_CLEAN)
        return agent_contents_compare(r, fd, f->path, offset, data, size, error);
    if (pages->kind == FMT_PAGES_HASHED)
        return compare_hash(fd, f->path, offset, size, pages->hash, error);
    if (!file_data(r, f, offset, data, size, inode->size_bytes, error)) {
        g_prefix_error(error, "%s: ", f->path);
        return false;
    }
    return true;
}

void agent_contents_undo(AgentRestore *r)
{
    for (guint i = r->undo->len; i-- > 0;) {
        const struct agent_undo *undo = &g_array_index(r->undo, struct agent_undo, i);
        size_t size;
        const void *before = g_bytes_get_data(undo->before, &size);

        write_anew(agent_file_fd(r, undo->file), undo->offset, before, size, NULL);
    }
}

bool agent_contents(AgentRestore *r, const struct fmt_pages *pages, uint64_t addr, const void *data,
                    uint64_t size, GError **error)
{
    const struct fmt_record *owner = fmt_image_by_ref(r->img, pages->owner, FMT_ANY);

    switch (owner ? owner->type : FMT_ANY) {
    case FMT_MM:
        return agent_mm_pages(r, pages, addr, data, size, error);
    case FMT_COW_SET:
        return agent_cow_pages(r, pages, addr, data, size, error);
    case FMT_SHM:
        return data ? agent_shm_write(r, pages->owner, addr, data, size, error)
                    : agent_shm_zero(r, pages->owner, addr, size, error);
    case FMT_INODE:
        return inode_pages(r, pages, addr, data, size, error);
    default:
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE,
                    "contents for object %" G_GUINT64_FORMAT ", which holds none", pages->owner);
        return false;
    }
}
