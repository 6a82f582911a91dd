// SPDX-License-Identifier: GPL-2.0-or-later
// Regular files and directories: opened by their path on this machine.

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guestagent/engine.h"

// Flags that a later open() takes as they were; the others had their effect on the source.
#define KEPT_FLAGS                                                                                 \
    (O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT | O_LARGEFILE | O_DIRECTORY |             \
     O_NOFOLLOW | O_NOATIME | O_PATH)

static void plan(AgentRestore *r, const struct fmt_file *f, mode_t type, const char *type_name)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);
    g_autofree char *path = NULL;
    struct stat st;
    uint64_t pid;
    int64_t fd;

    agent_file_user(r, f->rec.objref, &pid, &fd);
    if (!inode || !f->path) {
        agent_refuse(r, "file-path", pid, fd, "a %s has no path", type_name);
        return;
    }
    if (f->deleted) {
        agent_refuse(r, "file-deleted", pid, fd, "%s was deleted and is still open", f->path);
        return;
    }
    path = agent_file_path(r, f);
    if (stat(path, &st) < 0) {
        agent_refuse(r, "file-missing", pid, fd, "%s: %s", path, g_strerror(errno));
    } else if ((st.st_mode & S_IFMT) != type) {
        agent_refuse(r, "file-type", pid, fd, "%s is no %s on this machine", path, type_name);
    } else if (type == S_IFREG && (uint64_t)st.st_size != inode->size_bytes) {
        agent_refuse(r, "file-size", pid, fd,
                     "%s has %" G_GUINT64_FORMAT " bytes on the source and %" G_GUINT64_FORMAT
                     " bytes on this machine",
                     path, inode->size_bytes, (uint64_t)st.st_size);
    } else if (type == S_IFREG &&
               st.st_mtim.tv_sec * G_GINT64_CONSTANT(1000000000) + st.st_mtim.tv_nsec !=
                   inode->mtime_ns) {
        agent_note(r, "file-time", pid, fd, "%s was modified at another time", path);
    }
}

static void plan_regular(AgentRestore *r, const struct fmt_file *f)
{
    plan(r, f, S_IFREG, "regular file");
}

static void plan_directory(AgentRestore *r, const struct fmt_file *f)
{
    uint64_t pid;
    int64_t fd;

    plan(r, f, S_IFDIR, "directory");
    agent_file_user(r, f->rec.objref, &pid, &fd);
    // The position is a cookie of the source's file system.
    if (f->pos)
        agent_note(r, "directory-position", pid, fd,
                   "%s was being listed; the list goes on at the same cookie", f->path);
}

static int open_path(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    static const int access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    g_autofree char *path = agent_file_path(r, f);
    const int fd = agent_fd_up(
        r, open(path, access[f->mode & 3] | (f->flags & KEPT_FLAGS) | O_NOCTTY | O_CLOEXEC), error);

    if (fd >= 0 && f->pos > 0 && !(f->flags & O_PATH) && lseek(fd, (off_t)f->pos, SEEK_SET) < 0) {
        agent_fail_errno(error, "seek to %" G_GUINT64_FORMAT, f->pos);
        return -1;
    }
    return fd;
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
    .open = open_path,
};
