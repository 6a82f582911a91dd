// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the kallsyms tables in the kernel image, for kernels that do not say where they are.
#include "introspect/kallsyms_names.h"

#include <inttypes.h>
#include <string.h>

#include "introspect/kernel.h"

bool intro_kallsyms_tables_from(const IntroVmcoreinfo *info, struct intro_kallsyms_tables *ret)
{
    struct intro_kallsyms_tables t = {0};

    if (!intro_vmcoreinfo_symbol(info, "kallsyms_num_syms", &t.num_syms) ||
        !intro_vmcoreinfo_symbol(info, "kallsyms_names", &t.names) ||
        !intro_vmcoreinfo_symbol(info, "kallsyms_token_table", &t.token_table) ||
        !intro_vmcoreinfo_symbol(info, "kallsyms_token_index", &t.token_index) ||
        !intro_vmcoreinfo_symbol(info, "kallsyms_offsets", &t.offsets))
        return false;
    intro_vmcoreinfo_symbol(info, "kallsyms_relative_base", &t.relative_base);
    *ret = t;
    return true;
}

/*
 * Up to 6.3 the tables lie one behind the other, each aligned to 8 bytes:
 *
 *   offsets  relative_base  num_syms  names  markers  token_table  token_index
 *
 * The digits are rarely part of a longer token, so the token table has "0" to "9" in a row. From
 * there backwards each table must agree with the next, which leaves no room for a wrong one.
 */
#define ALIGN         8u
#define DIGITS        "0\0001\0002\0003\0004\0005\0006\0007\0008\0009"
#define FIRST_DIGIT   '0'
#define MAX_TOKEN_LEN 64
#define MAX_WALKS     64 // of all names; in practice one

struct image {
    const uint8_t *bytes;
    size_t len;
    unsigned walks_left;
};

static uint32_t get_u32(const struct image *image, size_t at)
{
    uint32_t v;

    memcpy(&v, image->bytes + at, sizeof(v));
    return GUINT32_FROM_LE(v);
}

