// SPDX-License-Identifier: GPL-2.0-or-later
// Carried files that are not wholly in memory: what is missing is read from the guest's disks.
#include "introspect/file.h"

#include "introspect/pages.h"
#include "introspect/reader.h"

#include <string.h>

/*
 * What the page cache has is the newest there is, written back or not. What it does not have is on
 * the disk, and nowhere else: a page leaves the cache only when it has been written. But where it
 * is on the disk may still be in the guest's memory alone, or in a journal. So whoever reads the
 * disk holds the inode that he finds there against the one in memory, and does not take what does
 * not agree (see struct intro_disk_file).
 *
 * The whole file is put together at the end of a take that has succeeded, while the guest still
 * stands still: it is not known before whether all that is asked for can be had.
 */

#define MAX_STEPS 8192 // of a path, as in path.c

bool intro_disk_knows(const char *fstype)
{
    static const char *const names[] = {"ext3", "ext4"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        if (strcmp(fstype, names[i]) == 0)
            return true;
    return false;
}

struct partial {
    struct gva inode, dentry;
    uint64_t ref; // of the INODE
    uint64_t pid; // for messages
    int64_t fd;
};

void intro_disk_later(struct intro_opened *o, const struct fmt_inode *inode)
{
    const struct partial partial = {o->inode, o->dentry, inode->rec.objref, o->c->pid, o->c->fd};

    if (!o->c->opt->disks || o->c->opt->records_only || o->rec->deleted ||
        !intro_disk_knows(o->fstype))
        return;
    if (!o->c->partial)
        o->c->partial = g_array_new(FALSE, FALSE, sizeof(struct partial));
    g_array_append_val(o->c->partial, partial);
}

// From the root of the file system, wherever that is mounted.
static char *path_on_disk(IntroKernel *k, struct gva dentry, GError **error)
{
    g_autoptr(GString) path = g_string_new(NULL);

    for (unsigned n = 0; n < MAX_STEPS; n++) {
        struct gva parent;

        if (!intro_get_ptr(k, dentry, M_dentry_parent, &parent, error))
            return NULL;
        if (parent.addr == dentry.addr)
            return g_string_free(g_steal_pointer(&path), FALSE);
        g_autofree char *name = intro_dentry_name(k, dentry, error);
        if (!name)
            return NULL;
        g_string_prepend(path, name);
        g_string_prepend_c(path, '/');
        dentry = parent;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "dentry at %#" G_GINT64_MODIFIER "x: a path without end", dentry.addr);
    return NULL;
}

// Bits 0 to 30: since 6.13 the last says whether somebody has asked for the time.
#define NSEC_MASK 0x7fffffff

bool intro_disk_describe(IntroKernel *k, struct gva inode, struct gva dentry,
                         struct intro_disk_file *ret, char **ret_path, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva sb = rd_ptr(&r, inode, M_inode_sb);
    struct intro_disk_file file = {0};

    if (!intro_has(k, M_sb_uuid) || !intro_has(k, M_inode_blocks) ||
        !intro_has(k, M_inode_ctime_sec) || !intro_has(k, M_inode_ctime_nsec)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED,
                    "this kernel does not tell where its files are");
        return false;
    }
    rd_bytes(&r, sb, M_sb_uuid, file.uuid, sizeof(file.uuid));
    file.ino = rd(&r, inode, M_inode_ino);
    file.size_bytes = rd(&r, inode, M_inode_size);
    file.n_sectors = rd(&r, inode, M_inode_blocks);
    file.mtime_ns = rd_time_ns(&r, inode, M_inode_mtime_sec, M_inode_mtime_nsec);
    file.ctime_ns = (int64_t)(rd(&r, inode, M_inode_ctime_sec) * UINT64_C(1000000000) +
                              (rd(&r, inode, M_inode_ctime_nsec) & NSEC_MASK));
    if (!rd_done(&r, error) || !(*ret_path = path_on_disk(k, dentry, error)))
        return false;
    file.path = *ret_path;
    *ret = file;
    return true;
}

