// SPDX-License-Identifier: GPL-2.0-or-later
// Reads an image from a stream that comes in pieces of any size.
//
//            .--------------- next record ----------------.
//            v                                            |
//   MAGIC -> HEADER -> FIELDS -> GAP -> CONTENTS -> PAD --+-> END
//
// Each state wants a number of bytes (`left`) and has one function that is called when they have
// come; a state that wants none is passed at once. FIELDS collects what is kept in memory: all of
// a record, or the fields of PAGES. GAP passes over zeros before contents, or over an optional
// record of a later version. Nothing that the stream says is allocated before as many bytes have
// come; what records take in all is limited by FMT_BODY_MAX_BYTES.
#include <inttypes.h>

#include "formats/catalogue.h"
#include "formats/decode-priv.h"

static void blob_free(void *data)
{
    struct blob *blob = data;

    g_bytes_unref(blob->bytes);
    g_free(blob);
}

FmtDecoder *fmt_decoder_new(const struct fmt_decoder_ops *ops, void *user)
{
    FmtDecoder *dec = g_new0(FmtDecoder, 1);

    dec->ops = *ops;
    dec->user = user;
    dec->img = fmt_image_new();
    dec->blobs = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, blob_free);
    dec->buf = g_byte_array_new();
    dec->head = g_byte_array_new();
    dec->state = MAGIC;
    dec->left = WIRE_MAGIC_BYTES;
    dec->hash = fmt_hash_new();
    dec->pages_hash = fmt_hash_new();
    return dec;
}

void fmt_decoder_free(FmtDecoder *dec)
{
    if (!dec)
        return;
    fmt_extent_check_free(dec->extents);
    fmt_image_unref(dec->img);
    g_hash_table_unref(dec->blobs);
    g_byte_array_unref(dec->buf);
    g_byte_array_unref(dec->head);
    fmt_hash_free(dec->hash);
    fmt_hash_free(dec->pages_hash);
    g_free(dec);
}

FmtImage *fmt_decoder_image(FmtDecoder *dec)
{
    return dec->body_seen ? dec->img : NULL;
}

static const char *record_name(const FmtDecoder *dec)
{
    const struct fmt_record_type *t = fmt_record_type(dec->header.type);

    return t ? t->name : "unknown";
}

// Whether the stream is a vmgraft image as far as it goes.
static bool magic_fits(const FmtDecoder *dec)
{
    return memcmp(dec->buf->data, FMT_MAGIC, dec->buf->len) == 0;
}

static bool foreign(GError **error)
{
    g_set_error(error, FMT_ERROR, FMT_ERROR_FOREIGN, "this is not a vmgraft image");
    return false;
}

static void next_record(FmtDecoder *dec)
{
    dec->record_at_bytes = dec->offset_bytes;
    g_byte_array_set_size(dec->buf, 0);
    decoder_enter(dec, HEADER, WIRE_HEADER_BYTES);
}

static bool magic_done(FmtDecoder *dec, GError **error)
{
    if (!magic_fits(dec))
        return foreign(error);
    next_record(dec);
    return true;
}

static bool objref_taken(const FmtDecoder *dec, uint64_t objref)
{
    // The decoder's image has its HEAD from the start, with the same objref as every other's.
    return g_hash_table_contains(dec->blobs, &objref) ||
           (fmt_image_by_ref(dec->img, objref, FMT_ANY) && dec->header.type != FMT_HEAD);
}

static bool check_objref(FmtDecoder *dec, GError **error)
{
    uint64_t objref = dec->header.objref;

    // The top is left free so that a reader can add records to what it read.
    if (objref == 0 || objref > INT64_MAX || (dec->header.type == FMT_HEAD && objref != 1))
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "objref 0x%" PRIx64 " is not valid",
                            objref);
    if (dec->body_seen ? objref != dec->last_ref + 1 : objref_taken(dec, objref))
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                            "objref %" PRIu64 " is there twice or out of order", objref);
    dec->last_ref = MAX(dec->last_ref, objref);
    return true;
}

