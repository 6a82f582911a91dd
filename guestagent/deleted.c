// SPDX-License-Identifier: GPL-2.0-or-later
// Files and directories without a name: made under one for a moment, opened, and unlinked again.
//
// The name is the one that they had, so that /proc shows the same. All open files of one inode are
// opened in that moment: they share it, and each has the flags that only open() gives.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guestagent/engine.h"

#ifndef __O_TMPFILE
#define __O_TMPFILE 020000000
#endif

/* ---- names ---- */

// The lowest directory above it that is there.
static char *existing_ancestor(const char *path)
{
    g_autofree char *at = g_path_get_dirname(path);
    struct stat st;

    while (lstat(at, &st) < 0 && strcmp(at, "/") != 0 && strcmp(at, ".") != 0) {
        char *above = g_path_get_dirname(at);

        g_free(at);
        at = above;
    }
    return g_steal_pointer(&at);
}

bool agent_name_is_possible(const char *path, struct stat *ret_above)
{
    g_autofree char *dir = existing_ancestor(path);

    if (stat(dir, ret_above) < 0 || access(dir, W_OK) < 0)
        return false;
    errno = ENOTDIR;
    return S_ISDIR(ret_above->st_mode);
}

static bool make_parents(struct agent_name *name, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(name->path);
    g_autoptr(GPtrArray) missing = g_ptr_array_new_with_free_func(g_free);

    while (access(parent, F_OK) < 0 && errno == ENOENT) {
        char *above = g_path_get_dirname(parent);

        g_ptr_array_add(missing, parent);
        parent = above;
    }
    while (missing->len > 0) {
        char *dir = g_ptr_array_steal_index(missing, missing->len - 1);

        if (mkdir(dir, 0700) < 0) {
            agent_fail_errno(error, "directory %s", dir);
            g_free(dir);
            return false;
        }
        g_ptr_array_add(name->parents, dir);
    }
    return true;
}

bool agent_name_take(AgentRestore *r, const char *path, struct agent_name *ret, GError **error)
{
    struct agent_name name = {.path = g_strdup(path),
                              .parents = g_ptr_array_new_with_free_func(g_free)};
    struct stat st;

    for (unsigned i = 0; lstat(name.path, &st) == 0; i++) {
        g_autofree char *parent = g_path_get_dirname(path);

        g_free(name.path);
        name.path = g_strdup_printf("%s/.vmgraft-%d-%u", parent, getpid(), i);
        if (i == 0)
            agent_note(r, "deleted-name", 0, -1,
                       "another file has the name %s here: the deleted one shows another", path);
    }
    if (make_parents(&name, error)) {
        *ret = name;
        return true;
    }
    agent_name_drop(&name);
    return false;
}

void agent_name_drop(struct agent_name *name)
{
    for (guint i = name->parents->len; i-- > 0;)
        rmdir(g_ptr_array_index(name->parents, i));
    g_ptr_array_unref(name->parents);
    g_free(name->path);
    *name = (struct agent_name){0};
}

/* ---- inodes ---- */

// An inode that is being made, under one or several names.
struct making {
    AgentRestore *r;
    const struct fmt_inode *inode;
    GArray *names; // of struct agent_name
    GPtrArray *of; // the path of the image that each of them stands for
    int fd;        // regular file: to write it; directory: its place; -1
    bool tmpfile;  // it never had a name
};

static void times_of(const struct fmt_inode *inode, struct timespec ret[2])
{
    const int64_t times[2] = {inode->atime_ns, inode->mtime_ns};

    for (int i = 0; i < 2; i++) {
        ret[i].tv_sec = times[i] / 1000000000;
        ret[i].tv_nsec = times[i] % 1000000000;
        if (ret[i].tv_nsec < 0) {
            ret[i].tv_sec--;
            ret[i].tv_nsec += 1000000000;
        }
    }
}

static bool make_regular(struct making *m, const char *path, GError **error)
{
    const struct fmt_inode *inode = m->inode;

    m->fd = agent_fd_up(m->r, open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600),
                        error);
    return m->fd >= 0 && agent_inode_dress(m->fd, inode, error);
}

