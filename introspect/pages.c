// SPDX-License-Identifier: GPL-2.0-or-later
// The pages of a take: collected as wants, copied in bulk, turned into extents after the pause.
#include "introspect/pages.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "introspect/context.h"

struct want {
    uint64_t owner;
    uint64_t start;
    uint64_t n_pages;
    uint64_t first_page; // of its copy in the buffer
    enum fmt_pages_kind kind;
};

struct patch {
    uint64_t owner;
    uint64_t start;
    GBytes *data;
};

struct gift {
    uint64_t owner;
    uint64_t start;
    GBytes *contents;
    enum fmt_pages_kind kind;
};

struct intro_pages {
    GArray *gifts;   // struct gift
    GArray *patches; // struct patch
    GArray *wants;   // struct want; adjacent pages of one owner are one
    GArray *copies;  // struct vmm_copy, `to` is an offset until intro_pages_copy
    uint64_t n_pages;
    bool part; // the next want starts anew
    bool none; // nothing is wanted
    uint8_t *buffer;
    uint64_t buffer_pages;
};

static void clear_gift(gpointer data)
{
    struct gift *gift = data;

    g_bytes_unref(gift->contents);
}

static void clear_patch(gpointer data)
{
    struct patch *patch = data;

    g_bytes_unref(patch->data);
}

struct intro_pages *intro_pages_new(void)
{
    struct intro_pages *p = g_new0(struct intro_pages, 1);

    p->gifts = g_array_new(FALSE, FALSE, sizeof(struct gift));
    g_array_set_clear_func(p->gifts, clear_gift);
    p->patches = g_array_new(FALSE, FALSE, sizeof(struct patch));
    g_array_set_clear_func(p->patches, clear_patch);
    p->wants = g_array_new(FALSE, FALSE, sizeof(struct want));
    p->copies = g_array_new(FALSE, FALSE, sizeof(struct vmm_copy));
    return p;
}

void intro_pages_want_none(struct intro_pages *p)
{
    p->none = true;
}

static void drop_buffer(struct intro_pages *p)
{
    if (p->buffer)
        munmap(p->buffer, p->buffer_pages * VMM_PAGE_BYTES);
    p->buffer = NULL;
    p->buffer_pages = 0;
}

void intro_pages_free(struct intro_pages *p)
{
    if (!p)
        return;
    drop_buffer(p);
    g_array_unref(p->gifts);
    g_array_unref(p->patches);
    g_array_unref(p->wants);
    g_array_unref(p->copies);
    g_free(p);
}

void intro_pages_reset(struct intro_pages *p)
{
    g_array_set_size(p->gifts, 0);
    g_array_set_size(p->patches, 0);
    g_array_set_size(p->wants, 0);
    g_array_set_size(p->copies, 0);
    p->n_pages = 0;
    p->part = false;
}

uint64_t intro_pages_count(const struct intro_pages *p)
{
    return p->n_pages;
}

bool intro_pages_reserve(struct intro_pages *p, uint64_t n_pages, GError **error)
{
    if (n_pages <= p->buffer_pages)
        return true;
    drop_buffer(p);

    void *buffer = mmap(NULL, n_pages * VMM_PAGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (buffer == MAP_FAILED) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_HOST,
                    "no memory on this host for %" G_GUINT64_FORMAT " MiB of pages: %s",
                    n_pages * VMM_PAGE_BYTES >> 20, g_strerror(errno));
        return false;
    }
    // Huge pages make both the touching and the copying cheaper; without them nothing is lost.
    madvise(buffer, n_pages * VMM_PAGE_BYTES, MADV_HUGEPAGE);
    if (madvise(buffer, n_pages * VMM_PAGE_BYTES, MADV_POPULATE_WRITE) < 0 && errno == ENOMEM) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_HOST,
                    "no memory on this host for %" G_GUINT64_FORMAT " MiB of pages",
                    n_pages * VMM_PAGE_BYTES >> 20);
        munmap(buffer, n_pages * VMM_PAGE_BYTES);
        return false;
    }
    p->buffer = buffer;
    p->buffer_pages = n_pages;
    return true;
}

// Whether a want that starts there goes on where the last one ended.
static bool continues_want(const struct intro_pages *p, uint64_t owner, uint64_t start,
                           enum fmt_pages_kind kind)
{
    if (p->wants->len == 0 || p->part)
        return false;
    const struct want *last = &g_array_index(p->wants, struct want, p->wants->len - 1);

    return last->owner == owner && last->kind == kind &&
           last->start + last->n_pages * VMM_PAGE_BYTES == start;
}

void intro_pages_part(struct intro_pages *p)
{
    p->part = true;
}

