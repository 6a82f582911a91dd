// SPDX-License-Identifier: GPL-2.0-or-later
// Finding and opening the agent's end of the channel.
#include "guestagent/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "guestagent/protocol.h"

#define SYSFS_PORTS "/sys/class/virtio-ports"

// The device of the port named AGENT_PORT_NAME; NULL where there is none. udev makes a link that
// bears the name, but not every guest has udev.
static char *find_port(void)
{
    const char *link = "/dev/virtio-ports/" AGENT_PORT_NAME;
    g_autoptr(GDir) dir = NULL;
    const char *port;

    if (access(link, F_OK) == 0)
        return g_strdup(link);
    dir = g_dir_open(SYSFS_PORTS, 0, NULL);
    while (dir && (port = g_dir_read_name(dir))) {
        g_autofree char *attr = g_strdup_printf(SYSFS_PORTS "/%s/name", port);
        g_autofree char *name = NULL;

        if (g_file_get_contents(attr, &name, NULL, NULL) &&
            strcmp(g_strchomp(name), AGENT_PORT_NAME) == 0)
            return g_strdup_printf("/dev/%s", port);
    }
    return NULL;
}

static int connect_socket(const char *path, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_CHANNEL, "%s: too long for a socket", path);
        return -1;
    }
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        agent_set_errno(error, AGENT_ERROR_CHANNEL, "cannot connect to %s", path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

bool agent_channel_open(const char *path, int *ret_fd, GError **error)
{
    g_autofree char *found = path ? g_strdup(path) : find_port();
    struct stat st;
    int fd;

    if (!found) {
        *ret_fd = -1;
        return true;
    }
    if (stat(found, &st) == 0 && S_ISSOCK(st.st_mode)) {
        fd = connect_socket(found, error);
        if (fd < 0)
            return false;
    } else {
        fd = open(found, O_RDWR | O_CLOEXEC | O_NOCTTY);
        if (fd < 0 && errno == EBUSY) {
            g_set_error(error, AGENT_ERROR, AGENT_ERROR_CHANNEL,
                        "%s is in use: an agent runs already", found);
            return false;
        }
        if (fd < 0)
            return agent_set_errno(error, AGENT_ERROR_CHANNEL, "cannot open %s", found);
    }
    // SIGIO is the only way to learn that a host has come without asking again and again: a port
    // without a host is always ready, with POLLHUP.
    if (fcntl(fd, F_SETOWN, getpid()) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC) < 0) {
        agent_set_errno(error, AGENT_ERROR_CHANNEL, "%s", found);
        close(fd);
        return false;
    }
    *ret_fd = fd;
    return true;
}
