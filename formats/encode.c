// SPDX-License-Identifier: GPL-2.0-or-later
// Writes an image as a stream of records.
//
// Records go out in order of type, then of addition. A string or run of bytes is written once,
// right before the first record that refers to it (right behind HEAD, for HEAD must be first), and
// gets the next objref above those of the image, as do BODY, PAGES and TAIL.
#include <inttypes.h>

#include "formats/catalogue.h"
#include "formats/check.h"
#include "formats/hash.h"
#include "formats/image-priv.h"
#include "formats/stream.h"
#include "formats/wire.h"

static const uint8_t zero_page[FMT_PAGE_BYTES];

struct encoder {
    const FmtImage *img;
    fmt_write_fn write; // NULL: only count
    void *user;
    FmtHash *hash; // NULL: only count
    uint64_t offset_bytes;
    uint64_t body_bytes; // what a reader charges to FMT_BODY_MAX_BYTES
    uint64_t n_records;
    uint64_t next_ref;
    GHashTable *strings; // char * -> boxed objref
    GHashTable *blobs;   // GBytes * -> boxed objref
    GByteArray *scratch;
};

static bool put(struct encoder *enc, const void *data, uint64_t len, GError **error)
{
    enc->offset_bytes += len;
    if (!enc->write || len == 0)
        return true;
    fmt_hash_update(enc->hash, data, len);
    return enc->write(data, len, enc->user, error);
}

static bool put_header(struct encoder *enc, const struct wire_header *h, GError **error)
{
    uint8_t bytes[WIRE_HEADER_BYTES];

    enc->n_records++;
    enc->body_bytes += WIRE_OVERHEAD_BYTES;
    wire_put_header(bytes, h);
    return put(enc, bytes, sizeof(bytes), error);
}

static bool put_blob(struct encoder *enc, enum fmt_type type, uint64_t objref, const void *data,
                     uint64_t len, GError **error)
{
    struct wire_header h = {.type = type, .length_bytes = len, .objref = objref};

    enc->body_bytes += len;
    return put_header(enc, &h, error) && put(enc, data, len, error) &&
           put(enc, zero_page, wire_pad(len), error);
}

static uint64_t *lookup_blob(struct encoder *enc, const struct fmt_field *f,
                             const union fmt_value *v)
{
    return f->kind == FMT_FIELD_S ? g_hash_table_lookup(enc->strings, v->s)
                                  : g_hash_table_lookup(enc->blobs, v->b);
}

static uint64_t remember_blob(struct encoder *enc, const struct fmt_field *f,
                              const union fmt_value *v)
{
    uint64_t *objref = g_new(uint64_t, 1);

    *objref = enc->next_ref++;
    if (f->kind == FMT_FIELD_S)
        g_hash_table_insert(enc->strings, v->s, objref);
    else
        g_hash_table_insert(enc->blobs, v->b, objref);
    return *objref;
}

static bool put_field_blob(struct encoder *enc, const struct fmt_field *f, const union fmt_value *v,
                           GError **error)
{
    gsize len;
    const void *data;

    if (f->kind == FMT_FIELD_S) {
        data = v->s;
        len = strlen(v->s);
        if (len > FMT_STRING_MAX_BYTES) {
            g_set_error(error, FMT_ERROR, FMT_ERROR_LIMIT,
                        "the text of %s has %zu bytes, more than the %llu that an image takes",
                        f->name, len, FMT_STRING_MAX_BYTES);
            return false;
        }
        return put_blob(enc, FMT_STRING, remember_blob(enc, f, v), data, len, error);
    }
    data = g_bytes_get_data(v->b, &len);
    return put_blob(enc, FMT_BYTES, remember_blob(enc, f, v), data, len, error);
}

static bool is_blob(const struct fmt_field *f, const union fmt_value *v)
{
    return (f->kind == FMT_FIELD_S && v->s) || (f->kind == FMT_FIELD_B && v->b);
}

