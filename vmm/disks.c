// SPDX-License-Identifier: GPL-2.0-or-later
// Has QEMU serve a guest's disks, read-only, on a socket of ours.
#include "vmm/disks.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/machine.h"

#define LISTENER "vmgraft-disks" // what the monitor calls the descriptor until it is used

struct VmmDisks {
    char *folder, *socket;
    unsigned n;
    bool serving;
};

static bool fail(GError **error, const char *what)
{
    g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "a socket for the guest's disks: %s: %s", what,
                g_strerror(errno));
    return false;
}

// Bound by us, in a directory that is ours alone: QEMU may run as whoever it likes, and gets the
// descriptor.
static int bind_socket(VmmDisks *disks, GError **error)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd;

    disks->folder = g_dir_make_tmp("vmgraft-XXXXXX", error);
    if (!disks->folder)
        return -1;
    disks->socket = g_build_filename(disks->folder, "disks", NULL);
    if (strlen(disks->socket) >= sizeof(at.sun_path)) {
        errno = ENAMETOOLONG;
        fail(error, disks->socket);
        return -1;
    }
    memcpy(at.sun_path, disks->socket, strlen(disks->socket));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0)
        return fd;
    fail(error, disks->socket);
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool run(VmmQmp *qmp, const char *command, VmmJson *args, int fd, GError **error)
{
    VmmJson *value = vmm_qmp_call(qmp, command, args, fd, error);

    json_object_put(value);
    return value != NULL;
}

static VmmJson *make_pair(const char *key, const char *text)
{
    VmmJson *object = json_object_new_object();

    json_object_object_add(object, key, json_object_new_string(text));
    return object;
}

static bool start_server(VmmDisks *disks, VmmQmp *qmp, int fd, GError **error)
{
    VmmJson *address, *args;

    if (!run(qmp, "getfd", make_pair("fdname", LISTENER), fd, error))
        return false;
    address = make_pair("type", "fd");
    json_object_object_add(address, "data", make_pair("str", LISTENER));
    args = json_object_new_object();
    json_object_object_add(args, "addr", address);
    disks->serving = run(qmp, "nbd-server-start", args, -1, error);
    if (!disks->serving)
        run(qmp, "closefd", make_pair("fdname", LISTENER), -1, NULL);
    return disks->serving;
}

static bool add_export(VmmDisks *disks, VmmQmp *qmp, const char *node, GError **error)
{
    VmmJson *args = make_pair("type", "nbd");
    g_autofree char *name = g_strdup_printf("%u", disks->n);
    g_autofree char *id = g_strdup_printf("vmgraft-%u", disks->n);

    json_object_object_add(args, "id", json_object_new_string(id));
    json_object_object_add(args, "node-name", json_object_new_string(node));
    json_object_object_add(args, "name", json_object_new_string(name));
    json_object_object_add(args, "writable", json_object_new_boolean(FALSE));
    if (!run(qmp, "block-export-add", args, -1, error))
        return false;
    disks->n++;
    return true;
}

// What is in a drive for media is not the guest's own.
static bool add_exports(VmmDisks *disks, VmmQmp *qmp, GError **error)
{
    g_autoptr(VmmJson) drives = vmm_qmp_call(qmp, "query-block", NULL, -1, error);

    if (!drives)
        return false;
    if (!json_object_is_type(drives, json_type_array)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: query-block gives no list");
        return false;
    }
    for (size_t i = 0; i < json_object_array_length(drives); i++) {
        VmmJson *drive = json_object_array_get_idx(drives, i), *medium;
        const char *node;
        bool removable = false;

        if (!json_object_object_get_ex(drive, "inserted", &medium) ||
            (vmm_json_bool(drive, "removable", &removable) && removable) ||
            !(node = vmm_json_string(medium, "node-name")))
            continue;
        if (!add_export(disks, qmp, node, error))
            return false;
    }
    return true;
}

VmmDisks *vmm_disks_serve(VmmQmp *qmp, GError **error)
{
    VmmDisks *disks = g_new0(VmmDisks, 1);
    int fd = bind_socket(disks, error);
    bool ok = fd >= 0 && start_server(disks, qmp, fd, error) && add_exports(disks, qmp, error);

    if (fd >= 0)
        close(fd);
    if (ok)
        return disks;
    vmm_disks_close(disks, qmp);
    return NULL;
}

bool vmm_disks_close(VmmDisks *disks, VmmQmp *qmp)
{
    const bool ended = !disks->serving || vmm_qmp_do(qmp, "nbd-server-stop", NULL);

    if (disks->socket)
        g_unlink(disks->socket);
    if (disks->folder)
        g_rmdir(disks->folder);
    g_free(disks->socket);
    g_free(disks->folder);
    g_free(disks);
    return ended;
}

const char *vmm_disks_socket(const VmmDisks *disks)
{
    return disks->socket;
}

unsigned vmm_disks_count(const VmmDisks *disks)
{
    return disks->n;
}
