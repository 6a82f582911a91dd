// SPDX-License-Identifier: GPL-2.0-or-later
// Eventfds: the counter.

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "guestagent/engine.h"

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_eventfd *rec = fmt_image_by_ref(r->img, f->object, FMT_EVENTFD);

    if (!rec)
        agent_refuse_file(r, "eventfd", f->rec.objref, "the image lacks the counter of an eventfd");
    else if (rec->count == UINT64_MAX)
        agent_refuse_file(r, "eventfd", f->rec.objref, "the counter of an eventfd has overflowed");
}

static int open_eventfd(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_eventfd *rec = fmt_image_by_ref(r->img, f->object, FMT_EVENTFD);
    const int flags = EFD_CLOEXEC | EFD_NONBLOCK | (rec->semaphore ? EFD_SEMAPHORE : 0);
    const int fd = agent_fd_up(r, eventfd(0, flags), error);

    if (fd < 0)
        return -1;
    if (rec->count && write(fd, &rec->count, sizeof rec->count) != sizeof rec->count) {
        agent_fail_errno(error, "counter of an eventfd");
        return -1;
    }
    return agent_fd_status(fd, f, error) ? fd : -1;
}

const struct agent_file_kind agent_file_eventfd = {
    .kind = FMT_FILE_EVENTFD,
    .name = "eventfd",
    .plan = plan,
    .open = open_eventfd,
};
