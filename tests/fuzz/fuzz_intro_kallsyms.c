// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds kallsyms tables: where they are (six offsets of four bytes), then a piece of kernel image.
#include "introspect/kallsyms.h"

#include <string.h>

#include "fuzz.h"
#include "introspect/kernel.h"

#define AT    0xffffffff82000000ull
#define STEXT 0xffffffff81000000ull

struct image {
    const uint8_t *bytes;
    size_t len;
};

static bool read_image(void *user, struct gva at, void *ret, size_t len, GError **error)
{
    const struct image *image = user;

    if (at.addr < AT || at.addr - AT > image->len || len > image->len - (at.addr - AT)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_FAULT, "outside");
        return false;
    }
    memcpy(ret, image->bytes + (at.addr - AT), len);
    return true;
}

static void decode(const struct intro_kallsyms_tables *tables, struct image *image)
{
    g_autoptr(IntroKallsyms) syms = intro_kallsyms_new(tables, STEXT, read_image, image, NULL);
    uint64_t at;

    if (!syms)
        return;
    intro_kallsyms_find(syms, "_stext", &at);
    intro_kallsyms_at(syms, at + 1, &at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct intro_kallsyms_tables tables;
    uint32_t offsets[6];
    struct image image;

    if (size < sizeof(offsets))
        return 0;
    memcpy(offsets, data, sizeof(offsets));
    image = (struct image){.bytes = data + sizeof(offsets), .len = size - sizeof(offsets)};
    tables = (struct intro_kallsyms_tables){
        .num_syms = AT + offsets[0],
        .names = AT + offsets[1],
        .token_table = AT + offsets[2],
        .token_index = AT + offsets[3],
        .offsets = AT + offsets[4],
        .relative_base = offsets[5] ? AT + offsets[5] : 0,
    };
    decode(&tables, &image);
    if (intro_kallsyms_tables_search(image.bytes, image.len, GVA(AT), &tables, NULL))
        decode(&tables, &image);
    return 0;
}
