// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptors and what they refer to.

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/oracle/oracle.h"

static void *seen(struct oracle *o, const char *kind, const struct stat *st)
{
    g_autofree char *key = g_strdup_printf("%s:%lu:%lu", kind, st->st_dev, st->st_ino);

    return g_hash_table_lookup(o->objects, key);
}

static void remember(struct oracle *o, const char *kind, const struct stat *st, void *rec)
{
    g_hash_table_insert(o->objects, g_strdup_printf("%s:%lu:%lu", kind, st->st_dev, st->st_ino),
                        rec);
}

static struct fmt_inode *inode(struct oracle *o, const struct stat *st, const char *path)
{
    struct fmt_inode *rec = seen(o, "inode", st);

    if (rec)
        return rec;
    rec = fmt_image_add(o->img, FMT_INODE);
    rec->mode = st->st_mode;
    rec->rdev = st->st_rdev;
    rec->dev = st->st_dev;
    rec->ino = st->st_ino;
    rec->size_bytes = (uint64_t)st->st_size;
    rec->mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
    rec->uid = st->st_uid;
    rec->gid = st->st_gid;
    rec->nlink = st->st_nlink;
    rec->path = g_strdup(path);
    remember(o, "inode", st, rec);
    return rec;
}

static char *target(const char *link)
{
    return g_file_read_link(link, NULL);
}

uint64_t oracle_mapped_file(struct oracle *o, const char *link)
{
    g_autofree char *path = target(link);
    struct fmt_file *f;
    struct stat st;

    if (!path || stat(link, &st) < 0)
        return 0;
    // map_files tells by its own mode whether the file was opened for writing.
    struct stat self;
    const bool writable =
        lstat(link, &self) == 0 && strstr(link, "map_files") && self.st_mode & S_IWUSR;
    const char *kind = writable ? "mapped-rw" : "mapped";

    f = seen(o, kind, &st);
    if (f)
        return f->rec.objref;
    f = fmt_image_add(o->img, FMT_FILE);
    f->kind = FMT_FILE_REG;
    f->object = inode(o, &st, path)->rec.objref;
    f->path = g_strdup(path);
    f->deleted = st.st_nlink == 0;
    f->mode = writable ? 3 : 1;
    f->flags = (writable ? O_RDWR : O_RDONLY) | 0100000;
    remember(o, kind, &st, f);
    return f->rec.objref;
}

uint64_t oracle_shm(struct oracle *o, const char *link, const char *name, uint64_t kind)
{
    const int fd = open(link, O_RDONLY | O_CLOEXEC);
    struct fmt_shm *rec;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return 0;
    rec = seen(o, "shm", &st);
    if (!rec) {
        rec = fmt_image_add(o->img, FMT_SHM);
        rec->kind = kind;
        rec->name = g_strdup(name);
        rec->size_bytes = (uint64_t)st.st_size;
        rec->mode = st.st_mode & 07777;
        rec->uid = st.st_uid;
        rec->gid = st.st_gid;
        if (kind == FMT_SHM_MEMFD)
            rec->seals = (uint64_t)fcntl(fd, F_GET_SEALS);
        remember(o, "shm", &st, rec);
        oracle_file_pages(o, rec->rec.objref, fd, 0, rec->size_bytes, FMT_PAGES_DATA);
    }
    close(fd);
    return rec->rec.objref;
}

