// SPDX-License-Identifier: GPL-2.0-or-later
// The cgroups (version 2) that processes and threads were in, where this machine has those.

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

// Its directory; NULL where there is none.
static char *directory_of(const char *cgroup)
{
    g_autofree char *root = mount_point();
    g_autofree char *path =
        root && cgroup[0] == '/' && !has_dots(cgroup) ? g_build_filename(root, cgroup, NULL) : NULL;

    return path && access(path, F_OK) == 0 ? g_steal_pointer(&path) : NULL;
}

// By itself or by one above it.
static bool is_frozen(const char *directory)
{
    g_autofree char *path = g_strdup(directory);

    while (path[1]) {
        g_autofree char *file = g_build_filename(path, "cgroup.freeze", NULL);
        g_autofree char *text = NULL;

        if (!g_file_get_contents(file, &text, NULL, NULL)) // the root
            return false;
        if (text[0] == '1')
            return true;
        char *up = g_path_get_dirname(path);
        g_free(path);
        path = up;
    }
    return false;
}

// A machine without cgroups has none to tell apart.
static bool is_root_of_nothing(const char *cgroup)
{
    g_autofree char *root = strcmp(cgroup, "/") == 0 ? mount_point() : NULL;

    return strcmp(cgroup, "/") == 0 && !root;
}

static void plan_one(AgentRestore *r, uint64_t pid, const char *cgroup)
{
    if (!cgroup || is_root_of_nothing(cgroup))
        return;
    g_autofree char *directory = directory_of(cgroup);

    if (!directory)
        agent_note(r, "cgroup", pid, -1,
                   "there is no cgroup %s here: it stays in that of the agent", cgroup);
    else if (is_frozen(directory))
        agent_refuse(r, "cgroup", pid, -1, "the cgroup %s is frozen here", cgroup);
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        plan_one(r, p->rec->pid, p->rec->cgroup);
        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);
            plan_one(r, p->rec->pid, t->rec->cgroup);
        }
    }
}

// `takes` is the file of the cgroup that takes ids: of whole processes, or of threads.
static void enter(AgentProc *p, const AgentTask *t, const char *cgroup, const char *takes)
{
    g_autofree char *directory = cgroup ? directory_of(cgroup) : NULL;
    char text[16];

    if (!directory)
        return;
    g_autofree char *file = g_build_filename(directory, takes, NULL);
    const int len = g_snprintf(text, sizeof text, "%d", t->tracee.tid);
    const int fd = open(file, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, (size_t)len) != len)
        agent_note(p->r, "cgroup", p->rec->pid, -1, "it cannot enter the cgroup %s: %m", cgroup);
    if (fd >= 0)
        close(fd);
}

// Before it has memory, which is then charged to its cgroup.
static bool build(AgentProc *p, GError **error)
{
    enter(p, agent_leader(p), p->rec->cgroup, "cgroup.procs");
    return true;
}

static bool finish_task(AgentTask *t, GError **error)
{
    enter(t->proc, t, t->rec->cgroup, "cgroup.threads");
    return true;
}

const struct agent_aspect agent_aspect_cgroup = {
    .name = "cgroup",
    .plan = plan,
    .build = build,
    .finish_task = finish_task,
};
