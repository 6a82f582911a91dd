// SPDX-License-Identifier: GPL-2.0-or-later
// The model of a process image: an arena of records, by type and by objref, and its extents.
#include "formats/image.h"

#include <string.h>

#include "formats/catalogue.h"
#include "formats/image-priv.h"
#include "formats/stream.h"

G_DEFINE_QUARK(fmt - error - quark, fmt_error)

// Where addresses lead. Made anew at the first look-up after something was added.
struct image_index {
    bool fresh;
    GPtrArray *vmas;    // struct fmt_vma by (mm, start)
    GPtrArray *extents; // struct fmt_extent by (owner, start)
};

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
    img->index->fresh = false;
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
    img->index->fresh = false;
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

struct place {
    uint64_t owner;
    uint64_t start;
};

static int place_compare(struct place a, struct place b)
{
    if (a.owner != b.owner)
        return a.owner < b.owner ? -1 : 1;
    return a.start < b.start ? -1 : a.start > b.start;
}

static struct place place_of_vma(const void *vma)
{
    return (struct place){((const struct fmt_vma *)vma)->mm, ((const struct fmt_vma *)vma)->start};
}

static struct place place_of_extent(const void *extent)
{
    const struct fmt_pages *pages = &((const struct fmt_extent *)extent)->pages;

    return (struct place){pages->owner, pages->start};
}

static int compare_vmas(const void *a, const void *b)
{
    return place_compare(place_of_vma(*(void *const *)a), place_of_vma(*(void *const *)b));
}

static int compare_extents(const void *a, const void *b)
{
    return place_compare(place_of_extent(*(void *const *)a), place_of_extent(*(void *const *)b));
}

static const struct image_index *image_index(const FmtImage *img)
{
    struct image_index *index = img->index;

    if (index->fresh)
        return index;
    g_ptr_array_set_size(index->vmas, 0);
    g_ptr_array_set_size(index->extents, 0);
    for (size_t i = 0; i < fmt_image_count(img, FMT_VMA); i++)
        g_ptr_array_add(index->vmas, fmt_image_nth(img, FMT_VMA, i));
    for (size_t i = 0; i < img->extents->len; i++)
        g_ptr_array_add(index->extents, fmt_image_extent(img, i));
    g_ptr_array_sort(index->vmas, compare_vmas);
    g_ptr_array_sort(index->extents, compare_extents);
    index->fresh = true;
    return index;
}

// The last of sorted items that starts at or before the place, NULL for none.
static void *index_floor(const GPtrArray *sorted, struct place (*place_of)(const void *item),
                         struct place place)
{
    size_t low = 0, high = sorted->len;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (place_compare(place_of(sorted->pdata[mid]), place) <= 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low > 0 ? sorted->pdata[low - 1] : NULL;
}

struct fmt_vma *fmt_image_vma(const FmtImage *img, uint64_t mm, uint64_t addr)
{
    struct fmt_vma *vma =
        index_floor(image_index(img)->vmas, place_of_vma, (struct place){mm, addr});

    return vma && vma->mm == mm && addr < vma->end ? vma : NULL;
}

static bool owner_page(const FmtImage *img, uint64_t owner, uint64_t addr, const uint8_t **ret)
{
    const struct fmt_extent *extent =
        index_floor(image_index(img)->extents, place_of_extent, (struct place){owner, addr});

    if (!extent || extent->pages.owner != owner)
        return false;

    uint64_t page = (addr - extent->pages.start) / FMT_PAGE_BYTES;
    if (page >= extent->pages.n_pages)
        return false;
    *ret = extent->data ? extent->data + page * FMT_PAGE_BYTES : NULL;
    return true;
}

// Who owns the pages of a mapped object: a FILE stands for what it has open.
static uint64_t backing_of(const FmtImage *img, const struct fmt_vma *vma)
{
    const struct fmt_file *file = fmt_image_by_ref(img, vma->object, FMT_FILE);

    return file ? file->object : vma->object;
}

bool fmt_image_page(const FmtImage *img, uint64_t mm, uint64_t addr, const uint8_t **ret_data)
{
    if (owner_page(img, mm, addr, ret_data))
        return true;

    const struct fmt_vma *vma = fmt_image_vma(img, mm, addr);
    if (!vma || (vma->kind != FMT_VMA_FILE && vma->kind != FMT_VMA_SHM))
        return false;
    return owner_page(img, backing_of(img, vma), addr - vma->start + vma->offset_bytes, ret_data);
}

bool fmt_image_read(const FmtImage *img, uint64_t mm, uint64_t addr, void *ret, size_t len)
{
    g_autofree uint8_t *copy = g_malloc(len);

    for (size_t done = 0; done < len;) {
        size_t skip = (addr + done) % FMT_PAGE_BYTES;
        size_t n = MIN(len - done, FMT_PAGE_BYTES - skip);
        const uint8_t *data;

        if (!fmt_image_page(img, mm, addr + done, &data))
            return false;
        if (data)
            memcpy(copy + done, data + skip, n);
        else
            memset(copy + done, 0, n);
        done += n;
    }
    if (len > 0)
        memcpy(ret, copy, len);
    return true;
}
