// SPDX-License-Identifier: GPL-2.0-or-later
// Resource limits and the OOM score; set from outside.

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

static void plan(AgentRestore *r)
{
    const struct fmt_rlimit *limit;

    for (size_t i = 0; FMT_NEXT(r->img, RLIMIT, i, limit); i++) {
        if (limit->resource >= RLIM_NLIMITS)
            agent_refuse(r, "rlimit", 0, -1, "resource limit %" G_GUINT64_FORMAT " is unknown here",
                         limit->resource);
    }
}

// What is written with CAP_SYS_RESOURCE becomes the least that the process may choose itself.
static bool with_resource_capability(bool wanted)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &header, data) < 0)
        return false;
    data[0].effective &= ~(1u << CAP_SYS_RESOURCE);
    if (wanted)
        data[0].effective |= data[0].permitted & 1u << CAP_SYS_RESOURCE;
    return syscall(SYS_capset, &header, data) == 0;
}

static bool write_oom_score(const AgentProc *p, int64_t score, GError **error)
{
    const pid_t pid = agent_leader(p)->tracee.tid;
    g_autofree char *path = g_strdup_printf("/proc/%d/oom_score_adj", pid);
    char text[16];
    const int len = g_snprintf(text, sizeof text, "%d", (int)score);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && write(fd, text, len) == len;

    if (!ok)
        agent_fail_errno(error, "process %d: oom_score_adj", pid);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool set_oom_score(const AgentProc *p, GError **error)
{
    const int64_t score = p->rec->oom_score_adj, least = p->rec->oom_score_adj_min;

    if (least == 0 && score == 0)
        return true;
    if (least >= score)
        return write_oom_score(p, score, error);
    const bool ok =
        (least == 0 || write_oom_score(p, least, error)) &&
        (with_resource_capability(false) || agent_fail_errno(error, "CAP_SYS_RESOURCE")) &&
        write_oom_score(p, score, error);

    with_resource_capability(true);
    return ok;
}

// Once for the process, with its leader.
static bool finish_task(AgentTask *t, GError **error)
{
    const AgentProc *p = t->proc;
    const pid_t pid = agent_leader(p)->tracee.tid;
    const struct fmt_rlimit *limit;

    if (t != agent_leader(p))
        return true;
    for (size_t i = 0; FMT_NEXT(p->r->img, RLIMIT, i, limit); i++) {
        const struct rlimit64 want = {limit->cur, limit->max};
        struct rlimit64 have;

        if (limit->proc != p->rec->rec.objref)
            continue;
        if (prlimit64(pid, (int)limit->resource, NULL, &have) == 0 &&
            have.rlim_cur == want.rlim_cur && have.rlim_max == want.rlim_max)
            continue;
        if (prlimit64(pid, (int)limit->resource, &want, NULL) < 0)
            return agent_fail_errno(error, "process %d: resource limit %" G_GUINT64_FORMAT, pid,
                                    limit->resource);
    }
    return set_oom_score(p, error);
}

const struct agent_aspect agent_aspect_limit = {
    .name = "limits",
    .plan = plan,
    .finish_task = finish_task,
};
