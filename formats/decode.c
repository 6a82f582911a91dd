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
#include <xxhash.h>

#include "formats/catalogue.h"
#include "formats/check.h"
#include "formats/image-priv.h"
#include "formats/stream.h"
#include "formats/wire.h"

// Longest payload of a record that is neither STRING nor BYTES: room for fields of later versions.
#define FIELDS_MAX_BYTES 65536u

enum state { MAGIC, HEADER, FIELDS, GAP, CONTENTS, PAD, END, FAILED };

// A STRING or BYTES record until BODY.
struct blob {
    uint64_t objref;
    uint32_t type;
    GBytes *bytes;
};

struct FmtDecoder {
    struct fmt_decoder_ops ops;
    void *user;
    FmtImage *img;
    bool body_seen;
    GHashTable *blobs; // objref -> struct blob, until BODY
    FmtExtentCheck *extents;

    enum state state;
    uint64_t left;            // bytes until the state is done
    uint64_t offset_bytes;    // of the stream, taken so far
    uint64_t record_at_bytes; // offset of the current record
    GByteArray *buf;          // bytes of the current header or fields
    struct wire_header header;

    GByteArray *head; // HEAD's payload, kept until its strings have come
    uint64_t n_records;
    uint64_t body_bytes; // memory that the records take
    uint64_t last_ref;   // behind BODY each objref is one more than that before it
    XXH3_state_t *hash;
    XXH128_hash_t before; // digest of all before a BODY or TAIL record

    struct fmt_pages pages; // the current extent
    uint64_t contents_done_bytes;
    uint64_t n_content_pages;
    XXH3_state_t *pages_hash;
    uint8_t page[FMT_PAGE_BYTES]; // a page that comes in pieces
    size_t page_fill;
};

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
    dec->hash = XXH3_createState();
    XXH3_128bits_reset(dec->hash);
    dec->pages_hash = XXH3_createState();
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
    XXH3_freeState(dec->hash);
    XXH3_freeState(dec->pages_hash);
    g_free(dec);
}

FmtImage *fmt_decoder_image(FmtDecoder *dec)
{
    return dec->body_seen ? dec->img : NULL;
}

