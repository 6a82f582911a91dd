// SPDX-License-Identifier: GPL-2.0-or-later
// Regular files, directories and places (O_PATH): opened by their path on this machine.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guestagent/engine.h"

// Files that the kernel makes up: their size and times say nothing.
static bool is_made_up(const struct fmt_inode *inode)
{
    return inode->fstype &&
           (strcmp(inode->fstype, "proc") == 0 || strcmp(inode->fstype, "sysfs") == 0 ||
            g_str_has_prefix(inode->fstype, "cgroup"));
}

// A symbolic link that leads nowhere is something of that name, too.
bool agent_name_is_free(AgentRestore *r, const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    struct stat st;

    return lstat(path, &st) < 0 && agent_way_plan(r, dir);
}

static void plan_contents(AgentRestore *r, const struct fmt_file *f, const struct fmt_inode *inode,
                          const struct stat *st, const char *path)
{
    if (is_made_up(inode))
        return;
    if ((uint64_t)st->st_size != inode->size_bytes)
        agent_refuse_file(r, "file-size", f->rec.objref,
                          "%s has %" G_GUINT64_FORMAT " bytes on the source and %" G_GUINT64_FORMAT
                          " bytes on this machine",
                          path, inode->size_bytes, (uint64_t)st->st_size);
    else if (st->st_mtim.tv_sec * G_GINT64_CONSTANT(1000000000) + st->st_mtim.tv_nsec !=
             inode->mtime_ns)
        agent_note_file(r, "file-time", f->rec.objref, "%s was modified at another time", path);
}

static void plan_direct(AgentRestore *r, const struct fmt_file *f, const char *path)
{
    const int probe = open(path, O_RDONLY | O_DIRECT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (probe < 0 && errno == EINVAL)
        agent_refuse_file(r, "file-flags", f->rec.objref, "%s cannot be opened with O_DIRECT here",
                          path);
    if (probe >= 0)
        close(probe);
}

static void plan_missing(AgentRestore *r, const struct fmt_file *f, const struct fmt_inode *inode,
                         const char *path)
{
    static const char *const why[] = {
        [FMT_CONTENTS_PARTLY] = " (not carried: not all of it was in the source's memory)",
        [FMT_CONTENTS_LARGE] = " (not carried: it is larger than --carry-files says)",
    };
    const int saved = errno;

    if (saved == ENOENT && inode->contents == FMT_CONTENTS_CARRIED && agent_name_is_free(r, path))
        agent_note_file(r, "carried", f->rec.objref, "%s was missing and came along", path);
    else
        agent_refuse_file(r, "file-missing", f->rec.objref, "%s: %s%s", path, g_strerror(saved),
                          inode->contents < G_N_ELEMENTS(why) && why[inode->contents]
                              ? why[inode->contents]
                              : "");
}

static void plan(AgentRestore *r, const struct fmt_file *f, mode_t type, const char *type_name)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);
    const char *path = f->path;
    struct stat st;

    if (!inode || !path) {
        agent_refuse_file(r, "file-path", f->rec.objref, "a %s has no path", type_name);
        return;
    }
    if (f->deleted) {
        agent_deleted_plan(r, f);
        return;
    }
    if ((type == S_IFLNK ? lstat : stat)(path, &st) < 0) {
        plan_missing(r, f, inode, path);
    } else if ((st.st_mode & S_IFMT) != type) {
        agent_refuse_file(r, "file-type", f->rec.objref, "%s is no %s on this machine", path,
                          type_name);
    } else if (type == S_IFREG && !(f->flags & O_PATH)) {
        plan_contents(r, f, inode, &st, path);
        if (f->flags & O_DIRECT)
            plan_direct(r, f, path);
    } else if (type == S_IFDIR) {
        agent_directory_plan(r, f, path);
    }
}

static void plan_regular(AgentRestore *r, const struct fmt_file *f)
{
    plan(r, f, S_IFREG, "regular file");
}

static void plan_directory(AgentRestore *r, const struct fmt_file *f)
{
    plan(r, f, S_IFDIR, "directory");
}

static void plan_place(AgentRestore *r, const struct fmt_file *f)
{
    static const struct {
        mode_t type;
        const char *name;
    } types[] = {{S_IFREG, "regular file"},     {S_IFDIR, "directory"}, {S_IFLNK, "symbolic link"},
                 {S_IFCHR, "character device"}, {S_IFIFO, "FIFO"},      {S_IFSOCK, "socket"},
                 {S_IFBLK, "block device"}};
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);
    const mode_t type = inode ? inode->mode & S_IFMT : 0;
    size_t i = 0;

    while (i + 1 < G_N_ELEMENTS(types) && types[i].type != type)
        i++;
    plan(r, f, type, types[i].name);
}

bool agent_inode_make(AgentRestore *r, const struct fmt_inode *inode, const char *path,
                      GError **error)
{
    const int old = agent_inode_fd(r, inode->rec.objref);
    struct stat st;

    if (inode->contents != FMT_CONTENTS_CARRIED || lstat(path, &st) == 0)
        return true;
    if (old >= 0) {
        // By its descriptor: any of its names may be the one that was made first.
        g_autofree char *made = g_strdup_printf("/proc/self/fd/%d", old);

        if (linkat(AT_FDCWD, made, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0)
            return agent_fail_errno(error, "a link of %s", inode->path ? inode->path : path);
        g_ptr_array_add(r->created, g_strdup(path));
        return true;
    }
    const int fd =
        agent_fd_up(r, open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), error);

    if (fd < 0)
        return false;
    g_ptr_array_add(r->created, g_strdup(path));
    g_hash_table_insert(r->objects, (void *)&inode->rec.objref, g_memdup2(&fd, sizeof fd));
    return agent_inode_dress(fd, inode, error);
}

void agent_inodes_undo(AgentRestore *r)
{
    for (guint i = r->created->len; i-- > 0;) {
        const char *path = g_ptr_array_index(r->created, i);

        if (remove(path) < 0 && errno == EPERM) {
            agent_attributes_take_back(path);
            remove(path);
        }
    }
}

static int open_by_name(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);
    const char *path = f->path;

    if (!agent_inode_make(r, inode, path, error))
        return -1;
    return agent_fd_up(
        r, open(path, (int)(f->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) | O_NOCTTY | O_CLOEXEC),
        error);
}

static int open_path(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const int fd = f->deleted ? agent_deleted_open(r, f, error) : open_by_name(r, f, error);

    if (fd >= 0 && f->pos > 0 && !(f->flags & O_PATH) && lseek(fd, (off_t)f->pos, SEEK_SET) < 0) {
        agent_fail_errno(error, "seek to %" G_GUINT64_FORMAT, f->pos);
        return -1;
    }
    return fd;
}

static int open_directory(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const int fd = f->deleted ? agent_deleted_open(r, f, error) : open_by_name(r, f, error);

    return fd >= 0 && agent_directory_seek(f, fd, error) ? fd : -1;
}

const struct agent_file_kind agent_file_reg = {
    .kind = FMT_FILE_REG,
    .name = "regular file",
    .plan = plan_regular,
    .open = open_path,
};

const struct agent_file_kind agent_file_dir = {
    .kind = FMT_FILE_DIR,
    .name = "directory",
    .plan = plan_directory,
    .open = open_directory,
};

const struct agent_file_kind agent_file_place = {
    .kind = FMT_FILE_PATH,
    .name = "place",
    .plan = plan_place,
    .open = open_path,
};
