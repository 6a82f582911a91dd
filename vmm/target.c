// SPDX-License-Identifier: GPL-2.0-or-later
// Takes target names apart.
#include "vmm/target.h"

#include <string.h>
#include <sys/un.h>

#include "vmm/machine.h"

#define SOCKET_PREFIX "qmp:"

static bool parse_socket(const char *path, struct vmm_target *ret, GError **error)
{
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);

    if (strlen(absolute) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_TARGET, "%s: too long for a socket's name",
                    absolute);
        return false;
    }
    *ret = (struct vmm_target){VMM_TARGET_SOCKET, .socket = g_steal_pointer(&absolute)};
    return true;
}

bool vmm_target_parse(const char *name, const char *uri, struct vmm_target *ret, GError **error)
{
    if (g_str_has_prefix(name, SOCKET_PREFIX) && name[strlen(SOCKET_PREFIX)])
        return parse_socket(name + strlen(SOCKET_PREFIX), ret, error);
    // libvirt allows no slash in a domain's name; here it is a path or an URI that went astray.
    if (!*name || strchr(name, '/') || g_str_has_prefix(name, SOCKET_PREFIX)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_TARGET, "'%s' is no target", name);
        return false;
    }
    if (!uri || !*uri)
        uri = g_getenv("VIRSH_DEFAULT_CONNECT_URI");
    *ret = (struct vmm_target){VMM_TARGET_DOMAIN, .domain = g_strdup(name),
                               .uri = g_strdup(uri && *uri ? uri : NULL)};
    return true;
}

void vmm_target_clear(struct vmm_target *target)
{
    g_free(target->socket);
    g_free(target->domain);
    g_free(target->uri);
    *target = (struct vmm_target){0};
}