void intro_pages_want(struct intro_pages *p, uint64_t owner, uint64_t start, struct gpa from,
                      uint64_t size_bytes, enum fmt_pages_kind kind)
{
    uint64_t n_pages = size_bytes / VMM_PAGE_BYTES;

    if (p->none)
        return;
    if (continues_want(p, owner, start, kind)) {
        g_array_index(p->wants, struct want, p->wants->len - 1).n_pages += n_pages;
    } else {
        struct want want = {owner, start, n_pages, p->n_pages, kind};
        g_array_append_val(p->wants, want);
        p->part = false;
    }

    uintptr_t to = p->n_pages * VMM_PAGE_BYTES;
    struct vmm_copy *last =
        p->copies->len ? &g_array_index(p->copies, struct vmm_copy, p->copies->len - 1) : NULL;
    if (last && last->from.addr + last->size_bytes == from.addr) {
        last->size_bytes += size_bytes;
    } else {
        struct vmm_copy copy = {from, (void *)to, size_bytes};
        g_array_append_val(p->copies, copy);
    }
    p->n_pages += n_pages;
}

bool intro_pages_copy(struct intro_pages *p, VmmMemory *mem, GError **error)
{
    if (!intro_pages_reserve(p, p->n_pages, error))
        return false;

    struct vmm_copy *copies = (struct vmm_copy *)(void *)p->copies->data;
    for (guint i = 0; i < p->copies->len; i++)
        copies[i].to = p->buffer + (uintptr_t)copies[i].to;
    return p->copies->len == 0 || vmm_memory_read_bulk(mem, copies, p->copies->len, 0, error);
}

void intro_pages_patch(struct intro_pages *p, uint64_t owner, uint64_t start, const void *data,
                       size_t size_bytes)
{
    struct patch patch = {owner, start, g_bytes_new(data, size_bytes)};

    g_array_append_val(p->patches, patch);
}

bool intro_pages_is_patched(const struct intro_pages *p, uint64_t owner, uint64_t start,
                            uint64_t size_bytes)
{
    for (guint i = 0; i < p->patches->len; i++) {
        const struct patch *patch = &g_array_index(p->patches, struct patch, i);

        if (patch->owner == owner && patch->start < start + size_bytes &&
            patch->start + g_bytes_get_size(patch->data) > start)
            return true;
    }
    return false;
}

void intro_pages_give(struct intro_pages *p, uint64_t owner, uint64_t start, GBytes *contents,
                      enum fmt_pages_kind kind)
{
    struct gift gift = {owner, start, contents, kind};

    g_array_append_val(p->gifts, gift);
}

void intro_pages_apply(const struct intro_pages *p, uint64_t owner, uint64_t start, uint8_t *data,
                       uint64_t size_bytes)
{
    for (guint i = 0; i < p->patches->len; i++) {
        const struct patch *patch = &g_array_index(p->patches, struct patch, i);
        size_t len;
        const uint8_t *from = g_bytes_get_data(patch->data, &len);
        const uint64_t first = MAX(patch->start, start),
                       end = MIN(patch->start + len, start + size_bytes);

        if (patch->owner == owner && first < end)
            memcpy(data + (first - start), from + (first - patch->start), end - first);
    }
}

static void apply_patch(const struct intro_pages *p, const struct patch *patch)
{
    size_t len;
    const uint8_t *data = g_bytes_get_data(patch->data, &len);

    for (guint i = 0; i < p->wants->len; i++) {
        const struct want *w = &g_array_index(p->wants, struct want, i);
        uint64_t end = w->start + w->n_pages * VMM_PAGE_BYTES;
        uint64_t from = MAX(patch->start, w->start), to = MIN(patch->start + len, end);

        if (w->owner == patch->owner && w->kind == FMT_PAGES_DATA && from < to)
            memcpy(p->buffer + w->first_page * VMM_PAGE_BYTES + (from - w->start),
                   data + (from - patch->start), to - from);
    }
}

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, VMM_PAGE_BYTES - 1) == 0;
}

// Pages that become one extent.
struct run {
    uint64_t owner;
    bool is_cow; // owner is a COW_SET
    uint64_t start;
    uint64_t n_pages;
    enum fmt_pages_kind kind;
    const uint8_t *data;
};

/*
 * Several mappings may show the same page of a file, and one of them may be where it was changed:
 * it is taken once, and as changed.
 */
struct layout {
    const struct intro_pages *p;
    GHashTable *taken; // struct page_key, of pages of files
    GArray *runs;      // struct run
};

struct page_key {
    uint64_t owner, start;
};

static guint hash_key(gconstpointer data)
{
    const struct page_key *key = data;

    return (guint)(key->start >> VMM_PAGE_SHIFT) ^ (guint)(key->owner << 20);
}

static gboolean equal_keys(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(struct page_key)) == 0;
}

static bool take_page(struct layout *l, uint64_t owner, uint64_t start)
{
    struct page_key key = {owner, start};

    return g_hash_table_add(l->taken, g_memdup2(&key, sizeof(key)));
}

