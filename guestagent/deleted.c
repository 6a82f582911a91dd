// SPDX-License-Identifier: GPL-2.0-or-later
// Files and directories without a name: made under one for a moment, opened, and unlinked again.
//
// The name is the one that they had, so that /proc shows the same. All open files of one inode are
// opened in that moment: they share it, and each has the flags that only open() gives. Directories
// come first and go last, so that what was in them, directories too, is in the same again.

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
char *agent_existing_ancestor(const char *path)
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
    g_autofree char *dir = agent_existing_ancestor(path);

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
    bool aside;    // its names are where no others are (aside.c)
};

void agent_times(int64_t atime_ns, int64_t mtime_ns, struct timespec ret[2])
{
    const int64_t times[2] = {atime_ns, mtime_ns};

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
    return agent_file_reserve(fd, inode->reserved, error);
}

bool agent_file_reserve(int fd, GBytes *reserved, GError **error)
{
    size_t size;
    const uint64_t *ranges = reserved ? g_bytes_get_data(reserved, &size) : NULL;

    for (size_t i = 0; ranges && i + 2 <= size / sizeof *ranges; i += 2) {
        const uint64_t start = GUINT64_FROM_LE(ranges[i]), end = GUINT64_FROM_LE(ranges[i + 1]);

        if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)start, (off_t)(end - start)) < 0)
            return agent_fail_errno(error, "room for %" G_GUINT64_FORMAT " bytes", end - start);
    }
    return true;
}

static bool make_directory(struct making *m, const char *path, GError **error)
{
    const struct fmt_inode *inode = m->inode;

    if (mkdir(path, 0700) < 0 || chown(path, (uid_t)inode->uid, (gid_t)inode->gid) < 0 ||
        chmod(path, inode->mode & 07777) < 0)
        return agent_fail_errno(error, "a new directory");
    m->fd = agent_fd_up(m->r, open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), error);
    return m->fd >= 0;
}

// A file with other names is linked under the one that is gone.
static bool make_link(struct making *m, const char *path, GError **error)
{
    return link(m->inode->path, path) == 0 ||
           agent_fail_errno(error, "a link of %s", m->inode->path);
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

// Whether the file that is being made has that name already: by another mount of its file system.
static bool has_name(const struct making *m, const char *path)
{
    struct stat own, there;

    return m->fd >= 0 && fstat(m->fd, &own) == 0 && lstat(path, &there) == 0 &&
           own.st_dev == there.st_dev && own.st_ino == there.st_ino;
}

// Nobody may come to need more memory by it than there was on the source.
static bool can_be_aside(const struct making *m)
{
    static const char *const in_memory[] = {"tmpfs", "rootfs", "ramfs", NULL};
    const bool was = m->inode->fstype && g_strv_contains(in_memory, m->inode->fstype);
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(m->r->img, FILE, i, f); i++)
        if (f->object == m->inode->rec.objref && (f->flags & O_DIRECT || (f->mode & 2 && !was)))
            return false;
    return m->inode->contents && S_ISREG(m->inode->mode);
}

// Where a deleted file gets a name: all of them on one file system.
static char *place_for(struct making *m, const char *path)
{
    char *aside = NULL;
    struct stat st;

    if (m->aside || (m->names->len == 0 && lstat(path, &st) == 0 && can_be_aside(m)))
        aside = agent_aside_path(m->r, path);
    m->aside = aside != NULL;
    return aside ? aside : g_strdup(path);
}

// The name on this machine that stands for a path of the image; made when first asked for.
static const char *name_for(struct making *m, const char *path, GError **error)
{
    struct agent_name name;

    for (guint i = 0; i < m->of->len; i++) {
        if (strcmp(g_ptr_array_index(m->of, i), path) == 0 || S_ISDIR(m->inode->mode))
            return g_array_index(m->names, struct agent_name, i).path;
    }
    g_autofree char *here = place_for(m, path);
    const bool known = has_name(m, here);
    if (known)
        name = (struct agent_name){g_strdup(here), g_ptr_array_new()};
    else if (!agent_name_take(m->r, here, &name, error))
        return NULL;
    g_array_append_val(m->names, name);
    g_ptr_array_add(m->of, g_strdup(path));
    return known || make(m, name.path, error) ? name.path : NULL;
}

