// SPDX-License-Identifier: GPL-2.0-or-later
// The records of an image as data, generated from records.def.
#include "formats/catalogue.h"

G_STATIC_ASSERT(sizeof(union fmt_value) == 8 && sizeof(struct fmt_record) == 16);

#define FIELD(field, kind, to, doc) {#field, FMT_FIELD_##kind, FMT_##to, doc},

static const struct fmt_record_type record_types[FMT_N_TYPES] = {
#define RECORD(TYPE, number, name_, doc_)                                                          \
    [FMT_##TYPE] = {.name = #name_,                                                                \
                    .doc = doc_,                                                                   \
                    .size_bytes = sizeof(struct fmt_##name_),                                      \
                    .n_fields = (sizeof(struct fmt_##name_) - sizeof(struct fmt_record)) / 8,      \
                    .fields = (const struct fmt_field[]) {
#define U(field, doc)     FIELD(field, U, ANY, doc)
#define I(field, doc)     FIELD(field, I, ANY, doc)
#define X(field, doc)     FIELD(field, X, ANY, doc)
#define S(field, doc)     FIELD(field, S, ANY, doc)
#define B(field, doc)     FIELD(field, B, ANY, doc)
#define R(field, to, doc) FIELD(field, R, to, doc)
#define P(field, to, doc) FIELD(field, P, to, doc)
#define END(TYPE)                                                                                  \
    {                                                                                              \
        NULL, 0, 0, NULL                                                                           \
    }                                                                                              \
    }                                                                                              \
    }                                                                                              \
    ,
#include "formats/records.def"
};

const struct fmt_record_type *fmt_record_type(uint32_t type)
{
    return type < FMT_N_TYPES && record_types[type].name ? &record_types[type] : NULL;
}

bool fmt_type_is_object(uint32_t type)
{
    switch (type) {
    case FMT_STRING:
    case FMT_BYTES:
    case FMT_BODY:
    case FMT_PAGES:
    case FMT_TAIL:
        return false;
    default:
        return fmt_record_type(type) != NULL;
    }
}