bool agent_inode_dress(int fd, const struct fmt_inode *inode, GError **error)
{
    if (ftruncate(fd, (off_t)inode->size_bytes) < 0 ||
        fchown(fd, (uid_t)inode->uid, (gid_t)inode->gid) < 0 || fchmod(fd, inode->mode & 07777) < 0)
        return agent_fail_errno(error, "a new file of %" G_GUINT64_FORMAT " bytes",
                                inode->size_bytes);
    return true;
}

static bool make_directory(struct making *m, const char *path, GError **error)
{
    const struct fmt_inode *inode = m->inode;
    struct timespec times[2];

    times_of(inode, times);
    if (mkdir(path, 0700) < 0 || chown(path, (uid_t)inode->uid, (gid_t)inode->gid) < 0 ||
        chmod(path, inode->mode & 07777) < 0 || utimensat(AT_FDCWD, path, times, 0) < 0)
        return agent_fail_errno(error, "a new directory");
    m->fd = agent_fd_up(m->r, open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), error);
    return m->fd >= 0;
}

// A file with other names is linked under the one that is gone.
static bool make_link(struct making *m, const char *path, GError **error)
{
    g_autofree char *from = agent_path(m->r, m->inode->path);

    return link(from, path) == 0 || agent_fail_errno(error, "a link of %s", from);
}

static bool make(struct making *m, const char *path, GError **error)
{
    if (m->names->len > 1) {
        const char *first = g_array_index(m->names, struct agent_name, 0).path;

        return link(first, path) == 0 || agent_fail_errno(error, "a link of %s", first);
    }
    if (S_ISDIR(m->inode->mode))
        return make_directory(m, path, error);
    return m->inode->contents ? make_regular(m, path, error) : make_link(m, path, error);
}

// The name on this machine that stands for a path of the image; made when first asked for.
static const char *name_for(struct making *m, const char *path, GError **error)
{
    g_autofree char *here = agent_path(m->r, path);
    struct agent_name name;

    for (guint i = 0; i < m->of->len; i++) {
        if (strcmp(g_ptr_array_index(m->of, i), path) == 0 || S_ISDIR(m->inode->mode))
            return g_array_index(m->names, struct agent_name, i).path;
    }
    if (!agent_name_take(m->r, here, &name, error))
        return NULL;
    g_array_append_val(m->names, name);
    g_ptr_array_add(m->of, g_strdup(path));
    return make(m, name.path, error) ? name.path : NULL;
}

static void drop_names(struct making *m)
{
    for (guint i = m->names->len; i-- > 0;) {
        struct agent_name *name = &g_array_index(m->names, struct agent_name, i);

        if (unlink(name->path) < 0 && errno == EISDIR)
            rmdir(name->path);
        agent_name_drop(name);
    }
    g_array_unref(m->names);
    g_ptr_array_unref(m->of);
}

static int open_one(struct making *m, const struct fmt_file *f, GError **error)
{
    const int flags = (int)(f->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) | O_NOCTTY | O_CLOEXEC;

    if (m->tmpfile)
        return agent_reopen(m->r, m->fd, flags & ~O_DIRECTORY, error);

    const char *name = name_for(m, f->path, error);

    return name ? agent_fd_up(m->r, open(name, flags), error) : -1;
}

// O_TMPFILE: the file can get a name still, which one that was unlinked cannot.
static bool make_tmpfile(struct making *m, GError **error)
{
    GHashTableIter iter;
    struct agent_file *f;

    g_hash_table_iter_init(&iter, m->r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        if (f->rec->object != m->inode->rec.objref || !(f->rec->flags & __O_TMPFILE))
            continue;
        g_autofree char *path = agent_path(m->r, f->rec->path);
        g_autofree char *dir = existing_ancestor(path);

        f->fd = agent_fd_up(
            m->r,
            open(dir, (int)(f->rec->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) | O_TMPFILE | O_CLOEXEC,
                 0600),
            error);
        if (f->fd < 0)
            return false;
        m->fd = agent_reopen(m->r, f->fd, O_RDWR, error);
        m->tmpfile = true;
        return m->fd >= 0 && agent_inode_dress(m->fd, m->inode, error);
    }
    return true;
}

