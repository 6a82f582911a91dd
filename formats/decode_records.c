// SPDX-License-Identifier: GPL-2.0-or-later
// What the decoder does with a record when its fields have come.
#include <inttypes.h>

#include "formats/catalogue.h"
#include "formats/decode-priv.h"
#include "formats/image-priv.h"

static bool charge(FmtDecoder *dec, uint64_t bytes, GError **error)
{
    dec->body_bytes += bytes;
    if (dec->body_bytes <= FMT_BODY_MAX_BYTES)
        return true;
    return decoder_fail(dec, FMT_ERROR_LIMIT, error,
                        "the records take more than the %llu bytes that an image takes",
                        FMT_BODY_MAX_BYTES);
}

static const struct blob *find_blob(FmtDecoder *dec, const struct fmt_field *f, uint64_t objref,
                                    GError **error)
{
    uint32_t want = f->kind == FMT_FIELD_S ? FMT_STRING : FMT_BYTES;
    const struct blob *blob = g_hash_table_lookup(dec->blobs, &objref);

    if (blob && blob->type == want)
        return blob;
    decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                 "its %s is said to be record %" PRIu64 ", which is no %s before it", f->name,
                 objref, fmt_record_type(want)->name);
    return NULL;
}

static bool set_field(FmtDecoder *dec, const struct fmt_field *f, union fmt_value *v, uint64_t wire,
                      GError **error)
{
    if (f->kind != FMT_FIELD_S && f->kind != FMT_FIELD_B) {
        v->u = wire;
        return true;
    }
    if (wire == 0)
        return true;

    const struct blob *blob = find_blob(dec, f, wire, error);
    if (!blob)
        return false;
    if (f->kind == FMT_FIELD_B) {
        v->b = g_bytes_ref(blob->bytes);
        return true;
    }

    gsize len;
    const char *text = g_bytes_get_data(blob->bytes, &len);
    if (!charge(dec, len + 1, error))
        return false;
    v->s = g_strndup(text ? text : "", len);
    return true;
}

static bool set_fields(FmtDecoder *dec, void *record, const GByteArray *payload, GError **error)
{
    const struct fmt_record_type *t = fmt_record_type(((struct fmt_record *)record)->type);

    if (payload->len % WIRE_FIELD_BYTES)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "%u bytes are no number of fields",
                            payload->len);
    for (size_t i = 0; i < MIN(t->n_fields, payload->len / WIRE_FIELD_BYTES); i++) {
        if (!set_field(dec, &t->fields[i], fmt_record_field(record, i),
                       wire_get64(payload->data + i * WIRE_FIELD_BYTES), error))
            return false;
    }
    return true;
}

static bool take_head(FmtDecoder *dec, GError **error)
{
    // Read again with its strings at BODY; what decides whether we can go on counts now.
    struct fmt_head *head = fmt_image_head(dec->img);

    if (dec->buf->len < 2 * WIRE_FIELD_BYTES)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "head is too short");
    head->format = wire_get64(dec->buf->data);
    head->features = wire_get64(dec->buf->data + WIRE_FIELD_BYTES);
    if (head->format == 0 || head->format > FMT_FORMAT_VERSION)
        return decoder_fail(dec, FMT_ERROR_VERSION, error,
                            "format version %" PRIu64 " is not known, only those up to %d",
                            head->format, FMT_FORMAT_VERSION);
    for (int bit = 0; bit < 64; bit++) {
        if (head->features & ~FMT_FEATURES_KNOWN & 1ull << bit)
            return decoder_fail(dec, FMT_ERROR_VERSION, error,
                                "the image needs feature bit %d, which is not known here", bit);
    }
    g_byte_array_append(dec->head, dec->buf->data, dec->buf->len);
    return true;
}

static bool take_blob(FmtDecoder *dec, GError **error)
{
    if (!charge(dec, dec->buf->len + WIRE_OVERHEAD_BYTES, error))
        return false;
    if (dec->header.type == FMT_STRING && dec->buf->len > 0 &&
        memchr(dec->buf->data, 0, dec->buf->len))
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "a string has a byte 0 in it");

    struct blob *blob = g_new(struct blob, 1);
    blob->objref = dec->header.objref;
    blob->type = dec->header.type;
    blob->bytes = g_byte_array_free_to_bytes(dec->buf);
    dec->buf = g_byte_array_new();
    g_hash_table_insert(dec->blobs, &blob->objref, blob);
    return true;
}

