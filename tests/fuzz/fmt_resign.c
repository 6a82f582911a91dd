// SPDX-License-Identifier: GPL-2.0-or-later
// Puts the checksums of a changed image right, so that a fuzzer gets past them.
#include "fmt_resign.h"

#include "formats/hash.h"
#include "formats/records.h"
#include "formats/wire.h"

// The place of a record's field in its payload.
#define AT(name, field) (offsetof(struct fmt_##name, field) - sizeof(struct fmt_record))

static void sign_pages(uint8_t *payload, size_t len)
{
    uint64_t contents =
        len >= AT(pages, hash) + 8 ? wire_get64(payload + AT(pages, n_pages)) * 4096 : 0;

    if (contents > 0 && contents <= len - (AT(pages, hash) + 8))
        wire_put64(payload + AT(pages, hash), fmt_hash64(payload + len - contents, contents));
}

static void sign_all(uint8_t *payload, size_t len, struct fmt_hash128 hash)
{
    G_STATIC_ASSERT(AT(body, hash_lo) == AT(tail, hash_lo));
    if (len < AT(body, hash_hi) + 8)
        return;
    wire_put64(payload + AT(body, hash_lo), hash.lo);
    wire_put64(payload + AT(body, hash_hi), hash.hi);
}

void fmt_resign(uint8_t *data, size_t size)
{
    size_t at = WIRE_MAGIC_BYTES;

    while (at <= size && size - at >= WIRE_HEADER_BYTES) {
        struct wire_header h = wire_get_header(data + at);
        uint8_t *payload = data + at + WIRE_HEADER_BYTES;
        size_t room = size - at - WIRE_HEADER_BYTES;

        if (h.length_bytes > room)
            return;
        if (h.type == FMT_PAGES)
            sign_pages(payload, h.length_bytes);
        else if (h.type == FMT_BODY || h.type == FMT_TAIL)
            sign_all(payload, h.length_bytes, fmt_hash128(data, at));
        at += WIRE_HEADER_BYTES + h.length_bytes + wire_pad(h.length_bytes);
    }
}