static bool open_all(struct making *m, const char *fallback, GError **error)
{
    GHashTableIter iter;
    struct agent_file *f;

    if (m->inode->contents && S_ISREG(m->inode->mode) && !make_tmpfile(m, error))
        return false;
    g_hash_table_iter_init(&iter, m->r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        if (f->fd >= 0 || f->rec->object != m->inode->rec.objref || !f->rec->deleted)
            continue;
        f->fd = open_one(m, f->rec, error);
        if (f->fd < 0)
            return false;
    }
    // A working directory that nobody has open.
    return !fallback || m->names->len > 0 || name_for(m, fallback, error);
}

static bool make_inode(AgentRestore *r, const struct fmt_inode *inode, const char *fallback,
                       GError **error)
{
    struct making m = {.r = r, .inode = inode, .fd = -1};

    if (g_hash_table_contains(r->objects, &inode->rec.objref))
        return true;
    m.names = g_array_new(false, true, sizeof(struct agent_name));
    m.of = g_ptr_array_new_with_free_func(g_free);
    const bool ok = open_all(&m, fallback, error);

    drop_names(&m);
    if (ok)
        g_hash_table_insert(r->objects, (void *)&inode->rec.objref, g_memdup2(&m.fd, sizeof m.fd));
    return ok;
}

/* ---- open files ---- */

void agent_deleted_plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);
    g_autofree char *path = agent_path(r, f->path);
    g_autofree char *other = inode->path ? agent_path(r, inode->path) : NULL;
    struct stat st, above;

    if (!agent_name_is_possible(path, &above))
        agent_refuse_file(r, "file-deleted", f->rec.objref,
                          "%s was deleted and cannot be made again: %s", path, g_strerror(errno));
    else if (inode->contents || S_ISDIR(inode->mode))
        return;
    else if (!other)
        agent_refuse_file(r, "file-deleted", f->rec.objref, "%s was deleted and is still open",
                          path);
    else if (lstat(other, &st) < 0 || !S_ISREG(st.st_mode))
        agent_refuse_file(r, "file-missing", f->rec.objref, "%s, once %s: %s", other, path,
                          g_strerror(errno));
    else if ((uint64_t)st.st_size != inode->size_bytes || st.st_dev != above.st_dev)
        agent_refuse_file(r, "file-size", f->rec.objref, "%s, once %s, is another file here", other,
                          path);
}

int agent_deleted_open(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);

    return make_inode(r, inode, NULL, error) ? agent_file_fd(r, f->rec.objref) : -1;
}

int agent_deleted_directory(AgentRestore *r, const struct fmt_fs *fs, GError **error)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, fs->cwd_inode, FMT_INODE);

    return inode && make_inode(r, inode, fs->cwd, error) ? agent_inode_fd(r, fs->cwd_inode) : -1;
}

int agent_inode_fd(AgentRestore *r, uint64_t objref)
{
    const int *fd = fmt_image_by_ref(r->img, objref, FMT_INODE)
                        ? g_hash_table_lookup(r->objects, &objref)
                        : NULL;

    return fd ? *fd : -1;
}

bool agent_inodes_finish(AgentRestore *r, GError **error)
{
    const struct fmt_inode *inode;

    for (size_t i = 0; FMT_NEXT(r->img, INODE, i, inode); i++) {
        const int fd = agent_inode_fd(r, inode->rec.objref);
        struct timespec times[2];

        if (fd < 0 || !S_ISREG(inode->mode))
            continue;
        times_of(inode, times);
        if (futimens(fd, times) < 0)
            return agent_fail_errno(error, "times of a file");
        // Nobody else may have it open for writing where it is a program or is leased.
        agent_fd_close(r, fd);
        g_hash_table_remove(r->objects, &inode->rec.objref);
    }
    return true;
}
