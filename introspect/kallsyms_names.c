// SPDX-License-Identifier: GPL-2.0-or-later
// Expands the compressed names of kallsyms.
#include "introspect/kallsyms_names.h"

#include <inttypes.h>
#include <string.h>

#include "introspect/kernel.h"

/*
 * A name is a length and as many bytes, each the number of a token; the first character of the
 * expanded name is its type letter. Behind the names are the markers, the offset of every 256th of
 * them, by which we tell whether lengths were understood; then the tokens. kernel/kallsyms.c,
 * scripts/kallsyms.c.
 */

#define MAX_TABLE_BYTES    (64u << 20)  // compressed names: about 2 MB in practice
#define MAX_EXPANDED_BYTES (256u << 20) // about 4 MB in practice
#define TOKEN_INDEX_BYTES  (INTRO_KALLSYMS_TOKENS * sizeof(uint16_t))
#define MAX_TOKEN_BYTES    (UINT16_MAX + INTRO_KALLSYMS_MAX_NAME_BYTES)

struct token {
    const char *text;
    size_t len;
};

bool intro_kallsyms_step(enum intro_kallsyms_lengths lengths, const uint8_t *names, size_t len,
                         size_t *at, size_t *ret_start)
{
    size_t start = *at + 1, n;

    if (start > len)
        return false;
    n = names[*at];
    if (lengths == INTRO_LENGTHS_LONG && n & 0x80) {
        if (start >= len)
            return false;
        n = (n & 0x7f) | (size_t)names[start++] << 7;
    }
    if (n == 0 || n > len - start)
        return false;
    *ret_start = start;
    *at = start + n;
    return true;
}

static uint32_t get_marker(const uint8_t *markers, uint32_t i)
{
    uint32_t v;

    memcpy(&v, markers + i * sizeof(v), sizeof(v));
    return GUINT32_FROM_LE(v);
}

// Whether the names meet the markers that start at `markers`.
static bool meets_markers(enum intro_kallsyms_lengths lengths, const uint8_t *names, size_t len,
                          uint32_t n, size_t markers)
{
    size_t n_markers = (n - 1) / INTRO_KALLSYMS_MARKER_EVERY + 1, at = 0, start;

    if (markers > len || n_markers * sizeof(uint32_t) > len - markers)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (i % INTRO_KALLSYMS_MARKER_EVERY == 0 &&
            get_marker(names + markers, i / INTRO_KALLSYMS_MARKER_EVERY) != at)
            return false;
        intro_kallsyms_step(lengths, names, len, &at, &start);
    }
    return true;
}

bool intro_kallsyms_check_names(enum intro_kallsyms_lengths lengths, const uint8_t *names,
                                size_t len, uint32_t n, size_t *ret_markers)
{
    size_t end = 0, start;

    for (uint32_t i = 0; i < n; i++) {
        if (!intro_kallsyms_step(lengths, names, len, &end, &start))
            return false;
    }
    // The tables of a 64-bit kernel were aligned to 8 bytes at first.
    for (size_t align = sizeof(uint32_t); align <= sizeof(uint64_t); align *= 2) {
        *ret_markers = (end + align - 1) & ~(align - 1);
        if (meets_markers(lengths, names, len, n, *ret_markers))
            return true;
    }
    return false;
}

static bool set_corrupt(GError **error, uint64_t at, const char *what)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT, "kallsyms at 0x%" PRIx64 ": %s", at, what);
    return false;
}

// Reads the bytes between two tables, of which the second follows the first in memory.
static uint8_t *read_until(uint64_t start, uint64_t end, size_t max, intro_image_read_fn read,
                           void *user, size_t *ret_len, GError **error)
{
    g_autofree uint8_t *bytes = NULL;

    if (end <= start || end - start > max) {
        set_corrupt(error, start, "the table that should follow is not behind it");
        return NULL;
    }
    bytes = g_malloc(end - start);
    if (!read(user, GVA(start), bytes, end - start, error))
        return NULL;
    *ret_len = end - start;
    return g_steal_pointer(&bytes);
}

