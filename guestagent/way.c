// SPDX-License-Identifier: GPL-2.0-or-later
// Directories that this machine lacks and that lead to what is made in them: sockets, FIFOs, files
// that came along.

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guestagent/engine.h"

static bool is_needed(const AgentRestore *r, const struct fmt_directory *rec)
{
    return r->ways && g_ptr_array_find(r->ways, rec, NULL);
}

static const struct fmt_directory *record_of(AgentRestore *r, const char *path)
{
    const struct fmt_directory *rec;

    for (size_t i = 0; FMT_NEXT(r->img, DIRECTORY, i, rec); i++)
        if (rec->path && strcmp(rec->path, path) == 0)
            return rec;
    return NULL;
}

bool agent_way_plan(AgentRestore *r, const char *dir)
{
    struct stat st;

    if (stat(dir, &st) == 0)
        return S_ISDIR(st.st_mode);
    // Nor a symbolic link that leads nowhere.
    const struct fmt_directory *rec =
        errno == ENOENT && lstat(dir, &st) < 0 ? record_of(r, dir) : NULL;
    g_autofree char *above = g_path_get_dirname(dir);

    if (!rec || strlen(above) >= strlen(dir))
        return false;
    if (is_needed(r, rec))
        return true;
    if (!agent_way_plan(r, above))
        return false;
    if (!r->ways)
        r->ways = g_ptr_array_new();
    g_ptr_array_add(r->ways, (void *)rec);
    agent_note(r, "carried", 0, -1, "the directory %s was missing and is made", dir);
    return true;
}

bool agent_way_make(AgentRestore *r, GError **error)
{
    // Those above come first.
    for (guint i = 0; r->ways && i < r->ways->len; i++) {
        const struct fmt_directory *way = g_ptr_array_index(r->ways, i);

        if (mkdir(way->path, 0700) < 0)
            return agent_fail_errno(error, "%s", way->path);
        g_ptr_array_add(r->created, g_strdup(way->path));
        if (chown(way->path, (uid_t)way->uid, (gid_t)way->gid) < 0 ||
            chmod(way->path, way->mode & 07777) < 0)
            return agent_fail_errno(error, "owner of %s", way->path);
    }
    return true;
}
