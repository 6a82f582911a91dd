// SPDX-License-Identifier: GPL-2.0-or-later
// Finds and connects a virtio-serial port of the machine.
#include "vmm/channel.h"

#include <gio/gunixsocketaddress.h>
#include <string.h>

#include "vmm/machine.h"

// Devices are children of these two, or of a device in them; buses in between.
static const char *const roots[] = {"/machine/peripheral", "/machine/peripheral-anon"};
#define MAX_DEPTH 4

static VmmJson *qom_list(VmmQmp *qmp, const char *path, GError **error)
{
    VmmJson *args = json_object_new_object();

    json_object_object_add(args, "path", json_object_new_string(path));
    return vmm_qmp_call(qmp, "qom-list", args, -1, error);
}

// A property that is a string; NULL with or without an error where it is not.
static char *qom_get_string(VmmQmp *qmp, const char *path, const char *property, GError **error)
{
    VmmJson *args = json_object_new_object();
    g_autoptr(VmmJson) value = NULL;

    json_object_object_add(args, "path", json_object_new_string(path));
    json_object_object_add(args, "property", json_object_new_string(property));
    value = vmm_qmp_call(qmp, "qom-get", args, -1, error);
    if (!value || !json_object_is_type(value, json_type_string))
        return NULL;
    return g_strdup(json_object_get_string(value));
}

static bool is_port(VmmQmp *qmp, const char *path, const char *type, const char *port_name)
{
    g_autofree char *name = NULL;

    if (strcmp(type, "child<virtserialport>") != 0 && strcmp(type, "child<virtconsole>") != 0)
        return false;
    name = qom_get_string(qmp, path, "name", NULL);
    return name && strcmp(name, port_name) == 0;
}

// The object path of the port below `path`, or NULL. Objects that go away meanwhile are skipped.
static char *find_port(VmmQmp *qmp, const char *path, const char *port_name, int depth)
{
    g_autoptr(VmmJson) list = qom_list(qmp, path, NULL);

    if (!list || !json_object_is_type(list, json_type_array))
        return NULL;
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        VmmJson *item = json_object_array_get_idx(list, i);
        const char *name = vmm_json_string(item, "name"), *type = vmm_json_string(item, "type");
        g_autofree char *child = NULL;
        char *found;

        if (!name || !type || !g_str_has_prefix(type, "child<"))
            continue;
        child = g_strconcat(path, "/", name, NULL);
        if (is_port(qmp, child, type, port_name))
            return g_steal_pointer(&child);
        found = depth > 0 ? find_port(qmp, child, port_name, depth - 1) : NULL;
        if (found)
            return found;
    }
    return NULL;
}

bool vmm_channel_parse_filename(const char *filename, char **ret_path, bool *ret_connected)
{
    static const char *const options[] = {",server=on", ",server"};
    bool connected = !g_str_has_prefix(filename, "disconnected:");
    const char *start = connected ? filename : filename + strlen("disconnected:");
    size_t len;

    if (!g_str_has_prefix(start, "unix:"))
        return false;
    start += strlen("unix:");
    len = strlen(start);
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (g_str_has_suffix(start, options[i])) {
            len -= strlen(options[i]);
            break;
        }
    }
    *ret_path = len > 0 ? g_strndup(start, len) : NULL;
    *ret_connected = connected;
    return true;
}

// What query-chardev says of a label; borrowed from `list`.
static const VmmJson *find_chardev(VmmJson *list, const char *label)
{
    if (!json_object_is_type(list, json_type_array))
        return NULL;
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        VmmJson *item = json_object_array_get_idx(list, i);

        if (g_strcmp0(vmm_json_string(item, "label"), label) == 0)
            return item;
    }
    return NULL;
}

static char *find_socket(VmmQmp *qmp, const char *port_name, const char *label, GError **error)
{
    g_autoptr(VmmJson) list = vmm_qmp_call(qmp, "query-chardev", NULL, -1, error);
    g_autofree char *path = NULL;
    const VmmJson *chardev;
    const char *filename;
    bool connected = false, open;

    if (!list)
        return NULL;
    chardev = find_chardev(list, label);
    filename = chardev ? vmm_json_string(chardev, "filename") : NULL;
    if (!filename || !vmm_channel_parse_filename(filename, &path, &connected) ||
        (!path && !connected))
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "port %s: its chardev \"%s\" is no unix socket (%s)", port_name, label,
                    filename ? filename : "not listed");
    else if (connected)
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT,
                    "port %s: another client is connected to its socket", port_name);
    else if (vmm_json_bool(chardev, "frontend-open", &open) && !open)
        g_set_error(error, VMM_ERROR, VMM_ERROR_ABSENT, "nobody in the guest has opened port %s",
                    port_name);
    else
        return g_steal_pointer(&path);
    return NULL;
}

GSocketConnection *vmm_channel_open(VmmQmp *qmp, const char *port_name, GError **error)
{
    g_autofree char *port = NULL, *label = NULL, *path = NULL;
    g_autoptr(GSocketClient) client = NULL;
    g_autoptr(GSocketAddress) address = NULL;
    g_autoptr(GError) failure = NULL;
    GSocketConnection *connection;

    for (size_t i = 0; i < G_N_ELEMENTS(roots) && !port; i++)
        port = find_port(qmp, roots[i], port_name, MAX_DEPTH);
    if (!port) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_ABSENT,
                    "the machine has no virtio-serial port named %s", port_name);
        return NULL;
    }
    label = qom_get_string(qmp, port, "chardev", error);
    path = label ? find_socket(qmp, port_name, label, error) : NULL;
    if (!path)
        return NULL;
    client = g_socket_client_new();
    address = g_unix_socket_address_new(path);
    connection = g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL, &failure);
    if (!connection)
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "port %s: %s: %s", port_name, path,
                    failure->message);
    return connection;
}
