// SPDX-License-Identifier: GPL-2.0-or-later
#include "oddities.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int open_bpf_map(void)
{
    union bpf_attr attr = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};

    return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}

int open_perf(void)
{
    struct perf_event_attr attr = {
        .size = sizeof attr, .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_TASK_CLOCK};

    return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

int open_kmsg(void)
{
    return open("/dev/kmsg", O_RDWR | O_NONBLOCK);
}

int open_fanotify(void)
{
    return fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY);
}

int open_debugfs(void)
{
    mount("none", "/sys/kernel/debug", "debugfs", 0, NULL); // or it is there
    return open("/sys/kernel/debug/clear_warn_once", O_WRONLY);
}

int open_fscontext(void)
{
    return (int)syscall(SYS_fsopen, "tmpfs", 0);
}

int open_uts_namespace(void)
{
    return open("/proc/self/ns/uts", O_RDONLY);
}

int open_netlink(void)
{
    const struct sockaddr_nl addr = {.nl_family = AF_NETLINK};
    const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE);

    return fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof addr) < 0 ? -1 : fd;
}
