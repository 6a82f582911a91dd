// SPDX-License-Identifier: GPL-2.0-or-later
// The cgroup (version 2) that a process was in, where this machine has one of that name.

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "guestagent/engine.h"

// Where cgroups version 2 are mounted, whole; NULL where they are not.
static char *mount_point(void)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
        return NULL;
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        g_auto(GStrv) fields = g_strsplit(lines[i], " ", -1);

        // id, parent, device, root, mount point, options ... - type
        if (strstr(lines[i], " - cgroup2 ") && g_strv_length(fields) > 5 &&
            strcmp(fields[3], "/") == 0)
            return g_strcompress(fields[4]);
    }
    return NULL;
}

static bool has_dots(const char *path)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);

    return g_strv_contains((const char *const *)parts, "..");
}

// The file that takes pids; NULL where there is none.
static char *procs_file(const char *cgroup)
{
    g_autofree char *root = mount_point();
    g_autofree char *file = root && cgroup[0] == '/' && !has_dots(cgroup)
                                ? g_build_filename(root, cgroup, "cgroup.procs", NULL)
                                : NULL;

    return file && access(file, W_OK) == 0 ? g_steal_pointer(&file) : NULL;
}

// A machine without cgroups has none to tell apart.
static bool is_root_of_nothing(const char *cgroup)
{
    g_autofree char *root = strcmp(cgroup, "/") == 0 ? mount_point() : NULL;

    return strcmp(cgroup, "/") == 0 && !root;
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (!p->rec->cgroup || is_root_of_nothing(p->rec->cgroup))
            continue;
        g_autofree char *file = procs_file(p->rec->cgroup);

        if (!file)
            agent_note(r, "cgroup", p->rec->pid, -1,
                       "there is no cgroup %s here: it stays in that of the agent", p->rec->cgroup);
    }
}

static bool build(AgentProc *p, GError **error)
{
    g_autofree char *file = p->rec->cgroup ? procs_file(p->rec->cgroup) : NULL;
    char text[16];

    if (!file)
        return true;
    const int len = g_snprintf(text, sizeof text, "%d", agent_leader(p)->tracee.tid);
    const int fd = open(file, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, (size_t)len) != len)
        agent_note(p->r, "cgroup", p->rec->pid, -1, "it cannot enter the cgroup %s: %m",
                   p->rec->cgroup);
    if (fd >= 0)
        close(fd);
    return true;
}

const struct agent_aspect agent_aspect_cgroup = {
    .name = "cgroup",
    .plan = plan,
    .build = build,
};
