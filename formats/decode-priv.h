// SPDX-License-Identifier: GPL-2.0-or-later
// The decoder's state, shared by the states of the stream (decode.c) and the records
// (decode_records.c).
#pragma once

#include "formats/check.h"
#include "formats/hash.h"
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
    FmtHash *hash;
    struct fmt_hash128 before; // digest of all before a BODY or TAIL record

    struct fmt_pages pages; // the current extent
    uint64_t contents_done_bytes;
    uint64_t n_content_pages;
    FmtHash *pages_hash;
    uint8_t page[FMT_PAGE_BYTES]; // a page that comes in pieces
    size_t page_fill;
};

// Sets an error with the offset of the current record. Returns false.
bool decoder_fail(FmtDecoder *dec, enum fmt_error code, GError **error, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

// Takes what came for FIELDS of the current record and says, for PAGES, what comes next.
bool decoder_take_fields(FmtDecoder *dec, GError **error);

// Hands contents of the current extent to the user.
bool decoder_deliver(FmtDecoder *dec, const void *data, uint64_t size_bytes, GError **error);

static inline void decoder_enter(FmtDecoder *dec, enum state state, uint64_t left)
{
    dec->state = state;
    dec->left = left;
}
