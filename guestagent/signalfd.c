// SPDX-License-Identifier: GPL-2.0-or-later
// Signalfds: the mask.

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    if (!fmt_image_by_ref(r->img, f->object, FMT_EVENTFD))
        agent_refuse_file(r, "signalfd", f->rec.objref, "the image lacks the mask of a signalfd");
}

static int open_signalfd(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_eventfd *rec = fmt_image_by_ref(r->img, f->object, FMT_EVENTFD);
    // The C library's signalfd() would take its own signals out of the mask.
    const int fd = agent_fd_up(
        r, (int)syscall(SYS_signalfd4, -1, &rec->mask, sizeof rec->mask, O_CLOEXEC), error);

    return fd >= 0 && agent_fd_status(fd, f, error) ? fd : -1;
}

const struct agent_file_kind agent_file_signalfd = {
    .kind = FMT_FILE_SIGNALFD,
    .name = "signalfd",
    .plan = plan,
    .open = open_signalfd,
};