// The file's pages, and which of them memory does not have.
struct assembly {
    uint8_t *data;
    GArray *gaps; // of struct intro_disk_gap
};

static void add_gap(struct assembly *a, uint64_t at)
{
    struct intro_disk_gap *last =
        a->gaps->len ? &g_array_index(a->gaps, struct intro_disk_gap, a->gaps->len - 1) : NULL;
    const struct intro_disk_gap gap = {at, VMM_PAGE_BYTES, a->data + at};

    if (last && last->start + last->size_bytes == at)
        last->size_bytes += VMM_PAGE_BYTES;
    else
        g_array_append_val(a->gaps, gap);
}

static bool assemble(IntroKernel *k, struct gva inode, uint64_t n_pages, struct assembly *a,
                     GError **error)
{
    for (uint64_t i = 0; i < n_pages; i++) {
        enum intro_cached cached;

        if (!intro_pagecache_look(k, inode, i, a->data + i * VMM_PAGE_BYTES, &cached, error))
            return false;
        if (cached == INTRO_CACHED_PARTLY) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                        "page %" G_GUINT64_FORMAT " is being read or written just now", i);
            return false;
        }
        if (cached == INTRO_CACHED_NOT)
            add_gap(a, i * VMM_PAGE_BYTES);
    }
    return true;
}

// What is behind the end of the file in its last page is nobody's.
static void clear_tail(uint8_t *data, uint64_t size_bytes, uint64_t n_pages)
{
    memset(data + size_bytes, 0, n_pages * VMM_PAGE_BYTES - size_bytes);
}

static bool complete(struct intro_ctx *c, const struct partial *p, struct fmt_inode *inode,
                     GError **error)
{
    struct intro_disk_file file = {0};
    g_autofree char *path = NULL;

    if (!intro_disk_describe(c->k, p->inode, p->dentry, &file, &path, error))
        return false;
    if (file.size_bytes > c->opt->carry_bytes || file.size_bytes != inode->size_bytes) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT, "its size is not what it was");
        return false;
    }

    const uint64_t n_pages = (file.size_bytes + VMM_PAGE_BYTES - 1) / VMM_PAGE_BYTES;
    g_autofree uint8_t *data = g_try_malloc0(n_pages * VMM_PAGE_BYTES);
    g_autoptr(GArray) gaps = g_array_new(FALSE, FALSE, sizeof(struct intro_disk_gap));
    struct assembly a = {data, gaps};
    if (!data) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_HOST, "no memory on this host for it");
        return false;
    }
    if (!assemble(c->k, p->inode, n_pages, &a, error))
        return false;
    file.gaps = (const struct intro_disk_gap *)(const void *)gaps->data;
    file.n_gaps = gaps->len;
    if (gaps->len && !c->opt->disks->read(c->opt->disks->user, &file, error))
        return false;
    clear_tail(data, file.size_bytes, n_pages);
    intro_pages_give(c->pages, p->ref, 0,
                     g_bytes_new_take(g_steal_pointer(&data), n_pages * VMM_PAGE_BYTES),
                     FMT_PAGES_CLEAN);
    inode->contents = FMT_CONTENTS_CARRIED;
    return true;
}

void intro_disk_complete(struct intro_ctx *c)
{
    for (guint i = 0; c->partial && i < c->partial->len; i++) {
        const struct partial *p = &g_array_index(c->partial, struct partial, i);
        struct fmt_inode *inode = fmt_image_by_ref(c->img, p->ref, FMT_INODE);
        g_autoptr(GError) error = NULL;

        c->pid = p->pid;
        c->fd = p->fd;
        // Several descriptors may have led to it.
        if (inode->contents == FMT_CONTENTS_PARTLY && !complete(c, p, inode, &error))
            intro_note(c, FMT_NOTE_LOSS, "disk", "%s is not carried: %s",
                       inode->path ? inode->path : "a file", error->message);
    }
    c->fd = -1;
    intro_program_complete(c);
}