// Which records may stand where.
static bool check_order(FmtDecoder *dec, GError **error)
{
    uint32_t type = dec->header.type;
    bool known = fmt_record_type(type);
    bool late = type == FMT_PAGES || type == FMT_TAIL;

    if (!known && !(dec->header.flags & FMT_RECORD_OPTIONAL))
        return decoder_fail(dec, FMT_ERROR_VERSION, error,
                            "records of type %" PRIu32
                            " are not known: the image comes from a later vmgraft",
                            type);
    // No type that is known here is optional.
    if (dec->header.flags & ~(known ? 0u : FMT_RECORD_OPTIONAL))
        return decoder_fail(dec, FMT_ERROR_VERSION, error,
                            "record flags 0x%" PRIx32
                            " are not known: the image comes from a later vmgraft",
                            dec->header.flags);
    if ((type == FMT_HEAD) != (dec->n_records == 0))
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "record %" PRIu64 " is of type %s",
                            dec->n_records, record_name(dec));
    if (known && late != dec->body_seen)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "a record of type %s %s body",
                            record_name(dec), late ? "before" : "after");
    return true;
}

static bool check_length(FmtDecoder *dec, GError **error)
{
    uint64_t len = dec->header.length_bytes;
    uint64_t max = dec->header.type == FMT_STRING  ? FMT_STRING_MAX_BYTES
                   : dec->header.type == FMT_BYTES ? FMT_BODY_MAX_BYTES
                   : dec->header.type == FMT_PAGES ? INT64_MAX
                                                   : FIELDS_MAX_BYTES;

    if (!fmt_record_type(dec->header.type))
        max = INT64_MAX;
    if (len <= max)
        return true;
    return decoder_fail(dec, FMT_ERROR_LIMIT, error,
                        "%" PRIu64 " bytes are too many for a record of type %s", len,
                        record_name(dec));
}

static bool header_done(FmtDecoder *dec, GError **error)
{
    dec->header = wire_get_header(dec->buf->data);
    if (!check_order(dec, error) || !check_objref(dec, error) || !check_length(dec, error))
        return false;
    dec->n_records++;
    if (dec->header.type == FMT_BODY || dec->header.type == FMT_TAIL)
        dec->before = fmt_hash_get128(dec->hash);
    fmt_hash_update(dec->hash, dec->buf->data, dec->buf->len);
    g_byte_array_set_size(dec->buf, 0);

    uint64_t keep = dec->header.length_bytes;
    if (!fmt_record_type(dec->header.type))
        decoder_enter(dec, GAP, keep);
    else if (dec->header.type == FMT_PAGES)
        decoder_enter(dec, FIELDS,
                      MIN(keep, fmt_record_type(FMT_PAGES)->n_fields * WIRE_FIELD_BYTES));
    else
        decoder_enter(dec, FIELDS, keep);
    return true;
}

bool decoder_fail(FmtDecoder *dec, enum fmt_error code, GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_propagate_error(error, g_error_new_valist(FMT_ERROR, code, format, args));
    va_end(args);
    g_prefix_error(error, "image, record at byte %" PRIu64 ": ", dec->record_at_bytes);
    return false;
}

bool decoder_deliver(FmtDecoder *dec, const void *data, uint64_t size_bytes, GError **error)
{
    if (dec->ops.pages &&
        !dec->ops.pages(&dec->pages, dec->contents_done_bytes, data, size_bytes, dec->user, error))
        return false;
    dec->contents_done_bytes += size_bytes;
    return true;
}

static bool gap_done(FmtDecoder *dec, GError **error)
{
    if (dec->header.type == FMT_PAGES && fmt_pages_has_contents(dec->pages.kind))
        decoder_enter(dec, CONTENTS, dec->pages.n_pages * FMT_PAGE_BYTES);
    else
        decoder_enter(dec, PAD, wire_pad(dec->header.length_bytes));
    return true;
}

