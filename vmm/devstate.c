// SPDX-License-Identifier: GPL-2.0-or-later
// Has QEMU write its device state into a memfd.
#include "vmm/devstate.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/machine.h"

struct VmmDevstate {
    int memory; // the memfd, for reading
    int writer; // the description QEMU writes through: its offset is shared with us
    int64_t fdset;
};

static void free_devstate(VmmDevstate *dev)
{
    if (dev->memory >= 0)
        close(dev->memory);
    if (dev->writer >= 0)
        close(dev->writer);
    g_free(dev);
}

// QEMU opens write-only and gives a member of the set only to whom asks for the same access.
static bool open_files(VmmDevstate *dev, GError **error)
{
    g_autofree char *path = NULL;

    dev->memory = memfd_create("vmgraft-devstate", MFD_CLOEXEC);
    if (dev->memory >= 0) {
        path = g_strdup_printf("/proc/self/fd/%d", dev->memory);
        dev->writer = open(path, O_WRONLY | O_CLOEXEC);
    }
    if (dev->writer >= 0)
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "memory for the device state: %s",
                g_strerror(errno));
    return false;
}

VmmDevstate *vmm_devstate_open(VmmQmp *qmp, GError **error)
{
    VmmDevstate *dev = g_new0(VmmDevstate, 1);
    g_autoptr(VmmJson) answer = NULL;

    dev->memory = dev->writer = -1;
    if (open_files(dev, error))
        answer = vmm_qmp_call(qmp, "add-fd", NULL, dev->writer, error);
    if (answer && !vmm_json_int(answer, "fdset-id", &dev->fdset)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: add-fd names no set");
        g_clear_pointer(&answer, json_object_put);
    }
    if (answer)
        return dev;
    free_devstate(dev);
    return NULL;
}

void vmm_devstate_close(VmmDevstate *dev, VmmQmp *qmp)
{
    VmmJson *args;
    g_autoptr(VmmJson) answer = NULL;

    if (!dev)
        return;
    args = json_object_new_object();
    json_object_object_add(args, "fdset-id", json_object_new_int64(dev->fdset));
    answer = vmm_qmp_call(qmp, "remove-fd", args, -1, NULL);
    free_devstate(dev);
}

static GBytes *read_file(int fd, GError **error)
{
    struct stat st;
    g_autofree uint8_t *data = NULL;
    size_t len, done = 0;

    if (fstat(fd, &st) < 0 || st.st_size <= 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QEMU wrote no device state");
        return NULL;
    }
    len = (size_t)st.st_size;
    data = g_malloc(len);
    while (done < len) {
        ssize_t n = pread(fd, data + done, len - done, (off_t)done);

        if (n <= 0) {
            g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "device state: %s",
                        n < 0 ? g_strerror(errno) : "it shrank");
            return NULL;
        }
        done += (size_t)n;
    }
    return g_bytes_new_take(g_steal_pointer(&data), len);
}

static bool rewind_files(VmmDevstate *dev, GError **error)
{
    if (ftruncate(dev->memory, 0) == 0 && lseek(dev->writer, 0, SEEK_SET) == 0)
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "device state: %s", g_strerror(errno));
    return false;
}

GBytes *vmm_devstate_read(VmmDevstate *dev, VmmQmp *qmp, GError **error)
{
    g_autofree char *path = g_strdup_printf("/dev/fdset/%" G_GINT64_FORMAT, dev->fdset);
    g_autoptr(VmmJson) answer = NULL;
    VmmJson *args;

    if (!rewind_files(dev, error))
        return NULL;
    args = json_object_new_object();
    json_object_object_add(args, "filename", json_object_new_string(path));
    // `live` would release the locks of the guest's disks.
    json_object_object_add(args, "live", json_object_new_boolean(FALSE));
    answer = vmm_qmp_call(qmp, "xen-save-devices-state", args, -1, error);
    return answer ? read_file(dev->memory, error) : NULL;
}
