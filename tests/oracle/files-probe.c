// SPDX-License-Identifier: GPL-2.0-or-later
// Prints what is read of a process's open files, as JSON: one half of files-compare.
//
// files-probe TARGET PID [FD OUT]: also writes the page cache of one of them to a file; pages that
// are not in memory become holes.
#include <fcntl.h>
#include <glib.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "introspect/context.h"
#include "introspect/pages.h"
#include "introspect/process.h"
#include "introspect/reader.h"
#include "vmm/machine.h"

static void add_int(struct json_object *to, const char *key, int64_t value)
{
    json_object_object_add(to, key, json_object_new_int64(value));
}

static void add_str(struct json_object *to, const char *key, const char *value)
{
    json_object_object_add(to, key, value ? json_object_new_string(value) : NULL);
}

static void add_inode(struct json_object *to, const struct fmt_inode *inode)
{
    g_autofree char *build_id = g_strdup_printf(
        "%016" G_GINT64_MODIFIER "x%016" G_GINT64_MODIFIER "x",
        GUINT64_SWAP_LE_BE(inode->build_id_lo), GUINT64_SWAP_LE_BE(inode->build_id_hi));
    add_int(to, "st_mode", (int64_t)inode->mode);
    add_int(to, "rdev", (int64_t)inode->rdev);
    add_int(to, "dev", (int64_t)inode->dev);
    add_int(to, "ino", (int64_t)inode->ino);
    add_int(to, "size", (int64_t)inode->size_bytes);
    add_int(to, "mtime_ns", inode->mtime_ns);
    add_int(to, "uid", (int64_t)inode->uid);
    add_int(to, "gid", (int64_t)inode->gid);
    add_int(to, "nlink", (int64_t)inode->nlink);
    add_str(to, "fstype", inode->fstype);
    if (inode->build_id_lo)
        add_str(to, "build_id", build_id);
}

static void add_pipe(struct json_object *to, const struct fmt_pipe *pipe)
{
    gsize n_bytes, n_packets = 0;
    const void *data = g_bytes_get_data(pipe->data, &n_bytes);
    g_autofree char *sum = g_compute_checksum_for_data(G_CHECKSUM_MD5, data, n_bytes);

    if (pipe->packets)
        n_packets = g_bytes_get_size(pipe->packets) / 4;
    add_int(to, "ino", (int64_t)pipe->ino);
    add_int(to, "capacity", (int64_t)pipe->capacity_bytes);
    add_int(to, "unread", (int64_t)n_bytes);
    add_int(to, "packets", (int64_t)n_packets);
    add_str(to, "md5", sum);
}

static void add_shm(struct json_object *to, const struct fmt_shm *shm)
{
    add_int(to, "size", (int64_t)shm->size_bytes);
    add_int(to, "seals", (int64_t)shm->seals);
    add_int(to, "st_mode", (int64_t)shm->mode);
    add_str(to, "name", shm->name);
}

static struct json_object *file_json(FmtImage *img, const struct fmt_fd *fd)
{
    const struct fmt_file *file = fmt_image_by_ref(img, fd->file, FMT_FILE);
    struct json_object *to = json_object_new_object();
    const void *object;

    add_int(to, "fd", (int64_t)fd->fd);
    add_int(to, "cloexec", (int64_t)fd->cloexec);
    add_int(to, "file", (int64_t)fd->file);
    add_int(to, "kind", (int64_t)file->kind);
    add_int(to, "flags", (int64_t)file->flags);
    add_int(to, "mode", (int64_t)file->mode);
    add_int(to, "pos", (int64_t)file->pos);
    add_str(to, "path", file->path);
    add_int(to, "deleted", (int64_t)file->deleted);
    add_int(to, "owner", (int64_t)file->owner_pid);
    add_int(to, "owner_type", (int64_t)file->owner_type);
    add_int(to, "owner_sig", (int64_t)file->owner_sig);
    if ((object = fmt_image_by_ref(img, file->object, FMT_INODE)))
        add_inode(to, object);
    else if ((object = fmt_image_by_ref(img, file->object, FMT_PIPE)))
        add_pipe(to, object);
    else if ((object = fmt_image_by_ref(img, file->object, FMT_SHM)))
        add_shm(to, object);
    return to;
}

