// SPDX-License-Identifier: GPL-2.0-or-later
// Maps guest RAM that QEMU shares (memfd or file) read-only into this process, and reads it ahead.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/memory_source.h"

struct VmmMapping {
    uint8_t *bytes;
    size_t size_bytes;
    struct hva start;      // what bytes[0] is in QEMU's address space
    int fd;                // the file
    uint64_t offset_bytes; // of bytes[0] in it
};

static bool is_file(int fd, uint64_t inode)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_ino == inode;
}

static int open_file(const char *path, uint64_t inode)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (is_file(fd, inode))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

// Needs no capability, but QEMU must have kept the descriptor (it does).
static int open_by_descriptor(pid_t pid, uint64_t inode)
{
    g_autofree char *folder = g_strdup_printf("/proc/%d/fd", (int)pid);
    DIR *dir = opendir(folder);
    struct dirent *entry;
    int fd = -1;

    while (dir && fd < 0 && (entry = readdir(dir))) {
        g_autofree char *path = g_build_filename(folder, entry->d_name, NULL);
        struct stat st;

        // Look before opening: opening a device or a pipe has effects.
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_ino == inode)
            fd = open_file(path, inode);
    }
    if (dir)
        closedir(dir);
    return fd;
}

VmmMapping *vmm_mapping_open(pid_t pid, struct hva start, struct hva end, uint64_t offset,
                             uint64_t inode)
{
    g_autofree char *path =
        g_strdup_printf("/proc/%d/map_files/%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x",
                        (int)pid, start.addr, end.addr);
    size_t size_bytes = (size_t)(end.addr - start.addr);
    VmmMapping *mapping;
    void *bytes;
    int fd = open_file(path, inode);

    if (fd < 0)
        fd = open_by_descriptor(pid, inode);
    if (fd < 0)
        return NULL;
    bytes = mmap(NULL, size_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);
    if (bytes == MAP_FAILED) {
        close(fd);
        return NULL;
    }
    mapping = g_new0(VmmMapping, 1);
    mapping->fd = fd;
    mapping->offset_bytes = offset;
    mapping->bytes = bytes;
    mapping->size_bytes = size_bytes;
    mapping->start = start;
    return mapping;
}

void vmm_mapping_close(VmmMapping *mapping)
{
    if (!mapping)
        return;
    munmap(mapping->bytes, mapping->size_bytes);
    close(mapping->fd);
    g_free(mapping);
}

const uint8_t *vmm_mapping_bytes(const VmmMapping *mapping, struct hva at)
{
    g_assert(at.addr >= mapping->start.addr && at.addr - mapping->start.addr < mapping->size_bytes);
    return mapping->bytes + (at.addr - mapping->start.addr);
}

bool vmm_mapping_next_touched(const VmmMapping *mapping, const uint8_t *bytes, size_t len,
                              size_t *ret_start, size_t *ret_len)
{
    off_t start, end, data, hole;

    if (bytes < mapping->bytes || bytes >= mapping->bytes + mapping->size_bytes)
        return false;
    start = (off_t)(mapping->offset_bytes + (uint64_t)(bytes - mapping->bytes));
    end = start + (off_t)len;
    data = lseek(mapping->fd, start, SEEK_DATA);
    // ENXIO: a hole up to the end of the file. Other errors are of files that do not tell.
    if (data < 0)
        data = errno == ENXIO ? end : start;
    hole = data < end ? lseek(mapping->fd, data, SEEK_HOLE) : end;
    if (hole <= data || hole > end)
        hole = end;
    *ret_len = data < end ? (size_t)(hole - data) : 0;
    *ret_start = *ret_len > 0 ? (size_t)(data - start) : 0;
    return true;
}

// Only what the guest has touched: reading a hole would make the host allocate it.
void vmm_mapping_prefault(VmmMapping *mapping)
{
    off_t end = (off_t)(mapping->offset_bytes + mapping->size_bytes);
    off_t data, hole = (off_t)mapping->offset_bytes;

    while (hole < end && (data = lseek(mapping->fd, hole, SEEK_DATA)) >= 0 && data < end) {
        hole = lseek(mapping->fd, data, SEEK_HOLE);
        if (hole <= data)
            return;
        // Best effort: an older kernel maps the pages at first touch as it always did.
        madvise(mapping->bytes + ((uint64_t)data - mapping->offset_bytes),
                (size_t)(MIN(hole, end) - data), MADV_POPULATE_READ);
    }
}
