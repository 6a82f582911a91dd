// SPDX-License-Identifier: GPL-2.0-or-later
// Programs and libraries: pages that are mapped and were never read in, from the guest's disks.
#include "introspect/file.h"

#include "introspect/pages.h"
#include "introspect/reader.h"

/*
 * The target has the file itself, so a restore needs none of them. But whoever looks at the image
 * (a debugger, by way of an ELF core) wants the code around the place that a thread is at, and has
 * no guest's disk at hand. Files that are nowhere mapped for execution are data, of any size, and
 * left alone.
 */

#define MAX_BYTES (UINT64_C(1) << 30) // of one file

struct mapped {
    uint64_t ref; // of the INODE
    struct gva inode, dentry;
    uint64_t first, end; // page indices
    bool is_executable;
};

bool intro_program_mapped(struct intro_ctx *c, struct gva file, uint64_t ref, uint64_t start,
                          uint64_t end, bool is_executable, GError **error)
{
    if (!c->opt->disks || !c->opt->programs || c->opt->records_only)
        return true;

    g_auto(IntroReader) r = INTRO_READER(c->k);
    const struct mapped mapped = {.ref = ref,
                                  .inode = rd_ptr(&r, file, M_file_inode),
                                  .dentry = rd_ptr(&r, file, M_file_path_dentry),
                                  .first = start >> VMM_PAGE_SHIFT,
                                  .end = end >> VMM_PAGE_SHIFT,
                                  .is_executable = is_executable};
    if (!rd_done(&r, error))
        return false;
    if (!c->programs)
        c->programs = g_array_new(FALSE, FALSE, sizeof(struct mapped));
    g_array_append_val(c->programs, mapped);
    return true;
}

static gint by_place(gconstpointer a, gconstpointer b)
{
    const struct mapped *x = a, *y = b;

    if (x->ref != y->ref)
        return x->ref < y->ref ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

// All that is mapped of one file, by place.
struct program {
    const struct mapped *mapped;
    guint n_mapped;
    GArray *gaps; // of struct intro_disk_gap
    uint64_t n_bytes;
};

static void add_gaps(struct program *p, const GArray *ranges)
{
    for (guint i = 0; i + 1 < ranges->len; i += 2) {
        const uint64_t first = g_array_index(ranges, uint64_t, i);
        const uint64_t end = g_array_index(ranges, uint64_t, i + 1);
        const struct intro_disk_gap gap = {first << VMM_PAGE_SHIFT, (end - first) << VMM_PAGE_SHIFT,
                                           NULL};

        g_array_append_val(p->gaps, gap);
        p->n_bytes += gap.size_bytes;
    }
}

static bool find_gaps(struct intro_ctx *c, struct program *p, uint64_t size_bytes, GError **error)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    const uint64_t n_pages =
        (MIN(size_bytes, UINT64_MAX & VMM_PAGE_MASK) + VMM_PAGE_BYTES - 1) >> VMM_PAGE_SHIFT;
    uint64_t done = 0;

    for (guint i = 0; i < p->n_mapped; i++) {
        const uint64_t end = MIN(p->mapped[i].end, n_pages);

        if (!intro_pagecache_missing(c->k, p->mapped[i].inode, MAX(p->mapped[i].first, done), end,
                                     ranges, error))
            return false;
        done = MAX(done, end);
    }
    add_gaps(p, ranges);
    return true;
}

// Gives the gaps their places in `data`, has them filled, and hands them on.
static bool read_gaps(struct intro_ctx *c, struct program *p, struct intro_disk_file *file,
                      GError **error)
{
    uint8_t *data = p->n_bytes <= MAX_BYTES ? g_try_malloc0(p->n_bytes) : NULL;
    g_autoptr(GBytes) all = data ? g_bytes_new_take(data, p->n_bytes) : NULL;
    struct intro_disk_gap *gaps = (struct intro_disk_gap *)(void *)p->gaps->data;
    uint64_t at = 0;

    if (!data) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_HOST, "%" G_GUINT64_FORMAT " MiB are too much",
                    p->n_bytes >> 20);
        return false;
    }
    for (guint i = 0; i < p->gaps->len; at += gaps[i++].size_bytes)
        gaps[i].to = data + at;
    file->gaps = gaps;
    file->n_gaps = p->gaps->len;
    if (!c->opt->disks->read(c->opt->disks->user, file, error))
        return false;
    for (guint i = 0; i < p->gaps->len; i++)
        intro_pages_give(
            c->pages, p->mapped->ref, gaps[i].start,
            g_bytes_new_from_bytes(all, (gsize)(gaps[i].to - data), gaps[i].size_bytes),
            FMT_PAGES_CLEAN);
    return true;
}

static bool complete(struct intro_ctx *c, struct program *p, const struct fmt_inode *inode,
                     GError **error)
{
    struct intro_disk_file file = {0};
    g_autofree char *path = NULL;

    if (!find_gaps(c, p, inode->size_bytes, error))
        return false;
    if (p->gaps->len == 0)
        return true;
    if (!intro_disk_knows(inode->fstype)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED, "it is a file of %s",
                    inode->fstype);
        return false;
    }
    if (!intro_disk_describe(c->k, p->mapped->inode, p->mapped->dentry, &file, &path, error))
        return false;
    if (file.size_bytes != inode->size_bytes) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT, "its size is not what it was");
        return false;
    }
    return read_gaps(c, p, &file, error);
}

// What is carried is whole.
static bool is_incomplete(const struct fmt_inode *inode)
{
    return inode->contents != FMT_CONTENTS_CARRIED && inode->contents != FMT_CONTENTS_DELETED &&
           !intro_file_is_in_memory(inode->fstype);
}

static void complete_one(struct intro_ctx *c, const struct mapped *mapped, guint n)
{
    const struct fmt_inode *inode = fmt_image_by_ref(c->img, mapped->ref, FMT_INODE);
    g_autoptr(GArray) gaps = g_array_new(FALSE, FALSE, sizeof(struct intro_disk_gap));
    struct program p = {mapped, n, gaps, 0};
    g_autoptr(GError) error = NULL;
    bool is_executable = false;

    for (guint i = 0; i < n; i++)
        is_executable |= mapped[i].is_executable;
    if (is_executable && inode && is_incomplete(inode) && !complete(c, &p, inode, &error))
        intro_note(c, FMT_NOTE_INFO, "disk",
                   "pages of %s that were never read in are not in the image: %s",
                   inode->path ? inode->path : "a program", error->message);
}

void intro_program_complete(struct intro_ctx *c)
{
    if (!c->programs)
        return;
    g_array_sort(c->programs, by_place);
    const struct mapped *mapped = (const struct mapped *)(const void *)c->programs->data;
    for (guint i = 0, n; i < c->programs->len; i += n) {
        for (n = 1; i + n < c->programs->len && mapped[i + n].ref == mapped[i].ref;)
            n++;
        complete_one(c, mapped + i, n);
    }
}
