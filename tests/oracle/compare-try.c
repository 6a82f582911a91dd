// SPDX-License-Identifier: GPL-2.0-or-later
// Whether image-compare would notice: a comparison that finds nothing should be able to.

#include <stdio.h>
#include <string.h>

#include "formats/catalogue.h"
#include "tests/oracle/image-compare.h"

#define FLIP (1ull << 41) // more than any tolerance of a time

static GBytes *spoiled_bytes(GBytes *bytes)
{
    gsize len = 0;
    const uint8_t *data = bytes ? g_bytes_get_data(bytes, &len) : NULL;

    if (len == 0)
        return g_bytes_new("x", 1);
    uint8_t *copy = g_memdup2(data, len);

    copy[0] ^= 1;
    return g_bytes_new_take(copy, len);
}

static bool is_noticed(struct compare *c)
{
    compare_images(c);
    return c->n_differences > 0;
}

// Spoils one field, looks, puts it back.
static bool try_field(struct compare *c, const struct fmt_field *f, union fmt_value *value)
{
    const union fmt_value kept = *value;
    g_autoptr(GBytes) bytes = NULL;
    char text[] = "spoiled";

    switch (f->kind) {
    case FMT_FIELD_S:
        value->s = text;
        break;
    case FMT_FIELD_B:
        value->b = bytes = spoiled_bytes(kept.b);
        break;
    case FMT_FIELD_R:
    case FMT_FIELD_P:
        value->u = 0;
        break;
    default:
        value->u ^= FLIP;
    }
    const bool noticed = is_noticed(c);

    *value = kept;
    return noticed;
}

static bool is_tried(const void *rec, const struct fmt_field *f, const union fmt_value *value)
{
    const enum fmt_type type = ((const struct fmt_record *)rec)->type;

    if (type == FMT_TASK && g_str_has_prefix(f->name, "restart_"))
        return ((const struct fmt_task *)rec)->restart == FMT_RESTART_NANOSLEEP;
    return !compare_is_owner(type, f->name) && !compare_is_passed_over(type, f->name) &&
           (f->kind != FMT_FIELD_R || value->u);
}

// Of all records of a type each field must be noticed somewhere: most are looked at in some
// circumstances only.
static bool try_type(struct compare *c, enum fmt_type type)
{
    const struct fmt_record_type *t = fmt_record_type(type);
    const size_t n = MIN(fmt_image_count(c->a, type), 50);
    bool ok = true;

    for (size_t i = 0; i < t->n_fields; i++) {
        bool tried = false, noticed = false;

        for (size_t j = 0; j < n && !noticed; j++) {
            void *rec = fmt_image_nth(c->a, type, j);
            union fmt_value *value = fmt_record_field(rec, i);
            if (is_tried(rec, &t->fields[i], value)) {
                tried = true;
                noticed = try_field(c, &t->fields[i], value);
            }
        }
        if (tried && !noticed)
            printf("%s.%s: nobody would notice\n", t->name, t->fields[i].name);
        ok &= !tried || noticed;
    }
    return ok;
}

static bool try_page(struct compare *c, struct fmt_extent *e)
{
    const uint8_t *kept = e->data;
    uint8_t *copy = g_memdup2(kept, e->pages.n_pages * FMT_PAGE_BYTES);

    // The end of a page may be a struct rseq, which is passed over.
    copy[(e->pages.n_pages - 1) * FMT_PAGE_BYTES] ^= 1;
    e->data = copy;
    const bool noticed = is_noticed(c);

    e->data = kept;
    g_free(copy);
    return noticed;
}

bool compare_try(struct compare *c)
{
    const size_t n = fmt_image_n_extents(c->a);
    bool ok = true;

    c->quiet = c->no_pages = true;
    for (unsigned type = 1; type < FMT_N_TYPES; type++)
        if (fmt_type_is_object(type) && type != FMT_HEAD && type != FMT_NOTE)
            ok &= try_type(c, type);
    c->no_pages = false;
    for (size_t i = 0; i < n; i += n / 20 + 1) {
        struct fmt_extent *e = fmt_image_extent(c->a, i);
        if (e->data && e->pages.kind == FMT_PAGES_DATA && !try_page(c, e)) {
            printf("pages at %#lx: nobody would notice\n", e->pages.start);
            ok = false;
        }
    }
    return ok;
}