static void print(const struct intro_ctx *c)
{
    struct json_object *top = json_object_new_object(), *fds = json_object_new_array(),
                       *refusals = json_object_new_array();
    const struct fmt_fs *fs = fmt_image_nth(c->img, FMT_FS, 0);
    const struct fmt_fd *fd;

    add_str(top, "cwd", fs->cwd);
    add_str(top, "root", fs->root);
    add_int(top, "umask", (int64_t)fs->umask);
    for (size_t i = 0; FMT_NEXT(c->img, FD, i, fd); i++)
        json_object_array_add(fds, file_json(c->img, fd));
    json_object_object_add(top, "fds", fds);
    for (guint i = 0; i < c->refusals->len; i++) {
        const struct intro_refusal *refusal = c->refusals->pdata[i];
        struct json_object *to = json_object_new_object();
        add_str(to, "kind", refusal->kind);
        add_int(to, "fd", refusal->fd);
        add_str(to, "text", refusal->text);
        json_object_array_add(refusals, to);
    }
    json_object_object_add(top, "refusals", refusals);
    add_int(top, "pages", (int64_t)intro_pages_count(c->pages));
    puts(json_object_to_json_string_ext(top, JSON_C_TO_STRING_PRETTY));
    json_object_put(top);
}

static bool read_files(struct intro_ctx *c, GError **error)
{
    struct gva fs, files;

    return intro_find_process(c->k, (uint32_t)c->pid, &c->root_task, error) &&
           intro_get_ptr(c->k, c->root_task, M_task_fs, &fs, error) && intro_fs(c, fs, error) &&
           intro_get_ptr(c->k, c->root_task, M_task_files, &files, error) &&
           intro_files(c, files, error) && intro_pipe_check_peers(c, error) &&
           intro_shm_check_peers(c, error);
}

// The inode (or pipe) that a descriptor leads to; 0 where the process has no such descriptor.
static struct gva object_of(const struct intro_ctx *c, uint64_t number, uint64_t *ret_size)
{
    const struct fmt_fd *fd;
    GHashTableIter iter;
    void *at, *ref;
    uint64_t object = 0;

    for (size_t i = 0; FMT_NEXT(c->img, FD, i, fd); i++)
        if (fd->fd == number)
            object = ((struct fmt_file *)fmt_image_by_ref(c->img, fd->file, FMT_FILE))->object;
    const struct fmt_inode *inode = fmt_image_by_ref(c->img, object, FMT_INODE);
    const struct fmt_shm *shm = fmt_image_by_ref(c->img, object, FMT_SHM);
    *ret_size = inode ? inode->size_bytes : shm ? shm->size_bytes : 0;
    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref))
        if (object && GPOINTER_TO_SIZE(ref) == object)
            return GVA(GPOINTER_TO_SIZE(at));
    return GVA(0);
}

static bool dump(const struct intro_ctx *c, uint64_t fd, const char *path, GError **error)
{
    uint64_t size;
    struct gva inode = object_of(c, fd, &size);
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool ok = out >= 0 && inode.addr && ftruncate(out, (off_t)size) == 0;

    for (uint64_t at = 0; ok && at < size; at += VMM_PAGE_BYTES) {
        uint8_t page[VMM_PAGE_BYTES];
        bool there;
        size_t len = MIN(size - at, sizeof(page));
        if (!intro_pagecache_read(c->k, inode, at / VMM_PAGE_BYTES, page, &there, error))
            return false;
        ok = !there || pwrite(out, page, len, (off_t)at) == (ssize_t)len;
    }
    if (!ok)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_NOT_FOUND, "cannot write %s", path);
    if (out >= 0)
        close(out);
    return ok;
}

static bool probe(const char *target, uint32_t pid, char **dump_args, GError **error)
{
    g_autoptr(VmmMachine) vm = vmm_machine_open(target, NULL, error);
    g_autoptr(IntroKernel) k = vm ? intro_kernel_find(vmm_machine_memory(vm), NULL, error) : NULL;
    g_autoptr(FmtImage) img = fmt_image_new();
    g_autoptr(GPtrArray) refusals =
        g_ptr_array_new_with_free_func((GDestroyNotify)intro_refusal_free);
    g_autoptr(GHashTable) objects = g_hash_table_new(NULL, NULL);
    struct intro_capture_options opt = {.pid = pid, .source = target};
    struct intro_ctx c = {
        .k = k,
        .img = img,
        .opt = &opt,
        .refusals = refusals,
        .objects = objects,
        .pages = intro_pages_new(),
        .pid = pid,
        .fd = -1,
    };

    bool ok = k && vmm_machine_pause(vm, error);
    if (ok) {
        intro_kernel_new_pause(k);
        int64_t start = g_get_monotonic_time();
        ok = read_files(&c, error);
        fprintf(stderr, "%.2f ms\n", (double)(g_get_monotonic_time() - start) / 1000);
    }
    if (ok && dump_args[0])
        ok = dump(&c, (uint64_t)atoi(dump_args[0]), dump_args[1], error);
    if (ok)
        print(&c);
    intro_pages_free(c.pages);
    return ok;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;

    if (argc != 3 && argc != 5) {
        fprintf(stderr, "usage: files-probe TARGET PID [FD OUT]\n");
        return 2;
    }
    if (probe(argv[1], (uint32_t)atoi(argv[2]), argv + 3, &error))
        return 0;
    fprintf(stderr, "files-probe: %s\n", error->message);
    return 1;
}
