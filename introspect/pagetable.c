// SPDX-License-Identifier: GPL-2.0-or-later
// Walks x86-64 page tables with 4 and 5 levels.
#include "introspect/pagetable.h"

#include <inttypes.h>
#include <string.h>

/*
 * Levels count from the leaf: 1 is a table of 4 KiB pages (PTE), 2 may hold 2 MiB leaves (PMD),
 * 3 may hold 1 GiB leaves (PUD); 4 and 5 only point to tables.
 *
 * The kernel maps pages that the MMU must not see: PROT_NONE and NUMA hinting leave the page in
 * place but clear P and set G (_PAGE_PROTNONE), and a huge entry that is being split keeps PSE
 * alone. Since the answer to L1TF (arch/x86/include/asm/pgtable-invert.h) such an entry holds the
 * address inverted. Swap and migration entries keep P, G and PSE clear.
 */
#define ENTRY_PRESENT  (1ull << 0)
#define ENTRY_HUGE     (1ull << 7) // PSE; in a PTE the same bit is PAT
#define ENTRY_PROTNONE (1ull << 8) // G
#define FRAME_BITS     0x000ffffffffff000ull
#define N_ENTRIES      512
#define MAX_LEAF_LEVEL 3

static unsigned level_shift(unsigned level)
{
    return VMM_PAGE_SHIFT + 9 * (level - 1);
}

static uint64_t level_bytes(unsigned level)
{
    return 1ull << level_shift(level);
}

static unsigned level_index(unsigned level, uint64_t at)
{
    return (at >> level_shift(level)) % N_ENTRIES;
}

uint64_t intro_frame_mask(uint64_t sme_mask)
{
    return FRAME_BITS & ~sme_mask;
}

static bool is_mapped(uint64_t entry, unsigned level)
{
    return entry & (ENTRY_PRESENT | ENTRY_PROTNONE | (level > 1 ? ENTRY_HUGE : 0));
}

// An entry that does not point to a further table.
static bool is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || !(entry & ENTRY_PRESENT) ||
           (level <= MAX_LEAF_LEVEL && (entry & ENTRY_HUGE));
}

// Fills *ret from a leaf that is not empty. The return value is `present`.
static bool decode_leaf(const struct intro_page_table *pt, uint64_t entry, unsigned level,
                        uint64_t at, struct intro_user_page *ret)
{
    uint64_t size = level_bytes(level);
    bool mapped = level <= MAX_LEAF_LEVEL && is_mapped(entry, level);
    uint64_t frame = (entry & ENTRY_PRESENT ? entry : ~entry) & pt->frame_mask & ~(size - 1);

    *ret = (struct intro_user_page){
        .at = GVA(at & ~(size - 1)),
        .frame = GPA(mapped ? frame : 0),
        .size_bytes = size,
        .entry = entry,
        .is_ram = mapped && intro_frames_is_ram(pt->frames, GPA(frame), size),
    };
    return mapped;
}

static void set_table_error(GError **error, struct gpa table, unsigned level, uint64_t at)
{
    g_prefix_error(error, "page table of level %u at 0x%" PRIx64 " for the address 0x%" PRIx64 ": ",
                   level, table.addr, at);
    if (error && g_error_matches(*error, INTRO_ERROR, INTRO_ERROR_FAULT))
        (*error)->code = INTRO_ERROR_CORRUPT;
}

bool intro_page_table_lookup(const struct intro_page_table *pt, struct gpa root, struct gva at,
                             struct intro_user_page *ret, bool *ret_present, GError **error)
{
    struct gpa table = root;

    for (unsigned level = pt->levels;; level--) {
        const uint8_t *bytes = intro_frames_get(pt->frames, table, error);
        uint64_t entry;

        if (!bytes) {
            set_table_error(error, table, level, at.addr);
            return false;
        }
        memcpy(&entry, bytes + level_index(level, at.addr) * sizeof(entry), sizeof(entry));
        entry = GUINT64_FROM_LE(entry);
        if (is_leaf(entry, level)) {
            *ret_present = decode_leaf(pt, entry, level, at.addr, ret);
            return true;
        }
        table = GPA(entry & pt->frame_mask);
    }
}

struct walk {
    const struct intro_page_table *pt;
    uint64_t start, end;
    uint64_t tables_left;
    intro_user_page_fn fn;
    void *user;
    bool stopped; // by fn
};

// Copies the entries [first, last] of a table: a deeper level may push the page out of the cache.
static bool read_entries(struct walk *w, struct gpa table, unsigned level, uint64_t at,
                         unsigned first, unsigned last, uint64_t *ret, GError **error)
{
    const uint8_t *bytes;

    if (w->tables_left-- == 0) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "the page tables hold more tables than the guest has pages of RAM (at address "
                    "0x%" PRIx64 ")",
                    at);
        return false;
    }
    bytes = intro_frames_get(w->pt->frames, table, error);
    if (!bytes) {
        set_table_error(error, table, level, at);
        return false;
    }
    memcpy(ret + first, bytes + first * sizeof(*ret), (last - first + 1) * sizeof(*ret));
    return true;
}

// `base` is the address that entry 0 of this table maps.
static bool walk_table(struct walk *w, struct gpa table, unsigned level, uint64_t base,
                       GError **error)
{
    uint64_t table_last = base + (level_bytes(level) * N_ENTRIES - 1);
    unsigned first = w->start > base ? level_index(level, w->start) : 0;
    unsigned last = w->end - 1 < table_last ? level_index(level, w->end - 1) : N_ENTRIES - 1;
    uint64_t entries[N_ENTRIES];

    if (!read_entries(w, table, level, base, first, last, entries, error))
        return false;
    for (unsigned i = first; i <= last && !w->stopped; i++) {
        uint64_t entry = GUINT64_FROM_LE(entries[i]), at = base + i * level_bytes(level);
        struct intro_user_page page;

        if (entry == 0)
            continue;
        if (!is_leaf(entry, level)) {
            if (!walk_table(w, GPA(entry & w->pt->frame_mask), level - 1, at, error))
                return false;
            continue;
        }
        bool present = decode_leaf(w->pt, entry, level, at, &page);

        w->stopped = !w->fn(&page, present, w->user);
    }
    return true;
}

bool intro_page_table_walk(const struct intro_page_table *pt, struct gpa root, struct gva start,
                           struct gva end, intro_user_page_fn fn, void *user, GError **error)
{
    uint64_t user_end = 1ull << (level_shift(pt->levels) + 8); // half of the top table
    struct walk w = {
        .pt = pt,
        .start = start.addr,
        .end = end.addr,
        .tables_left = vmm_memory_total_bytes(intro_frames_memory(pt->frames)) / VMM_PAGE_BYTES,
        .fn = fn,
        .user = user,
    };

    if (start.addr > end.addr || end.addr > user_end) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "0x%" PRIx64 "-0x%" PRIx64 " is no range of user addresses", start.addr,
                    end.addr);
        return false;
    }
    return start.addr == end.addr || walk_table(&w, root, pt->levels, 0, error);
}