// Splits the token table. *ret_text holds the bytes that the tokens point into.
static bool read_tokens(const struct intro_kallsyms_tables *tables, intro_image_read_fn read,
                        void *user, char **ret_text, struct token *ret, GError **error)
{
    uint16_t index[INTRO_KALLSYMS_TOKENS];
    size_t len;
    g_autofree char *text = (char *)read_until(tables->token_table, tables->token_index,
                                               MAX_TOKEN_BYTES, read, user, &len, error);

    if (!text || !read(user, GVA(tables->token_index), index, TOKEN_INDEX_BYTES, error))
        return false;
    for (unsigned i = 0; i < INTRO_KALLSYMS_TOKENS; i++) {
        size_t start = GUINT16_FROM_LE(index[i]);
        const char *nul = start < len ? memchr(text + start, '\0', len - start) : NULL;

        if (!nul)
            return set_corrupt(error, tables->token_table, "a token has no end");
        ret[i] = (struct token){.text = text + start, .len = nul - (text + start)};
    }
    *ret_text = g_steal_pointer(&text);
    return true;
}

// Appends the name made of these tokens without its type letter. Byte by byte: a token has two or
// three, for which calling memcpy takes longer.
static bool expand(const struct token *tokens, const uint8_t *name, size_t n, GString *names)
{
    char text[INTRO_KALLSYMS_MAX_NAME_BYTES];
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        const struct token *t = &tokens[name[i]];

        if (t->len >= sizeof(text) - len)
            return false;
        for (size_t j = 0; j < t->len; j++)
            text[len++] = t->text[j];
    }
    text[len++] = '\0';
    g_string_append_len(names, text + (len > 1), len - (len > 1));
    return names->len <= MAX_EXPANDED_BYTES;
}

static bool read_count(const struct intro_kallsyms_tables *tables, intro_image_read_fn read,
                       void *user, uint32_t *ret, GError **error)
{
    uint32_t n;

    if (!read(user, GVA(tables->num_syms), &n, sizeof(n), error))
        return false;
    n = GUINT32_FROM_LE(n);
    if (n == 0 || n > INTRO_KALLSYMS_MAX_SYMBOLS)
        return set_corrupt(error, tables->num_syms, "the number of symbols makes no sense");
    *ret = n;
    return true;
}

static bool choose_lengths(const struct intro_kallsyms_tables *tables, const uint8_t *names,
                           size_t len, uint32_t n, enum intro_kallsyms_lengths *ret, GError **error)
{
    size_t markers;

    for (unsigned l = 0; l < INTRO_N_LENGTHS; l++) {
        if (intro_kallsyms_check_names(l, names, len, n, &markers)) {
            *ret = l;
            return true;
        }
    }
    return set_corrupt(error, tables->names, "the names do not meet their markers");
}

bool intro_kallsyms_read_names(const struct intro_kallsyms_tables *tables, intro_image_read_fn read,
                               void *user, GString **ret_names, GArray **ret_starts, GError **error)
{
    struct token tokens[INTRO_KALLSYMS_TOKENS];
    g_autofree char *token_text = NULL;
    g_autofree uint8_t *packed = NULL;
    enum intro_kallsyms_lengths lengths;
    size_t len, at = 0, start;
    uint32_t n;

    if (!read_count(tables, read, user, &n, error))
        return false;
    packed =
        read_until(tables->names, tables->token_table, MAX_TABLE_BYTES, read, user, &len, error);
    if (!packed || !choose_lengths(tables, packed, len, n, &lengths, error) ||
        !read_tokens(tables, read, user, &token_text, tokens, error))
        return false;

    g_autoptr(GString) names = g_string_sized_new(2 * len);
    g_autoptr(GArray) starts = g_array_sized_new(FALSE, FALSE, sizeof(uint32_t), n);

    for (uint32_t i = 0; i < n; i++) {
        uint32_t name_start = names->len;

        if (!intro_kallsyms_step(lengths, packed, len, &at, &start) ||
            !expand(tokens, packed + start, at - start, names))
            return set_corrupt(error, tables->names, "a name is too long");
        g_array_append_val(starts, name_start);
    }
    *ret_names = g_steal_pointer(&names);
    *ret_starts = g_steal_pointer(&starts);
    return true;
}
