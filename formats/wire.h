// SPDX-License-Identifier: GPL-2.0-or-later
// Bytes that encoder and decoder have in common.
#pragma once

#include <glib.h>
#include <stdint.h>
#include <string.h>

#define WIRE_MAGIC_BYTES  8u
#define WIRE_HEADER_BYTES 24u
#define WIRE_FIELD_BYTES  8u

// What a record costs a reader beside its structure, strings and bytes.
#define WIRE_OVERHEAD_BYTES 64u

struct wire_header {
    uint32_t type;
    uint32_t flags;
    uint64_t length_bytes; // of the payload, without the zeros that align the next record to 8
    uint64_t objref;
};

static inline uint64_t wire_pad(uint64_t length_bytes)
{
    return -length_bytes & 7;
}

static inline void wire_put64(uint8_t *to, uint64_t v)
{
    v = GUINT64_TO_LE(v);
    memcpy(to, &v, sizeof(v));
}

static inline uint64_t wire_get64(const uint8_t *from)
{
    uint64_t v;

    memcpy(&v, from, sizeof(v));
    return GUINT64_FROM_LE(v);
}

static inline void wire_put_header(uint8_t *to, const struct wire_header *h)
{
    wire_put64(to, h->type | (uint64_t)h->flags << 32);
    wire_put64(to + 8, h->length_bytes);
    wire_put64(to + 16, h->objref);
}

static inline struct wire_header wire_get_header(const uint8_t *from)
{
    uint64_t first = wire_get64(from);

    return (struct wire_header){
        .type = (uint32_t)first,
        .flags = (uint32_t)(first >> 32),
        .length_bytes = wire_get64(from + 8),
        .objref = wire_get64(from + 16),
    };
}
