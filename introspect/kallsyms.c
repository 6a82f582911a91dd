// SPDX-License-Identifier: GPL-2.0-or-later
// Decodes kallsyms: names, addresses, and the two ways to look them up.
#include "introspect/kallsyms.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "introspect/kallsyms_names.h"
#include "introspect/kernel.h"

struct symbol {
    uint64_t address;
    uint32_t name; // offset in `names`
};

struct IntroKallsyms {
    char *names;            // NUL-terminated, one behind the other, without their type letters
    struct symbol *symbols; // in order of address
    uint32_t n;
    uint32_t *by_name; // open addressing, the symbol's index + 1; 0 is empty
    uint32_t by_name_mask;
    uint64_t image_start, image_end;
};

void intro_kallsyms_free(IntroKallsyms *syms)
{
    if (!syms)
        return;
    g_free(syms->names);
    g_free(syms->symbols);
    g_free(syms->by_name);
    g_free(syms);
}

size_t intro_kallsyms_count(const IntroKallsyms *syms)
{
    return syms->n;
}

static const char *symbol_name(const IntroKallsyms *syms, uint32_t i)
{
    return syms->names + syms->symbols[i].name;
}

/* ---- addresses ---- */

// The ways in which an offset became an address (scripts/kallsyms.c).
enum encoding {
    PERCPU_ABSOLUTE, // 4.6 to 6.14 on SMP: values from 0 on are absolute, others base - 1 - offset
    FROM_BASE,       // without per-CPU symbols near zero (6.15): base + unsigned offset
    FROM_PLACE,      // 7.0: no base any more, relative to the offset's own place
    N_ENCODINGS,
};

static uint64_t decode_address(enum encoding encoding, const struct intro_kallsyms_tables *tables,
                               uint64_t base, uint32_t i, const uint32_t *offsets)
{
    int32_t offset = (int32_t)GUINT32_FROM_LE(offsets[i]);

    switch (encoding) {
    case PERCPU_ABSOLUTE:
        return offset >= 0 ? (uint64_t)offset : base - 1 - (uint64_t)(int64_t)offset;
    case FROM_BASE:
        return base + (uint32_t)offset;
    default:
        return tables->offsets + (uint64_t)i * sizeof(*offsets) + (uint64_t)(int64_t)offset;
    }
}

// Which encoding gives _stext the address that VMCOREINFO gives it.
static bool choose_encoding(const IntroKallsyms *syms, const struct intro_kallsyms_tables *tables,
                            uint64_t base, const uint32_t *offsets, uint64_t stext,
                            enum encoding *ret, GError **error)
{
    uint32_t i = 0;

    while (i < syms->n && strcmp(symbol_name(syms, i), "_stext") != 0)
        i++;
    for (unsigned e = tables->relative_base ? 0 : FROM_PLACE; i < syms->n && e < N_ENCODINGS; e++) {
        if (decode_address(e, tables, base, i, offsets) == stext) {
            *ret = e;
            return true;
        }
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "kallsyms at 0x%" PRIx64 ": no known encoding of addresses puts _stext at "
                "0x%" PRIx64,
                tables->offsets, stext);
    return false;
}

static int compare_symbols(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;

    if (x->address != y->address)
        return x->address < y->address ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name; // the order of the table
}

static bool read_addresses(IntroKallsyms *syms, const struct intro_kallsyms_tables *tables,
                           uint64_t stext, intro_image_read_fn read, void *user, GError **error)
{
    g_autofree uint32_t *offsets = g_new(uint32_t, syms->n);
    uint64_t base = 0;
    enum encoding encoding;
    bool sorted = true;

    if (!read(user, GVA(tables->offsets), offsets, syms->n * sizeof(*offsets), error) ||
        (tables->relative_base &&
         !read(user, GVA(tables->relative_base), &base, sizeof(base), error)))
        return false;
    base = GUINT64_FROM_LE(base);
    if (!choose_encoding(syms, tables, base, offsets, stext, &encoding, error))
        return false;
    for (uint32_t i = 0; i < syms->n; i++) {
        syms->symbols[i].address = decode_address(encoding, tables, base, i, offsets);
        sorted = sorted && (i == 0 || syms->symbols[i - 1].address <= syms->symbols[i].address);
    }
    if (!sorted)
        qsort(syms->symbols, syms->n, sizeof(*syms->symbols), compare_symbols);
    return true;
}