static void drop_names(struct making *m)
{
    for (guint i = m->names ? m->names->len : 0; i-- > 0;) {
        struct agent_name *name = &g_array_index(m->names, struct agent_name, i);

        if (unlink(name->path) < 0 && errno == EISDIR)
            rmdir(name->path);
        agent_name_drop(name);
    }
    g_clear_pointer(&m->names, g_array_unref);
    g_clear_pointer(&m->of, g_ptr_array_unref);
}

static int open_one(struct making *m, const struct fmt_file *f, GError **error)
{
    const int flags = (int)(f->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) | O_NOCTTY | O_CLOEXEC;

    if (m->tmpfile)
        return agent_reopen(m->r, m->fd, flags & ~O_DIRECTORY, error);

    const char *name = name_for(m, f->path, error);

    return name ? agent_fd_up(m->r, open(name, flags), error) : -1;
}

// O_TMPFILE: the file can get a name still, which one that was unlinked cannot, nor with O_EXCL.
static bool make_tmpfile(struct making *m, GError **error)
{
    const struct fmt_attributes *has = agent_attributes(m->r, m->inode->rec.objref);
    GHashTableIter iter;
    struct agent_file *f;

    g_hash_table_iter_init(&iter, m->r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&f)) {
        if (f->rec->object != m->inode->rec.objref || !(f->rec->flags & __O_TMPFILE))
            continue;
        const char *path = f->rec->path;
        g_autofree char *dir = agent_existing_ancestor(path);

        f->fd = agent_fd_up(m->r,
                            open(dir,
                                 (int)(f->rec->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) | O_TMPFILE |
                                     O_CLOEXEC | (has && has->unlinkable ? O_EXCL : 0),
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

// `fallback`: the path of a working directory, which nobody need have open; or NULL.
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
    return !fallback || m->names->len > 0 || name_for(m, fallback, error);
}

static struct making *making_new(AgentRestore *r, const struct fmt_inode *inode)
{
    struct making *m = g_new(struct making, 1);

    *m = (struct making){
        .r = r,
        .inode = inode,
        .names = g_array_new(false, true, sizeof(struct agent_name)),
        .of = g_ptr_array_new_with_free_func(g_free),
        .fd = -1,
    };
    return m;
}

static void making_free(struct making *m)
{
    drop_names(m);
    g_free(m);
}

static bool is_made(const AgentRestore *r, const struct fmt_inode *inode)
{
    return g_hash_table_contains(r->objects, &inode->rec.objref);
}

static bool make_inode(struct making *m, const char *fallback, GError **error)
{
    if (!open_all(m, fallback, error))
        return false;
    g_hash_table_insert(m->r->objects, (void *)&m->inode->rec.objref,
                        g_memdup2(&m->fd, sizeof m->fd));
    return true;
}

/* ---- directories ---- */

struct directory {
    const char *path;
    const struct fmt_inode *inode;
};

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct directory *)a)->path, ((const struct directory *)b)->path);
}

static void add_directory(AgentRestore *r, GArray *dirs, uint64_t objref, const char *path)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, objref, FMT_INODE);
    const struct directory dir = {path, inode};

    if (inode && S_ISDIR(inode->mode))
        g_array_append_val(dirs, dir);
}

