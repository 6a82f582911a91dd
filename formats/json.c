// SPDX-License-Identifier: GPL-2.0-or-later
// An image as JSON: {"head": {...}, "proc": [{...}], ..., "pages": [{...}]}.
//
// Hexadecimal values are strings, for readers whose numbers end at 2^53. Bytes, and text that is
// not UTF-8, are base64 under the field's name with _base64 behind it; such text stands there
// legibly, too.
#include <inttypes.h>
#include <string.h>

#include "formats/catalogue.h"
#include "formats/export.h"

static struct json_object *hex(uint64_t v)
{
    char text[20];

    g_snprintf(text, sizeof(text), "0x%" PRIx64, v);
    return json_object_new_string(text);
}

static void add_base64(struct json_object *to, const char *name, const void *data, size_t len)
{
    g_autofree char *key = g_strdup_printf("%s_base64", name);
    g_autofree char *text = g_base64_encode(data, len);

    json_object_object_add(to, key, json_object_new_string(text));
}

static void add_text(struct json_object *to, const char *name, const char *text)
{
    g_autofree char *valid = text ? g_utf8_make_valid(text, -1) : NULL;

    json_object_object_add(to, name, text ? json_object_new_string(valid) : NULL);
    if (text && strcmp(text, valid) != 0)
        add_base64(to, name, text, strlen(text));
}

static void add_bytes(struct json_object *to, const char *name, GBytes *bytes)
{
    gsize len = 0;
    const void *data = bytes ? g_bytes_get_data(bytes, &len) : NULL;

    if (bytes)
        add_base64(to, name, data, len);
    else
        json_object_object_add(to, name, NULL);
}

static void add_field(struct json_object *to, const struct fmt_field *f, const union fmt_value *v)
{
    switch (f->kind) {
    case FMT_FIELD_S:
        add_text(to, f->name, v->s);
        break;
    case FMT_FIELD_B:
        add_bytes(to, f->name, v->b);
        break;
    case FMT_FIELD_I:
        json_object_object_add(to, f->name, json_object_new_int64(v->i));
        break;
    case FMT_FIELD_X:
        json_object_object_add(to, f->name, hex(v->u));
        break;
    case FMT_FIELD_U:
    case FMT_FIELD_R:
    case FMT_FIELD_P:
        json_object_object_add(to, f->name, json_object_new_uint64(v->u));
        break;
    }
}

static struct json_object *record_json(const struct fmt_record *rec)
{
    const struct fmt_record_type *t = fmt_record_type(rec->type);
    struct json_object *json = json_object_new_object();

    json_object_object_add(json, "objref", json_object_new_uint64(rec->objref));
    for (size_t i = 0; i < t->n_fields; i++)
        add_field(json, &t->fields[i], fmt_record_field(rec, i));
    return json;
}

struct json_object *fmt_export_json(const FmtImage *img)
{
    struct json_object *json = json_object_new_object();
    struct json_object *pages = json_object_new_array();

    for (uint32_t type = 0; type < FMT_N_TYPES; type++) {
        if (!fmt_type_is_object(type))
            continue;

        struct json_object *list = json_object_new_array();
        for (size_t i = 0; i < fmt_image_count(img, type); i++)
            json_object_array_add(list, record_json(fmt_image_nth(img, type, i)));
        if (type == FMT_HEAD) {
            json_object_object_add(json, "head",
                                   json_object_get(json_object_array_get_idx(list, 0)));
            json_object_put(list);
        } else {
            json_object_object_add(json, fmt_record_type(type)->name, list);
        }
    }
    for (size_t i = 0; i < fmt_image_n_extents(img); i++)
        json_object_array_add(pages, record_json(&fmt_image_extent(img, i)->pages.rec));
    json_object_object_add(json, "pages", pages);
    return json;
}