// Writes the strings and bytes of a record that have not been written yet.
static bool put_blobs(struct encoder *enc, const struct fmt_record *rec, GError **error)
{
    const struct fmt_record_type *t = fmt_record_type(rec->type);

    for (size_t i = 0; i < t->n_fields; i++) {
        const union fmt_value *v = fmt_record_field(rec, i);

        if (is_blob(&t->fields[i], v) && !lookup_blob(enc, &t->fields[i], v) &&
            !put_field_blob(enc, &t->fields[i], v, error))
            return false;
    }
    return true;
}

static uint64_t wire_value(struct encoder *enc, const struct fmt_field *f, const union fmt_value *v)
{
    if (f->kind != FMT_FIELD_S && f->kind != FMT_FIELD_B)
        return v->u;
    return is_blob(f, v) ? *lookup_blob(enc, f, v) : 0;
}

// extra_bytes follow the fields in the payload.
static bool put_fields(struct encoder *enc, const struct fmt_record *rec, uint64_t extra_bytes,
                       GError **error)
{
    const struct fmt_record_type *t = fmt_record_type(rec->type);
    struct wire_header h = {.type = rec->type,
                            .length_bytes = t->n_fields * WIRE_FIELD_BYTES + extra_bytes,
                            .objref = rec->objref};

    g_byte_array_set_size(enc->scratch, t->n_fields * WIRE_FIELD_BYTES);
    for (size_t i = 0; i < t->n_fields; i++) {
        const union fmt_value *v = fmt_record_field(rec, i);

        wire_put64(enc->scratch->data + i * WIRE_FIELD_BYTES, wire_value(enc, &t->fields[i], v));
        if (t->fields[i].kind == FMT_FIELD_S && v->s)
            enc->body_bytes += strlen(v->s) + 1;
    }
    enc->body_bytes += t->size_bytes;
    return put_header(enc, &h, error) && put(enc, enc->scratch->data, enc->scratch->len, error);
}

static uint64_t n_content_pages(const FmtImage *img)
{
    uint64_t n = 0;

    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_extent *extent = fmt_image_extent(img, i);

        n += extent->data ? extent->pages.n_pages : 0;
    }
    return n;
}

// HEAD's strings can only follow it, so their objrefs are given out beforehand.
static bool put_head(struct encoder *enc, GError **error)
{
    struct fmt_head head = *(struct fmt_head *)fmt_image_nth(enc->img, FMT_HEAD, 0);
    const struct fmt_record_type *t = fmt_record_type(FMT_HEAD);
    g_autoptr(GPtrArray) mine = g_ptr_array_new();

    head.format = FMT_FORMAT_VERSION;
    head.n_pages = n_content_pages(enc->img);
    for (size_t i = 0; i < t->n_fields; i++) {
        const union fmt_value *v = fmt_record_field(&head, i);

        if (is_blob(&t->fields[i], v) && !lookup_blob(enc, &t->fields[i], v)) {
            remember_blob(enc, &t->fields[i], v);
            g_ptr_array_add(mine, v->s);
        }
    }
    if (!put_fields(enc, &head.rec, 0, error))
        return false;
    for (size_t i = 0; i < mine->len; i++) {
        const char *s = mine->pdata[i];
        const uint64_t *objref = g_hash_table_lookup(enc->strings, s);

        if (!put_blob(enc, FMT_STRING, *objref, s, strlen(s), error))
            return false;
    }
    return true;
}

static bool put_objects(struct encoder *enc, GError **error)
{
    struct fmt_record *rec;

    for (uint32_t type = FMT_HEAD + 1; type < FMT_N_TYPES; type++) {
        for (size_t i = 0; (rec = fmt_image_nth(enc->img, type, i)); i++) {
            if (!put_blobs(enc, rec, error) || !put_fields(enc, rec, 0, error))
                return false;
        }
    }
    if (enc->body_bytes <= FMT_BODY_MAX_BYTES)
        return true;
    g_set_error(error, FMT_ERROR, FMT_ERROR_LIMIT,
                "the records take %" PRIu64 " bytes, more than the %llu that an image takes",
                enc->body_bytes, FMT_BODY_MAX_BYTES);
    return false;
}