static bool take_object(FmtDecoder *dec, GError **error)
{
    const struct fmt_record_type *t = fmt_record_type(dec->header.type);

    if (!charge(dec, t->size_bytes + WIRE_OVERHEAD_BYTES, error))
        return false;

    struct fmt_record *rec = fmt_image_add_as(dec->img, dec->header.type, dec->header.objref);
    rec->flags = dec->header.flags;
    return set_fields(dec, rec, dec->buf, error);
}

static bool check_digest(FmtDecoder *dec, uint64_t lo, uint64_t hi, const char *what,
                         GError **error)
{
    if (dec->before.lo == lo && dec->before.hi == hi)
        return true;
    return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                        "the checksum of %s does not match: the image was altered or damaged",
                        what);
}

static bool check_count(FmtDecoder *dec, uint64_t n_records, GError **error)
{
    if (dec->n_records == n_records)
        return true;
    return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                        "%" PRIu64 " records where %" PRIu64 " are said", dec->n_records,
                        n_records);
}

static bool take_body(FmtDecoder *dec, GError **error)
{
    struct fmt_body body = {.rec.type = FMT_BODY};

    if (!set_fields(dec, &body, dec->buf, error) ||
        !check_digest(dec, body.hash_lo, body.hash_hi, "all records up to here", error) ||
        !check_count(dec, body.n_records, error) ||
        !set_fields(dec, fmt_image_head(dec->img), dec->head, error))
        return false;
    if (!fmt_check_records(dec->img, error)) {
        g_prefix_error(error, "image: ");
        return false;
    }
    g_hash_table_remove_all(dec->blobs);
    dec->extents = fmt_extent_check_new(dec->img);
    dec->body_seen = true;
    return !dec->ops.meta || dec->ops.meta(dec->img, dec->user, error);
}

static bool take_tail(FmtDecoder *dec, GError **error)
{
    struct fmt_tail tail = {.rec.type = FMT_TAIL};
    uint64_t n_pages = fmt_image_head(dec->img)->n_pages;

    if (!set_fields(dec, &tail, dec->buf, error) ||
        !check_digest(dec, tail.hash_lo, tail.hash_hi, "the whole image", error) ||
        !check_count(dec, tail.n_records, error))
        return false;
    if (dec->n_content_pages != n_pages)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                            "%" PRIu64 " pages with contents where head says %" PRIu64,
                            dec->n_content_pages, n_pages);
    return !dec->ops.end || dec->ops.end(dec->user, error);
}

// The fields of PAGES have come: finds where its contents begin.
static bool take_pages(FmtDecoder *dec, GError **error)
{
    dec->pages = (struct fmt_pages){
        .rec = {.type = FMT_PAGES, .flags = dec->header.flags, .objref = dec->header.objref}};
    dec->contents_done_bytes = 0;
    if (!set_fields(dec, &dec->pages, dec->buf, error))
        return false;
    if (!fmt_extent_check(dec->extents, &dec->pages, error)) {
        g_prefix_error(error, "image, record at byte %" PRIu64 ": ", dec->record_at_bytes);
        return false;
    }

    uint64_t rest = dec->header.length_bytes - dec->buf->len;
    uint64_t size = dec->pages.n_pages * FMT_PAGE_BYTES;
    if (!fmt_pages_has_contents(dec->pages.kind)) {
        if (rest > FIELDS_MAX_BYTES || (dec->pages.kind == FMT_PAGES_ZERO && dec->pages.hash))
            return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                                "contents with pages of a kind that has none");
        decoder_enter(dec, GAP, rest);
        return decoder_deliver(dec, NULL, size, error);
    }
    if (rest < size || rest - size > FIELDS_MAX_BYTES + FMT_PAGE_BYTES ||
        (dec->offset_bytes + rest - size) % FMT_PAGE_BYTES)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                            "a payload of %" PRIu64 " bytes does not end in %" PRIu64
                            " aligned pages",
                            dec->header.length_bytes, dec->pages.n_pages);
    fmt_hash_reset(dec->pages_hash);
    decoder_enter(dec, GAP, rest - size);
    return true;
}

bool decoder_take_fields(FmtDecoder *dec, GError **error)
{
    static bool (*const take[FMT_N_TYPES])(FmtDecoder * dec, GError * *error) = {
        [FMT_HEAD] = take_head, [FMT_STRING] = take_blob, [FMT_BYTES] = take_blob,
        [FMT_BODY] = take_body, [FMT_PAGES] = take_pages, [FMT_TAIL] = take_tail,
    };
    uint32_t type = dec->header.type;

    decoder_enter(dec, type == FMT_TAIL ? END : PAD, wire_pad(dec->header.length_bytes));
    return take[type] ? take[type](dec, error) : take_object(dec, error);
}