static size_t align_up(size_t at)
{
    return (at + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

// Whether a token table starts at `at`: then token_index, rebuilt from it, is right behind it.
static bool is_token_table(const struct image *image, size_t at, size_t *ret_index)
{
    uint16_t index[INTRO_KALLSYMS_TOKENS];
    size_t end = at;

    for (unsigned i = 0; i < INTRO_KALLSYMS_TOKENS; i++) {
        const uint8_t *nul = memchr(image->bytes + end, '\0', image->len - end);

        if (!nul || end - at > UINT16_MAX)
            return false;
        index[i] = GUINT16_TO_LE((uint16_t)(end - at));
        end = nul - image->bytes + 1;
    }
    end = align_up(end);
    if (end > image->len || image->len - end < sizeof(index) ||
        memcmp(image->bytes + end, index, sizeof(index)) != 0)
        return false;
    *ret_index = end;
    return true;
}

// The start of the token table that has the digits at `digits`. What is before its first token is
// not known to be a NUL, so that each aligned place in front of that token's end is tried.
static bool find_token_table(const struct image *image, size_t digits, size_t *ret_table,
                             size_t *ret_index)
{
    size_t at = digits;
    unsigned nuls = 0;

    while (at > 0 && nuls < FIRST_DIGIT)
        nuls += image->bytes[--at] == '\0';
    if (nuls < FIRST_DIGIT)
        return false;
    for (size_t n = 0; at > 0 && n < MAX_TOKEN_LEN && image->bytes[at - 1] != '\0'; n++) {
        at--;
        if (at % ALIGN == 0 && is_token_table(image, at, ret_index)) {
            *ret_table = at;
            return true;
        }
    }
    return false;
}

// The markers end where the token table starts: rising offsets, the first of them 0.
static bool find_markers(const struct image *image, size_t token_table, size_t *ret_markers,
                         uint32_t *ret_n)
{
    size_t last = token_table, first;

    for (unsigned skipped = 0; skipped < 2; skipped++) {
        if (last < sizeof(uint32_t))
            return false;
        last -= sizeof(uint32_t);
        if (get_u32(image, last) != 0)
            break;
    }
    for (first = last; first >= sizeof(uint32_t) && get_u32(image, first) != 0;
         first -= sizeof(uint32_t)) {
        if (get_u32(image, first - sizeof(uint32_t)) >= get_u32(image, first))
            return false;
    }
    if (get_u32(image, first) != 0 || first == last || first % ALIGN != 0)
        return false;
    *ret_markers = first;
    *ret_n = (last - first) / sizeof(uint32_t) + 1;
    return true;
}

// Whether names start at `at`: their number before them, the markers behind them.
static bool is_names(struct image *image, size_t at, size_t markers, uint32_t n_markers)
{
    uint32_t n = get_u32(image, at - ALIGN);
    size_t found;

    if (n == 0 || n > INTRO_KALLSYMS_MAX_SYMBOLS ||
        (n - 1) / INTRO_KALLSYMS_MARKER_EVERY + 1 != n_markers || image->walks_left == 0)
        return false;
    image->walks_left--;
    for (unsigned l = 0; l < INTRO_N_LENGTHS; l++) {
        if (intro_kallsyms_check_names(l, image->bytes + at, image->len - at, n, &found) &&
            at + found == markers)
            return true;
    }
    return false;
}

static bool find_names(struct image *image, size_t markers, uint32_t n_markers, size_t *ret_names)
{
    uint32_t last = get_u32(image, markers + (n_markers - 1) * sizeof(uint32_t));
    size_t most = (size_t)last + INTRO_KALLSYMS_MARKER_EVERY * (INTRO_KALLSYMS_MAX_NAME_BYTES + 2);
    size_t lowest = markers > most + 2 * ALIGN ? markers - most : 2 * ALIGN;

    if (markers < (size_t)last + 2 * ALIGN)
        return false;
    for (size_t at = (markers - last) & ~(size_t)(ALIGN - 1); at >= lowest; at -= ALIGN) {
        if (is_names(image, at, markers, n_markers)) {
            *ret_names = at;
            return true;
        }
    }
    return false;
}

static bool find_all(struct image *image, size_t digits, struct gva base,
                     struct intro_kallsyms_tables *ret)
{
    size_t token_table, token_index, markers, names, offset_bytes;
    uint32_t n_markers;

    if (!find_token_table(image, digits, &token_table, &token_index) ||
        !find_markers(image, token_table, &markers, &n_markers) ||
        !find_names(image, markers, n_markers, &names))
        return false;
    offset_bytes = align_up((size_t)get_u32(image, names - ALIGN) * sizeof(uint32_t));
    if (names < offset_bytes + 2 * ALIGN)
        return false;
    *ret = (struct intro_kallsyms_tables){
        .num_syms = base.addr + names - ALIGN,
        .names = base.addr + names,
        .token_table = base.addr + token_table,
        .token_index = base.addr + token_index,
        .offsets = base.addr + names - 2 * ALIGN - offset_bytes,
        .relative_base = base.addr + names - 2 * ALIGN,
    };
    return true;
}

bool intro_kallsyms_tables_search(const uint8_t *image_bytes, size_t image_len, struct gva image_at,
                                  struct intro_kallsyms_tables *ret, GError **error)
{
    struct image image = {.bytes = image_bytes, .len = image_len, .walks_left = MAX_WALKS};
    const uint8_t *hit, *from = image_bytes, *end = image_bytes + image_len;

    while ((hit = memmem(from, end - from, DIGITS, sizeof(DIGITS)))) {
        if (find_all(&image, hit - image_bytes, image_at, ret))
            return true;
        from = hit + 1;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "no kallsyms tables in the %zu bytes of kernel image at 0x%" PRIx64, image_len,
                image_at.addr);
    return false;
}
