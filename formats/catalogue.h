// SPDX-License-Identifier: GPL-2.0-or-later
// The records of an image as data: what the encoder, the decoder and the exporters walk.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "formats/records.h"

enum fmt_field_kind {
    FMT_FIELD_U, // uint64_t, decimal
    FMT_FIELD_I, // int64_t
    FMT_FIELD_X, // uint64_t, hexadecimal
    FMT_FIELD_S, // char *
    FMT_FIELD_B, // GBytes *
    FMT_FIELD_R, // uint64_t objref, 0 for none
    FMT_FIELD_P, // uint64_t objref, never 0
};

struct fmt_field {
    const char *name; // NULL ends the list
    enum fmt_field_kind kind;
    enum fmt_type to; // of R and P; FMT_ANY where several may be
    const char *doc;  // may be empty
};

struct fmt_record_type {
    const char *name; // as in records.def, lower case
    const char *doc;
    size_t size_bytes; // of the structure
    size_t n_fields;
    const struct fmt_field *fields;
};

// What lies at a field; which member counts follows from its kind.
union fmt_value {
    uint64_t u; // U, X, R, P
    int64_t i;
    char *s;
    GBytes *b;
};

// NULL for a type that is not known.
const struct fmt_record_type *fmt_record_type(uint32_t type);

// Whether records of this type are objects of an image, rather than parts of its encoding.
bool fmt_type_is_object(uint32_t type);

// The i-th field of a record. Every field takes eight bytes, in the structure as on the wire.
static inline union fmt_value *fmt_record_field(const void *record, size_t i)
{
    return (union fmt_value *)((struct fmt_record *)record + 1) + i;
}
