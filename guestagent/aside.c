// SPDX-License-Identifier: GPL-2.0-or-later
// A file system in memory that is mounted nowhere: there a deleted file can have the name that it
// had where this machine has another file of that name, as after an upgrade.

#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

/*
 * The kernel shows the path of a file on such a mount from the mount's root, as it would be from
 * ours. The mount goes with the last file that is open on it.
 */
static int make(void)
{
    const int context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    int fd = -1;

    if (context < 0)
        return -1;
    if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        fd = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
    close(context);
    return fd;
}

char *agent_aside_path(AgentRestore *r, const char *path)
{
    if (!r->aside)
        r->aside = agent_fd_up(r, make(), NULL);
    return r->aside > 0 ? g_strdup_printf("/proc/self/fd/%d%s", r->aside, path) : NULL;
}

void agent_aside_leave(AgentRestore *r)
{
    if (r->aside > 0)
        agent_fd_close(r, r->aside);
    r->aside = 0;
}