static bool fail(FmtDecoder *dec, enum fmt_error code, GError **error, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

static bool fail(FmtDecoder *dec, enum fmt_error code, GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_propagate_error(error, g_error_new_valist(FMT_ERROR, code, format, args));
    va_end(args);
    g_prefix_error(error, "image, record at byte %" PRIu64 ": ", dec->record_at_bytes);
    return false;
}

static const char *record_name(const FmtDecoder *dec)
{
    const struct fmt_record_type *t = fmt_record_type(dec->header.type);

    return t ? t->name : "unknown";
}

static void enter(FmtDecoder *dec, enum state state, uint64_t left)
{
    dec->state = state;
    dec->left = left;
}

static bool charge(FmtDecoder *dec, uint64_t bytes, GError **error)
{
    dec->body_bytes += bytes;
    if (dec->body_bytes <= FMT_BODY_MAX_BYTES)
        return true;
    return fail(dec, FMT_ERROR_LIMIT, error,
                "the records take more than the %llu bytes that an image takes",
                FMT_BODY_MAX_BYTES);
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
    enter(dec, HEADER, WIRE_HEADER_BYTES);
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
        return fail(dec, FMT_ERROR_CORRUPT, error, "objref 0x%" PRIx64 " is not valid", objref);
    if (dec->body_seen ? objref != dec->last_ref + 1 : objref_taken(dec, objref))
        return fail(dec, FMT_ERROR_CORRUPT, error,
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
        return fail(dec, FMT_ERROR_VERSION, error,
                    "records of type %" PRIu32
                    " are not known: the image comes from a later vmgraft",
                    type);
    // No type that is known here is optional.
    if (dec->header.flags & ~(known ? 0u : FMT_RECORD_OPTIONAL))
        return fail(dec, FMT_ERROR_VERSION, error,
                    "record flags 0x%" PRIx32
                    " are not known: the image comes from a later vmgraft",
                    dec->header.flags);
    if ((type == FMT_HEAD) != (dec->n_records == 0))
        return fail(dec, FMT_ERROR_CORRUPT, error, "record %" PRIu64 " is of type %s",
                    dec->n_records, record_name(dec));
    if (known && late != dec->body_seen)
        return fail(dec, FMT_ERROR_CORRUPT, error, "a record of type %s %s body", record_name(dec),
                    late ? "before" : "after");
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
    return fail(dec, FMT_ERROR_LIMIT, error,
                "%" PRIu64 " bytes are too many for a record of type %s", len, record_name(dec));
}

static bool header_done(FmtDecoder *dec, GError **error)
{
    dec->header = wire_get_header(dec->buf->data);
    if (!check_order(dec, error) || !check_objref(dec, error) || !check_length(dec, error))
        return false;
    dec->n_records++;
    if (dec->header.type == FMT_BODY || dec->header.type == FMT_TAIL)
        dec->before = XXH3_128bits_digest(dec->hash);
    XXH3_128bits_update(dec->hash, dec->buf->data, dec->buf->len);
    g_byte_array_set_size(dec->buf, 0);

    uint64_t keep = dec->header.length_bytes;
    if (!fmt_record_type(dec->header.type))
        enter(dec, GAP, keep);
    else if (dec->header.type == FMT_PAGES)
        enter(dec, FIELDS, MIN(keep, fmt_record_type(FMT_PAGES)->n_fields * WIRE_FIELD_BYTES));
    else
        enter(dec, FIELDS, keep);
    return true;
}

static const struct blob *find_blob(FmtDecoder *dec, const struct fmt_field *f, uint64_t objref,
                                    GError **error)
{
    uint32_t want = f->kind == FMT_FIELD_S ? FMT_STRING : FMT_BYTES;
    const struct blob *blob = g_hash_table_lookup(dec->blobs, &objref);

    if (blob && blob->type == want)
        return blob;
    fail(dec, FMT_ERROR_CORRUPT, error,
         "its %s is said to be record %" PRIu64 ", which is no %s before it", f->name, objref,
         fmt_record_type(want)->name);
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
        return fail(dec, FMT_ERROR_CORRUPT, error, "%u bytes are no number of fields",
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
        return fail(dec, FMT_ERROR_CORRUPT, error, "head is too short");
    head->format = wire_get64(dec->buf->data);
    head->features = wire_get64(dec->buf->data + WIRE_FIELD_BYTES);
    if (head->format == 0 || head->format > FMT_FORMAT_VERSION)
        return fail(dec, FMT_ERROR_VERSION, error,
                    "format version %" PRIu64 " is not known, only those up to %d", head->format,
                    FMT_FORMAT_VERSION);
    for (int bit = 0; bit < 64; bit++) {
        if (head->features & ~FMT_FEATURES_KNOWN & 1ull << bit)
            return fail(dec, FMT_ERROR_VERSION, error,
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
        return fail(dec, FMT_ERROR_CORRUPT, error, "a string has a byte 0 in it");

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
    if (dec->before.low64 == lo && dec->before.high64 == hi)
        return true;
    return fail(dec, FMT_ERROR_CORRUPT, error,
                "the checksum of %s does not match: the image was altered or damaged", what);
}

static bool check_count(FmtDecoder *dec, uint64_t n_records, GError **error)
{
    if (dec->n_records == n_records)
        return true;
    return fail(dec, FMT_ERROR_CORRUPT, error, "%" PRIu64 " records where %" PRIu64 " are said",
                dec->n_records, n_records);
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
        return fail(dec, FMT_ERROR_CORRUPT, error,
                    "%" PRIu64 " pages with contents where head says %" PRIu64,
                    dec->n_content_pages, n_pages);
    return !dec->ops.end || dec->ops.end(dec->user, error);
}

static bool deliver(FmtDecoder *dec, const void *data, uint64_t size_bytes, GError **error)
{
    if (dec->ops.pages &&
        !dec->ops.pages(&dec->pages, dec->contents_done_bytes, data, size_bytes, dec->user, error))
        return false;
    dec->contents_done_bytes += size_bytes;
    return true;
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
    if (dec->pages.kind == FMT_PAGES_ZERO) {
        if (rest > FIELDS_MAX_BYTES || dec->pages.hash)
            return fail(dec, FMT_ERROR_CORRUPT, error, "pages of zeros with contents");
        enter(dec, GAP, rest);
        return deliver(dec, NULL, size, error);
    }
    if (rest < size || rest - size > FIELDS_MAX_BYTES + FMT_PAGE_BYTES ||
        (dec->offset_bytes + rest - size) % FMT_PAGE_BYTES)
        return fail(dec, FMT_ERROR_CORRUPT, error,
                    "a payload of %" PRIu64 " bytes does not end in %" PRIu64 " aligned pages",
                    dec->header.length_bytes, dec->pages.n_pages);
    XXH3_64bits_reset(dec->pages_hash);
    enter(dec, GAP, rest - size);
    return true;
}

static bool fields_done(FmtDecoder *dec, GError **error)
{
    static bool (*const take[FMT_N_TYPES])(FmtDecoder * dec, GError * *error) = {
        [FMT_HEAD] = take_head, [FMT_STRING] = take_blob, [FMT_BYTES] = take_blob,
        [FMT_BODY] = take_body, [FMT_PAGES] = take_pages, [FMT_TAIL] = take_tail,
    };
    uint32_t type = dec->header.type;

    enter(dec, type == FMT_TAIL ? END : PAD, wire_pad(dec->header.length_bytes));
    return take[type] ? take[type](dec, error) : take_object(dec, error);
}

static bool gap_done(FmtDecoder *dec, GError **error)
{
    if (dec->header.type == FMT_PAGES && dec->pages.kind != FMT_PAGES_ZERO)
        enter(dec, CONTENTS, dec->pages.n_pages * FMT_PAGE_BYTES);
    else
        enter(dec, PAD, wire_pad(dec->header.length_bytes));
    return true;
}

static bool contents_done(FmtDecoder *dec, GError **error)
{
    if (XXH3_64bits_digest(dec->pages_hash) != dec->pages.hash)
        return fail(dec, FMT_ERROR_CORRUPT, error,
                    "the checksum of the pages at 0x%" PRIx64
                    " does not match: the image was altered or damaged",
                    dec->pages.start);
    dec->n_content_pages += dec->pages.n_pages;
    enter(dec, PAD, wire_pad(dec->header.length_bytes));
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
        XXH3_64bits_update(dec->pages_hash, data, whole);
        *ret_taken = whole;
        return deliver(dec, data, whole, error);
    }
    *ret_taken = MIN(len, FMT_PAGE_BYTES - dec->page_fill);
    memcpy(dec->page + dec->page_fill, data, *ret_taken);
    dec->page_fill += *ret_taken;
    if (dec->page_fill < FMT_PAGE_BYTES)
        return true;
    dec->page_fill = 0;
    XXH3_64bits_update(dec->pages_hash, dec->page, FMT_PAGE_BYTES);
    return deliver(dec, dec->page, FMT_PAGE_BYTES, error);
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
        XXH3_128bits_update(dec->hash, data, *ret_taken);
    dec->offset_bytes += *ret_taken;
    dec->left -= *ret_taken;
    return true;
}

// Passes all states that want no more bytes.
static bool advance(FmtDecoder *dec, GError **error)
{
    static bool (*const done[])(FmtDecoder * dec, GError * *error) = {
        [MAGIC] = magic_done, [HEADER] = header_done,     [FIELDS] = fields_done,
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
            return fail(dec, FMT_ERROR_CORRUPT, error, "more bytes follow the end of the image");
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
        return fail(dec, FMT_ERROR_CORRUPT, error, "the image was refused before");
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
        return fail(dec, FMT_ERROR_CORRUPT, error, "the image was refused before");
    if (dec->state == MAGIC && dec->offset_bytes > 0 && !magic_fits(dec))
        return foreign(error);
    g_set_error(error, FMT_ERROR, FMT_ERROR_TRUNCATED,
                "the image is cut off at byte %" PRIu64 " of at least %" PRIu64, dec->offset_bytes,
                dec->offset_bytes + dec->left);
    return false;
}