// Duplicates the contents into a pipe of ours and reads them there.
static void pipe_contents(struct fmt_pipe *rec, const char *link)
{
    const int fd = open(link, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    g_autoptr(GByteArray) data = g_byte_array_new();
    uint8_t buffer[65536];
    int copy[2];
    ssize_t n;

    rec->capacity_bytes = (uint64_t)fcntl(fd, F_GETPIPE_SZ);
    if (pipe2(copy, O_NONBLOCK | O_CLOEXEC) < 0)
        return;
    fcntl(copy[1], F_SETPIPE_SZ, (int)rec->capacity_bytes);
    if (tee(fd, copy[1], rec->capacity_bytes, SPLICE_F_NONBLOCK) > 0) {
        while ((n = read(copy[0], buffer, sizeof buffer)) > 0)
            g_byte_array_append(data, buffer, (guint)n);
    }
    if (data->len)
        rec->data = g_bytes_new(data->data, data->len);
    close(copy[0]);
    close(copy[1]);
    close(fd);
}

static struct fmt_pipe *pipe_object(struct oracle *o, const struct stat *st, const char *link)
{
    struct fmt_pipe *rec = seen(o, "pipe", st);

    if (rec)
        return rec;
    rec = fmt_image_add(o->img, FMT_PIPE);
    rec->ino = st->st_ino;
    pipe_contents(rec, link);
    remember(o, "pipe", st, rec);
    return rec;
}

// The FILE that another descriptor seen before shares with this one.
static uint64_t shared_file(struct oracle *o, pid_t pid, int fd)
{
    const struct fmt_fd *other;
    const struct fmt_task *task;

    for (size_t i = 0; FMT_NEXT(o->img, FD, i, other); i++) {
        for (size_t j = 0; FMT_NEXT(o->img, TASK, j, task); j++) {
            const struct fmt_proc *proc = fmt_image_by_ref(o->img, task->proc, FMT_PROC);

            if (task->files == other->files &&
                syscall(SYS_kcmp, pid, (pid_t)proc->pid, KCMP_FILE, (unsigned long)fd,
                        (unsigned long)other->fd) == 0)
                return other->file;
        }
    }
    return 0;
}

static uint64_t new_file(struct oracle *o, pid_t pid, int fd, uint64_t flags)
{
    static const uint64_t modes[4] = {1, 2, 3, 0};
    g_autofree char *link = g_strdup_printf("/proc/%d/fd/%d", pid, fd);
    g_autofree char *name = g_strdup_printf("fdinfo/%d", fd);
    g_autofree char *info = oracle_proc_file(pid, name);
    g_autofree char *path = target(link);
    struct stat st;

    if (!path || !info || stat(link, &st) < 0)
        return 0;
    struct fmt_file *f = fmt_image_add(o->img, FMT_FILE);

    f->flags = flags & ~(uint64_t)O_CLOEXEC;
    f->mode = flags & O_PATH ? 0 : modes[flags & O_ACCMODE];
    f->path = g_strdup(path);
    sscanf(info, "pos: %lu", &f->pos);
    if (S_ISFIFO(st.st_mode)) {
        f->kind = FMT_FILE_PIPE;
        f->object = pipe_object(o, &st, link)->rec.objref;
        if (g_str_has_prefix(path, "pipe:"))
            g_clear_pointer(&f->path, g_free);
    } else if (g_str_has_prefix(path, "/memfd:")) {
        g_autofree char *memfd = g_strndup(path + 7, strlen(path) - 7 - strlen(" (deleted)"));

        f->kind = FMT_FILE_MEMFD;
        f->object = oracle_shm(o, link, memfd, FMT_SHM_MEMFD);
        g_clear_pointer(&f->path, g_free);
    } else if (g_str_has_prefix(path, "anon_inode:") || S_ISSOCK(st.st_mode)) {
        f->kind = FMT_FILE_OTHER;
    } else {
        f->kind = S_ISREG(st.st_mode)   ? FMT_FILE_REG
                  : S_ISDIR(st.st_mode) ? FMT_FILE_DIR
                  : S_ISCHR(st.st_mode) ? FMT_FILE_CHR
                                        : FMT_FILE_OTHER;
        f->object = inode(o, &st, path)->rec.objref;
        f->deleted = st.st_nlink == 0;
    }
    return f->rec.objref;
}

static bool descriptor(struct oracle *o, struct oracle_proc *p, uint64_t files, int fd,
                       GError **error)
{
    g_autofree char *name = g_strdup_printf("fdinfo/%d", fd);
    g_autofree char *info = oracle_proc_file(p->pid, name);
    const char *at = info ? strstr(info, "flags:") : NULL;
    const uint64_t flags = at ? strtoull(at + strlen("flags:"), NULL, 8) : 0;
    uint64_t file = shared_file(o, p->pid, fd);

    if (file == 0)
        file = new_file(o, p->pid, fd, flags);
    if (file == 0)
        return oracle_fail(error, name);
    struct fmt_fd *rec = fmt_image_add(o->img, FMT_FD);

    rec->files = files;
    rec->fd = (uint64_t)fd;
    rec->file = file;
    rec->cloexec = (flags & O_CLOEXEC) != 0;
    return true;
}

bool oracle_files(struct oracle *o, struct oracle_proc *p, GError **error)
{
    struct fmt_files *files = fmt_image_add(o->img, FMT_FILES);
    struct fmt_fs *fs = fmt_image_add(o->img, FMT_FS);
    g_autofree char *cwd = g_strdup_printf("/proc/%d/cwd", p->pid);
    g_autofree char *root = g_strdup_printf("/proc/%d/root", p->pid);
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", p->pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, error);
    const char *name;

    fs->cwd = target(cwd);
    fs->root = target(root);
    fs->umask = oracle_status(p->pid, "Umask", 8);
    for (guint i = 0; i < p->tasks->len; i++) {
        struct fmt_task *t = g_array_index(p->tasks, struct oracle_task, i).rec;

        t->files = files->rec.objref;
        t->fs = fs->rec.objref;
    }
    while (dir && (name = g_dir_read_name(dir))) {
        if (!descriptor(o, p, files->rec.objref, atoi(name), error))
            return false;
    }
    return dir != NULL;
}