GPtrArray *agent_deleted_directories(AgentRestore *r, GError **error)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new_with_free_func((GDestroyNotify)making_free);
    g_autoptr(GArray) dirs = g_array_new(false, false, sizeof(struct directory));
    const struct fmt_file *f;
    const struct fmt_fs *fs;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++)
        if (f->deleted && f->path)
            add_directory(r, dirs, f->object, f->path);
    for (size_t i = 0; FMT_NEXT(r->img, FS, i, fs); i++)
        if (fs->cwd_inode && fs->cwd)
            add_directory(r, dirs, fs->cwd_inode, fs->cwd);
    g_array_sort(dirs, by_path);
    for (guint i = 0; i < dirs->len; i++) {
        const struct directory *dir = &g_array_index(dirs, struct directory, i);

        if (is_made(r, dir->inode))
            continue;
        g_ptr_array_add(made, making_new(r, dir->inode));
        if (!make_inode(g_ptr_array_index(made, made->len - 1), dir->path, error)) {
            agent_deleted_directories_drop(g_steal_pointer(&made));
            return NULL;
        }
    }
    return g_steal_pointer(&made);
}

void agent_deleted_directories_drop(GPtrArray *made)
{
    if (!made)
        return;
    for (guint i = made->len; i-- > 0;)
        drop_names(g_ptr_array_index(made, i));
    // Each name that came or went below it has changed them.
    for (guint i = 0; i < made->len; i++) {
        const struct making *m = g_ptr_array_index(made, i);
        g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", m->fd);
        struct timespec times[2];

        agent_times(m->inode->atime_ns, m->inode->mtime_ns, times);
        utimensat(AT_FDCWD, self, times, 0);
    }
    g_ptr_array_unref(made);
}

/* ---- open files ---- */

void agent_deleted_plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);
    const char *path = f->path;
    const char *other = inode->path;
    struct stat st, above;

    if (!agent_name_is_possible(path, &above))
        agent_refuse_file(r, "file-deleted", f->rec.objref,
                          "%s was deleted and cannot be made again: %s", path, g_strerror(errno));
    else if (inode->contents == FMT_CONTENTS_DELETED || S_ISDIR(inode->mode))
        return;
    else if (other && inode->contents == FMT_CONTENTS_CARRIED && agent_name_is_free(r, other))
        agent_note_file(r, "carried", f->rec.objref, "%s was missing and came along", other);
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

// One that has another name still, and which came along: that name is there or is made.
static int open_carried(AgentRestore *r, const struct fmt_file *f, const struct fmt_inode *inode,
                        GError **error)
{
    const char *path = f->path, *other = inode->path;
    struct agent_name name;
    int fd = -1;

    if (!agent_inode_make(r, inode, other, error) || !agent_name_take(r, path, &name, error))
        return -1;
    if (link(other, name.path) < 0) {
        agent_fail_errno(error, "a link of %s", other);
    } else {
        fd = agent_fd_up(r,
                         open(name.path, (int)(f->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) |
                                             O_NOCTTY | O_CLOEXEC),
                         error);
        unlink(name.path);
    }
    agent_name_drop(&name);
    return fd;
}

int agent_deleted_open(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);

    if (inode->contents == FMT_CONTENTS_CARRIED)
        return open_carried(r, f, inode, error);
    if (!is_made(r, inode)) {
        struct making *m = making_new(r, inode);
        const bool ok = make_inode(m, NULL, error);

        making_free(m);
        if (!ok)
            return -1;
    }
    return agent_file_fd(r, f->rec.objref);
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
        agent_times(inode->atime_ns, inode->mtime_ns, times);
        if (futimens(fd, times) < 0)
            return agent_fail_errno(error, "times of a file");
        if (!agent_attributes_give(fd, agent_attributes(r, inode->rec.objref), error)) {
            g_prefix_error(error, "%s: ", inode->path ? inode->path : "a deleted file");
            return false;
        }
        // Nobody else may have it open for writing where it is a program or is leased.
        agent_fd_close(r, fd);
        g_hash_table_remove(r->objects, &inode->rec.objref);
    }
    return true;
}