static struct fmt_hash128 digest(const struct encoder *enc)
{
    return enc->hash ? fmt_hash_get128(enc->hash) : (struct fmt_hash128){0};
}

static bool put_body(struct encoder *enc, GError **error)
{
    struct fmt_hash128 hash = digest(enc);
    struct fmt_body body = {.rec = {.type = FMT_BODY, .objref = enc->next_ref++},
                            .n_records = enc->n_records + 1,
                            .hash_lo = hash.lo,
                            .hash_hi = hash.hi};

    return put_fields(enc, &body.rec, 0, error);
}

static bool put_tail(struct encoder *enc, GError **error)
{
    struct fmt_hash128 hash = digest(enc);
    struct fmt_tail tail = {.rec = {.type = FMT_TAIL, .objref = enc->next_ref++},
                            .n_records = enc->n_records + 1,
                            .hash_lo = hash.lo,
                            .hash_hi = hash.hi};

    return put_fields(enc, &tail.rec, 0, error);
}

static bool put_extent(struct encoder *enc, const struct fmt_extent *extent, GError **error)
{
    struct fmt_pages pages = extent->pages;
    uint64_t fields = fmt_record_type(FMT_PAGES)->n_fields * WIRE_FIELD_BYTES;
    uint64_t contents = extent->data ? pages.n_pages * FMT_PAGE_BYTES : 0;
    uint64_t gap =
        contents ? -(enc->offset_bytes + WIRE_HEADER_BYTES + fields) % FMT_PAGE_BYTES : 0;

    pages.rec = (struct fmt_record){.type = FMT_PAGES, .objref = enc->next_ref++};
    if (contents)
        pages.hash = enc->hash ? fmt_hash64(extent->data, contents) : 0;
    else if (pages.kind == FMT_PAGES_ZERO)
        pages.hash = 0;
    return put_fields(enc, &pages.rec, gap + contents, error) && put(enc, zero_page, gap, error) &&
           put(enc, extent->data, contents, error);
}

static bool put_extents(struct encoder *enc, GError **error)
{
    g_autoptr(FmtExtentCheck) check = fmt_extent_check_new(enc->img);

    for (size_t i = 0; i < fmt_image_n_extents(enc->img); i++) {
        const struct fmt_extent *extent = fmt_image_extent(enc->img, i);

        if (!fmt_extent_check(check, &extent->pages, error) || !put_extent(enc, extent, error))
            return false;
    }
    return true;
}

static bool encode(struct encoder *enc, GError **error)
{
    if (!put(enc, FMT_MAGIC, WIRE_MAGIC_BYTES, error) || !put_head(enc, error) ||
        !put_objects(enc, error) || !put_body(enc, error) || !put_extents(enc, error))
        return false;
    return put_tail(enc, error);
}

static bool run(const FmtImage *img, fmt_write_fn write, void *user, uint64_t *ret_size,
                GError **error)
{
    struct encoder enc = {
        .img = img,
        .write = write,
        .user = user,
        .next_ref = fmt_image_next_ref(img),
        .strings = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free),
        .blobs = g_hash_table_new_full(g_bytes_hash, g_bytes_equal, NULL, g_free),
        .scratch = g_byte_array_new(),
    };

    if (write)
        enc.hash = fmt_hash_new();

    bool ok = fmt_check_records(img, error) && encode(&enc, error);

    fmt_hash_free(enc.hash);
    g_hash_table_unref(enc.strings);
    g_hash_table_unref(enc.blobs);
    g_byte_array_unref(enc.scratch);
    if (ok && ret_size)
        *ret_size = enc.offset_bytes;
    return ok;
}

uint64_t fmt_encoded_size(const FmtImage *img)
{
    uint64_t size = 0;

    return run(img, NULL, NULL, &size, NULL) ? size : 0;
}

bool fmt_encode(const FmtImage *img, fmt_write_fn write, void *user, GError **error)
{
    return run(img, write, user, NULL, error);
}
