// SPDX-License-Identifier: GPL-2.0-or-later
// The model of a process image: an arena of records, by type and by objref, and its extents.
#include "formats/image.h"

#include <string.h>

#include "formats/catalogue.h"
#include "formats/image-priv.h"
#include "formats/stream.h"

G_DEFINE_QUARK(fmt - error - quark, fmt_error)

struct FmtImage {
    gatomicrefcount refs;
    GPtrArray *records[FMT_N_TYPES];
    GHashTable *by_ref; // keys are the objref members of the records
    GArray *extents;    // struct fmt_extent
    GPtrArray *holds;
    uint64_t next_ref;
    struct image_index *index;
};

static void record_free(void *record)
{
    const struct fmt_record_type *t = fmt_record_type(((struct fmt_record *)record)->type);

    for (size_t i = 0; i < t->n_fields; i++) {
        union fmt_value *v = fmt_record_field(record, i);

        if (t->fields[i].kind == FMT_FIELD_S)
            g_free(v->s);
        else if (t->fields[i].kind == FMT_FIELD_B)
            g_clear_pointer(&v->b, g_bytes_unref);
    }
    g_free(record);
}

FmtImage *fmt_image_new(void)
{
    FmtImage *img = g_new0(FmtImage, 1);

    g_atomic_ref_count_init(&img->refs);
    img->by_ref = g_hash_table_new(g_int64_hash, g_int64_equal);
    img->extents = g_array_new(false, false, sizeof(struct fmt_extent));
    img->holds = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    img->next_ref = 1;
    img->index = g_new0(struct image_index, 1);
    img->index->vmas = g_ptr_array_new();
    img->index->extents = g_ptr_array_new();
    for (size_t i = 0; i < FMT_N_TYPES; i++) {
        if (fmt_type_is_object(i))
            img->records[i] = g_ptr_array_new_with_free_func(record_free);
    }

    struct fmt_head *head = fmt_image_add(img, FMT_HEAD);
    head->format = FMT_FORMAT_VERSION;
    return img;
}

FmtImage *fmt_image_ref(FmtImage *img)
{
    g_atomic_ref_count_inc(&img->refs);
    return img;
}

void fmt_image_unref(FmtImage *img)
{
    if (!img || !g_atomic_ref_count_dec(&img->refs))
        return;
    g_hash_table_unref(img->by_ref);
    for (size_t i = 0; i < FMT_N_TYPES; i++)
        g_clear_pointer(&img->records[i], g_ptr_array_unref);
    g_array_unref(img->extents);
    g_ptr_array_unref(img->holds);
    g_ptr_array_unref(img->index->vmas);
    g_ptr_array_unref(img->index->extents);
    g_free(img->index);
    g_free(img);
}

void *fmt_image_add_as(FmtImage *img, enum fmt_type type, uint64_t objref)
{
    g_return_val_if_fail(fmt_type_is_object(type) && objref, NULL);

    struct fmt_record *rec = g_malloc0(fmt_record_type(type)->size_bytes);

    rec->type = type;
    rec->objref = objref;
    img->next_ref = MAX(img->next_ref, objref + 1);
    if (type == FMT_VMA)
        img->index->vmas_fresh = false;
    g_ptr_array_add(img->records[type], rec);
    g_hash_table_insert(img->by_ref, &rec->objref, rec);
    return rec;
}

void *fmt_image_add(FmtImage *img, enum fmt_type type)
{
    g_return_val_if_fail(type != FMT_HEAD || img->records[FMT_HEAD]->len == 0, NULL);
    return fmt_image_add_as(img, type, img->next_ref);
}

uint64_t fmt_image_next_ref(const FmtImage *img)
{
    return img->next_ref;
}

struct fmt_head *fmt_image_head(FmtImage *img)
{
    return fmt_image_nth(img, FMT_HEAD, 0);
}

size_t fmt_image_count(const FmtImage *img, enum fmt_type type)
{
    return fmt_type_is_object(type) ? img->records[type]->len : 0;
}

void *fmt_image_nth(const FmtImage *img, enum fmt_type type, size_t i)
{
    return i < fmt_image_count(img, type) ? g_ptr_array_index(img->records[type], i) : NULL;
}

void *fmt_image_by_ref(const FmtImage *img, uint64_t objref, enum fmt_type type)
{
    struct fmt_record *rec = g_hash_table_lookup(img->by_ref, &objref);

    return rec && (type == FMT_ANY || rec->type == type) ? rec : NULL;
}

void fmt_image_append_extent(FmtImage *img, const struct fmt_extent *extent)
{
    img->index->extents_fresh = false;
    g_array_append_vals(img->extents, extent, 1);
}

void fmt_image_add_extent(FmtImage *img, uint64_t owner, uint64_t start, uint64_t n_pages,
                          enum fmt_pages_kind kind, const void *data)
{
    const uint8_t *at = data;

    g_return_if_fail((data == NULL) == (kind == FMT_PAGES_ZERO || n_pages == 0));
    while (n_pages > 0) {
        uint64_t n = kind == FMT_PAGES_ZERO ? n_pages : MIN(n_pages, FMT_EXTENT_MAX_PAGES);
        struct fmt_extent extent = {
            .pages = {.rec = {.type = FMT_PAGES},
                      .owner = owner,
                      .start = start,
                      .n_pages = n,
                      .kind = kind},
            .data = at,
        };

        fmt_image_append_extent(img, &extent);
        n_pages -= n;
        start += n * FMT_PAGE_BYTES;
        if (at)
            at += n * FMT_PAGE_BYTES;
    }
}

size_t fmt_image_n_extents(const FmtImage *img)
{
    return img->extents->len;
}

struct fmt_extent *fmt_image_extent(const FmtImage *img, size_t i)
{
    return &g_array_index(img->extents, struct fmt_extent, i);
}

void fmt_image_hold(FmtImage *img, GBytes *memory)
{
    g_ptr_array_add(img->holds, memory);
}

struct image_index *fmt_image_index(const FmtImage *img)
{
    return img->index;
}