// A CLEAN page of zeros is still to be compared with the target's file.
static enum fmt_pages_kind kind_of(enum fmt_pages_kind kind, const uint8_t *page)
{
    return kind == FMT_PAGES_DATA && is_zero(page) ? FMT_PAGES_ZERO : kind;
}

static void add_run(struct layout *l, struct run run, bool may_join)
{
    struct run *last = l->runs->len ? &g_array_index(l->runs, struct run, l->runs->len - 1) : NULL;

    if (may_join && last && last->owner == run.owner && last->kind == run.kind &&
        last->start + last->n_pages * VMM_PAGE_BYTES == run.start &&
        last->data + last->n_pages * VMM_PAGE_BYTES == run.data)
        last->n_pages++;
    else
        g_array_append_val(l->runs, run);
}

static void add_page(struct layout *l, const struct want *w, uint64_t i, bool is_cow)
{
    const uint8_t *data = l->p->buffer + (w->first_page + i) * VMM_PAGE_BYTES;
    struct run run = {w->owner, is_cow, w->start + i * VMM_PAGE_BYTES, 1, kind_of(w->kind, data),
                      data};

    // A want is inside of one mapping, which an extent must be.
    add_run(l, run, i > 0);
}

static void add_gift(struct layout *l, const struct gift *gift)
{
    size_t size_bytes;
    const uint8_t *data = g_bytes_get_data(gift->contents, &size_bytes);

    for (uint64_t at = 0; at + VMM_PAGE_BYTES <= size_bytes; at += VMM_PAGE_BYTES) {
        struct run run = {gift->owner, false, gift->start + at, 1, kind_of(gift->kind, data + at),
                          data + at};

        if (take_page(l, run.owner, run.start))
            add_run(l, run, at > 0);
    }
}

static void add_wants(struct layout *l, const FmtImage *img, bool clean)
{
    for (guint i = 0; i < l->p->wants->len; i++) {
        const struct want *w = &g_array_index(l->p->wants, struct want, i);
        bool of_file = fmt_image_by_ref(img, w->owner, FMT_INODE);
        bool is_cow = fmt_image_by_ref(img, w->owner, FMT_COW_SET);

        for (uint64_t j = 0; (w->kind == FMT_PAGES_CLEAN) == clean && j < w->n_pages; j++)
            if (!of_file || take_page(l, w->owner, w->start + j * VMM_PAGE_BYTES))
                add_page(l, w, j, is_cow);
    }
}

// By owner, then by address: the decoder insists on it. What several processes have from before
// their births comes first.
static gint compare_runs(gconstpointer a, gconstpointer b)
{
    const struct run *x = a, *y = b;

    if (x->is_cow != y->is_cow)
        return x->is_cow ? -1 : 1;
    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    return x->start < y->start ? -1 : x->start > y->start;
}

static uint64_t add_extents(const struct layout *l, FmtImage *img)
{
    uint64_t with_contents = 0;

    for (guint i = 0; i < l->runs->len; i++) {
        const struct run *run = &g_array_index(l->runs, struct run, i);
        bool zero = run->kind == FMT_PAGES_ZERO;

        fmt_image_add_extent(img, run->owner, run->start, run->n_pages, run->kind,
                             zero ? NULL : run->data);
        with_contents += zero ? 0 : run->n_pages;
    }
    return with_contents;
}

struct unmapping {
    void *at;
    size_t size_bytes;
};

static void unmap(gpointer data)
{
    struct unmapping *u = data;

    munmap(u->at, u->size_bytes);
    g_free(u);
}

uint64_t intro_pages_finish(struct intro_pages *p, FmtImage *img)
{
    g_autoptr(GHashTable) taken = g_hash_table_new_full(hash_key, equal_keys, g_free, NULL);
    g_autoptr(GArray) runs = g_array_new(FALSE, FALSE, sizeof(struct run));
    struct layout layout = {p, taken, runs};

    for (guint i = 0; i < p->patches->len; i++)
        apply_patch(p, &g_array_index(p->patches, struct patch, i));
    add_wants(&layout, img, false);
    add_wants(&layout, img, true);
    for (guint i = 0; i < p->gifts->len; i++) {
        const struct gift *gift = &g_array_index(p->gifts, struct gift, i);

        add_gift(&layout, gift);
        fmt_image_hold(img, g_bytes_ref(gift->contents));
    }
    g_array_sort(runs, compare_runs);
    uint64_t with_contents = add_extents(&layout, img);

    if (p->buffer) {
        struct unmapping *u = g_new(struct unmapping, 1);
        *u = (struct unmapping){p->buffer, p->buffer_pages * VMM_PAGE_BYTES};
        fmt_image_hold(img, g_bytes_new_with_free_func(u->at, u->size_bytes, unmap, u));
        p->buffer = NULL;
        p->buffer_pages = 0;
    }
    intro_pages_reset(p);
    return with_contents;
}