static bool contents_done(FmtDecoder *dec, GError **error)
{
    if (fmt_hash_get64(dec->pages_hash) != dec->pages.hash)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                            "the checksum of the pages at 0x%" PRIx64
                            " does not match: the image was altered or damaged",
                            dec->pages.start);
    dec->n_content_pages += dec->pages.n_pages;
    decoder_enter(dec, PAD, wire_pad(dec->header.length_bytes));
    return true;
}

static bool pad_done(FmtDecoder *dec, GError **error)
{
    next_record(dec);
    return true;
}

// Hands on whole pages, as many at a time as there are.
static bool take_contents(FmtDecoder *dec, const uint8_t *data, size_t len, size_t *ret_taken,
                          GError **error)
{
    size_t whole = len - len % FMT_PAGE_BYTES;

    if (dec->page_fill == 0 && whole > 0) {
        fmt_hash_update(dec->pages_hash, data, whole);
        *ret_taken = whole;
        return decoder_deliver(dec, data, whole, error);
    }
    *ret_taken = MIN(len, FMT_PAGE_BYTES - dec->page_fill);
    memcpy(dec->page + dec->page_fill, data, *ret_taken);
    dec->page_fill += *ret_taken;
    if (dec->page_fill < FMT_PAGE_BYTES)
        return true;
    dec->page_fill = 0;
    fmt_hash_update(dec->pages_hash, dec->page, FMT_PAGE_BYTES);
    return decoder_deliver(dec, dec->page, FMT_PAGE_BYTES, error);
}

// Takes some of the bytes that the state wants.
static bool take(FmtDecoder *dec, const uint8_t *data, size_t len, size_t *ret_taken,
                 GError **error)
{
    *ret_taken = len;
    if (dec->state == CONTENTS && !take_contents(dec, data, len, ret_taken, error))
        return false;
    if (dec->state == MAGIC || dec->state == HEADER || dec->state == FIELDS)
        g_byte_array_append(dec->buf, data, len);
    // A header counts once it is known not to be TAIL's.
    if (dec->state != HEADER)
        fmt_hash_update(dec->hash, data, *ret_taken);
    dec->offset_bytes += *ret_taken;
    dec->left -= *ret_taken;
    return true;
}

// Passes all states that want no more bytes.
static bool advance(FmtDecoder *dec, GError **error)
{
    static bool (*const done[])(FmtDecoder * dec, GError * *error) = {
        [MAGIC] = magic_done, [HEADER] = header_done,     [FIELDS] = decoder_take_fields,
        [GAP] = gap_done,     [CONTENTS] = contents_done, [PAD] = pad_done,
    };

    while (dec->left == 0 && dec->state != END) {
        if (!done[dec->state](dec, error))
            return false;
    }
    return true;
}

static bool feed(FmtDecoder *dec, const uint8_t *data, size_t len, GError **error)
{
    while (len > 0) {
        size_t taken;

        if (dec->state == END)
            return decoder_fail(dec, FMT_ERROR_CORRUPT, error,
                                "more bytes follow the end of the image");
        if (!take(dec, data, MIN(len, dec->left), &taken, error) || !advance(dec, error))
            return false;
        data += taken;
        len -= taken;
    }
    return true;
}

bool fmt_decoder_feed(FmtDecoder *dec, const void *data, size_t len, GError **error)
{
    if (dec->state == FAILED)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "the image was refused before");
    if (feed(dec, data, len, error))
        return true;
    dec->state = FAILED;
    return false;
}

bool fmt_decoder_finish(FmtDecoder *dec, GError **error)
{
    if (dec->state == END)
        return true;
    if (dec->state == FAILED)
        return decoder_fail(dec, FMT_ERROR_CORRUPT, error, "the image was refused before");
    if (dec->state == MAGIC && dec->offset_bytes > 0 && !magic_fits(dec))
        return foreign(error);
    g_set_error(error, FMT_ERROR, FMT_ERROR_TRUNCATED,
                "the image is cut off at byte %" PRIu64 " of at least %" PRIu64, dec->offset_bytes,
                dec->offset_bytes + dec->left);
    return false;
}
