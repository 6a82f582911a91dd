// SPDX-License-Identifier: GPL-2.0-or-later
// Makes the pieces of a kernel that the tests read.
#include "intro_fixture.h"

#include <string.h>

void fixture_ram_init(struct fixture_ram *ram, size_t n_pages)
{
    struct vmm_ram_range range = {.size_bytes = n_pages * VMM_PAGE_BYTES};
    const void *data;

    ram->n_pages = n_pages;
    ram->bytes = g_malloc0(range.size_bytes);
    data = ram->bytes;
    ram->mem = vmm_memory_new_from_buffers(&range, &data, 1, NULL, NULL);
}

void fixture_ram_clear(struct fixture_ram *ram)
{
    vmm_memory_unref(ram->mem);
    g_free(ram->bytes);
}

static uint8_t *at_bytes(struct fixture_ram *ram, uint64_t at, size_t len)
{
    g_assert_cmpuint(at + len, <=, ram->n_pages * VMM_PAGE_BYTES);
    return ram->bytes + at;
}

void fixture_put_u64(struct fixture_ram *ram, uint64_t at, uint64_t value)
{
    value = GUINT64_TO_LE(value);
    memcpy(at_bytes(ram, at, sizeof(value)), &value, sizeof(value));
}

void fixture_put_text(struct fixture_ram *ram, uint64_t at, const char *text)
{
    memcpy(at_bytes(ram, at, strlen(text)), text, strlen(text));
}

void fixture_put_note(struct fixture_ram *ram, uint64_t at, const char *text)
{
    uint32_t header[] = {GUINT32_TO_LE(11), GUINT32_TO_LE(strlen(text)), 0};

    memcpy(at_bytes(ram, at, sizeof(header)), header, sizeof(header));
    fixture_put_text(ram, at + sizeof(header), "VMCOREINFO");
    fixture_put_text(ram, at + 24, text);
}

/* ---- kallsyms ---- */

struct builder {
    GByteArray *out;
    uint64_t at; // the address of out->data[0]
};

static uint64_t here(struct builder *b)
{
    return b->at + b->out->len;
}

static void put(struct builder *b, const void *bytes, size_t len)
{
    g_byte_array_append(b->out, bytes, len);
}

static void put_u32(struct builder *b, uint32_t v)
{
    v = GUINT32_TO_LE(v);
    put(b, &v, sizeof(v));
}

static void align(struct builder *b)
{
    while (here(b) % 8)
        put(b, "", 1);
}

// A token that no character stands for: 0 is "sys", the others are never used in a name.
static void put_tokens(struct builder *b, struct intro_kallsyms_tables *tables)
{
    uint16_t index[256];
    char text[8];

    tables->token_table = here(b);
    for (unsigned i = 0; i < 256; i++) {
        if (i == 0)
            strcpy(text, "sys");
        else if (g_ascii_isgraph(i))
            g_snprintf(text, sizeof(text), "%c", i);
        else
            g_snprintf(text, sizeof(text), "~%u", i);
        index[i] = GUINT16_TO_LE((uint16_t)(here(b) - tables->token_table));
        put(b, text, strlen(text) + 1);
    }
    align(b);
    tables->token_index = here(b);
    put(b, index, sizeof(index));
    align(b);
}

static void put_name(struct builder *b, const char *name, bool short_lengths)
{
    g_autoptr(GByteArray) packed = g_byte_array_new();
    uint8_t length[2];

    for (; *name; name++) {
        bool sys = g_str_has_prefix(name, "sys");
        uint8_t token = sys ? 0 : (uint8_t)*name;

        g_byte_array_append(packed, &token, 1);
        name += sys ? 2 : 0;
    }
    if (short_lengths || packed->len < 0x80) {
        g_assert_cmpuint(packed->len, <=, 255);
        length[0] = packed->len;
        put(b, length, 1);
    } else {
        length[0] = 0x80 | (packed->len & 0x7f);
        length[1] = packed->len >> 7;
        put(b, length, 2);
    }
    put(b, packed->data, packed->len);
}

static void put_names(struct builder *b, bool short_lengths, const struct fixture_symbol *symbols,
                      size_t n, struct intro_kallsyms_tables *tables)
{
    g_autoptr(GArray) markers = g_array_new(FALSE, FALSE, sizeof(uint32_t));

    tables->num_syms = here(b);
    put_u32(b, n);
    align(b);
    tables->names = here(b);
    for (size_t i = 0; i < n; i++) {
        uint32_t offset = here(b) - tables->names;

        if (i % 256 == 0)
            g_array_append_val(markers, offset);
        put_name(b, symbols[i].name, short_lengths);
    }
    align(b);
    for (guint i = 0; i < markers->len; i++)
        put_u32(b, g_array_index(markers, uint32_t, i));
    align(b);
}

static void put_offsets(struct builder *b, enum fixture_kallsyms kind,
                        const struct fixture_symbol *symbols, size_t n,
                        struct intro_kallsyms_tables *tables)
{
    uint64_t base = UINT64_MAX;

    for (size_t i = 0; i < n; i++) {
        if (symbols[i].address >> 63)
            base = MIN(base, symbols[i].address);
    }
    tables->offsets = here(b);
    for (size_t i = 0; i < n; i++) {
        uint64_t a = symbols[i].address;

        if (kind == FIXTURE_7_0)
            put_u32(b, a - here(b));
        else if (kind == FIXTURE_6_15)
            put_u32(b, a - base);
        else
            put_u32(b, a >> 63 ? base - 1 - a : a);
    }
    align(b);
    if (kind == FIXTURE_7_0)
        return;
    tables->relative_base = here(b);
    base = GUINT64_TO_LE(base);
    put(b, &base, sizeof(base));
}

void fixture_kallsyms(enum fixture_kallsyms kind, bool short_lengths,
                      const struct fixture_symbol *symbols, size_t n, uint64_t at, GByteArray *out,
                      struct intro_kallsyms_tables *ret)
{
    struct builder b = {.out = out, .at = at};

    *ret = (struct intro_kallsyms_tables){0};
    align(&b);
    if (kind == FIXTURE_6_1)
        put_offsets(&b, kind, symbols, n, ret);
    put_names(&b, short_lengths, symbols, n, ret);
    put_tokens(&b, ret);
    if (kind != FIXTURE_6_1)
        put_offsets(&b, kind, symbols, n, ret);
}