/* ---- names ---- */

static bool read_names(IntroKallsyms *syms, const struct intro_kallsyms_tables *tables,
                       intro_image_read_fn read, void *user, GError **error)
{
    g_autoptr(GArray) starts = NULL;
    g_autoptr(GString) names = NULL;

    if (!intro_kallsyms_read_names(tables, read, user, &names, &starts, error))
        return false;
    syms->n = starts->len;
    syms->symbols = g_new(struct symbol, syms->n);
    for (uint32_t i = 0; i < syms->n; i++)
        syms->symbols[i] = (struct symbol){.name = g_array_index(starts, uint32_t, i)};
    syms->names = g_string_free(g_steal_pointer(&names), FALSE);
    return true;
}

// FNV-1a.
static uint32_t hash_name(const char *name)
{
    uint32_t h = 2166136261u;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

// The slot that holds name, or the empty one where it would go. At least half of all are empty.
static uint32_t *find_slot(const IntroKallsyms *syms, const char *name)
{
    uint32_t at = hash_name(name) & syms->by_name_mask;

    while (syms->by_name[at] && strcmp(symbol_name(syms, syms->by_name[at] - 1), name) != 0)
        at = (at + 1) & syms->by_name_mask;
    return &syms->by_name[at];
}

static void index_names(IntroKallsyms *syms)
{
    uint32_t n_slots = 1;

    while (n_slots < 2 * syms->n)
        n_slots *= 2;
    syms->by_name = g_new0(uint32_t, n_slots);
    syms->by_name_mask = n_slots - 1;
    for (uint32_t i = 0; i < syms->n; i++) {
        uint32_t *slot = find_slot(syms, symbol_name(syms, i));

        if (!*slot)
            *slot = i + 1;
    }
}

IntroKallsyms *intro_kallsyms_new(const struct intro_kallsyms_tables *tables, uint64_t stext,
                                  intro_image_read_fn read, void *user, GError **error)
{
    g_autoptr(IntroKallsyms) syms = g_new0(IntroKallsyms, 1);

    if (!read_names(syms, tables, read, user, error) ||
        !read_addresses(syms, tables, stext, read, user, error))
        return NULL;
    index_names(syms);
    syms->image_start = stext;
    intro_kallsyms_find(syms, "_text", &syms->image_start);
    if (!intro_kallsyms_find(syms, "_end", &syms->image_end))
        syms->image_end = syms->symbols[syms->n - 1].address;
    return g_steal_pointer(&syms);
}

/* ---- lookups ---- */

const char *intro_kallsyms_get(const IntroKallsyms *syms, size_t i, uint64_t *ret_address)
{
    *ret_address = syms->symbols[i].address;
    return symbol_name(syms, i);
}

bool intro_kallsyms_find(const IntroKallsyms *syms, const char *name, uint64_t *ret)
{
    uint32_t slot = *find_slot(syms, name);

    if (!slot)
        return false;
    *ret = syms->symbols[slot - 1].address;
    return true;
}

const char *intro_kallsyms_at(const IntroKallsyms *syms, uint64_t at, uint64_t *ret_offset)
{
    uint32_t low = 0, high = syms->n; // the first symbol above `at` is in [low, high]

    if (at < syms->image_start || at >= syms->image_end)
        return NULL;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (syms->symbols[middle].address <= at)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    for (low--; low > 0 && syms->symbols[low - 1].address == syms->symbols[low].address; low--)
        ; // the first of several names for one place
    if (ret_offset)
        *ret_offset = at - syms->symbols[low].address;
    return symbol_name(syms, low);
}
