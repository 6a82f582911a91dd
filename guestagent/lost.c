// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptors of what the user accepted to lose (--allow): taken, and good for nothing.

#include <fcntl.h>

#include "guestagent/engine.h"

// A descriptor that is only a place fails with EBADF as one that is closed does, but its number is
// not given to another file behind the program's back. The place leads nowhere: not to a directory,
// from which openat() could go on.
static int open_lost(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    (void)f;
    return agent_fd_up(r, open("/dev/null", O_PATH | O_CLOEXEC), error);
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    (void)r;
    (void)f;
}

const struct agent_file_kind agent_file_lost = {
    .kind = FMT_FILE_LOST,
    .name = "lost file",
    .plan = plan,
    .open = open_lost,
};
