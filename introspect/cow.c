// SPDX-License-Identifier: GPL-2.0-or-later
// Pages that processes of the tree share since a fork, until one of them writes.
#include "introspect/cow.h"

#include <string.h>

#include "introspect/pages.h"

/*
 * Seen from outside a shared page is a frame that is in several page tables, at the same address in
 * each. Here are the steps from frames to records:
 *
 *   group  the pages that are the same frame at the same address; its set says in which mm's
 *   area   mappings that have a page in common, directly or through others: what was one mapping
 *          before the forks. It becomes a COW record
 *   set    the groups of an area with the same members: they become a COW_SET
 *
 * The agent makes an area once, before the processes are born, and each of them takes from it.
 * Where some children were born before the parent wrote, and others after, there are several sets
 * with a page at one address. What is not like the other mappings of its area (FMT_COW_FLAGS, its
 * file) or lies elsewhere in one of the processes (mremap) is copied for each.
 *
 * The cost within the pause is a hash table of the candidates, which is paid back by the first
 * page in ten that need not be copied; where there is only one process nobody comes here.
 */

#define MAX_SETS  4096
#define MAX_PAGES (1u << 26) // candidates: what is beyond is copied
#define MAX_CHAIN 64         // pages of one hash that are compared
#define NONE      UINT32_MAX

struct piece {
    const struct fmt_vma *vma;
    uint32_t vma_index;
    uint64_t start;
    uint64_t size_bytes;
    struct gpa from;
    uint32_t first; // its first page among the candidates, NONE where it has none
};

struct candidate {
    uint64_t frame;
    uint64_t addr;
    uint32_t piece;
    uint32_t leader; // of its group: the first page of it
    uint32_t next;   // in the chain of its hash
    uint32_t set;    // leaders: members of the group, a path in `steps`
    uint32_t n_members;
    bool dropped; // leaders: the group is none after all
};

// The set `from` with one more member.
struct step {
    uint32_t from;
    uint32_t member; // index of an mm
};

struct intro_cow {
    struct gpa zero; // frame of zeros that stands for what was read and never written
    GArray *pieces;  // struct piece
    uint64_t n_candidates;
    const struct fmt_vma *last_vma;
    uint32_t n_vmas;
};

struct intro_cow *intro_cow_new(IntroKernel *k)
{
    struct intro_cow *cow = g_new0(struct intro_cow, 1);
    struct gva zero;

    cow->zero = GPA(UINT64_MAX);
    if (intro_symbol(k, "empty_zero_page", &zero, NULL))
        intro_kernel_translate(k, zero, &cow->zero, NULL);
    cow->pieces = g_array_new(FALSE, FALSE, sizeof(struct piece));
    return cow;
}

void intro_cow_free(struct intro_cow *cow)
{
    if (!cow)
        return;
    g_array_unref(cow->pieces);
    g_free(cow);
}

void intro_cow_want(struct intro_cow *cow, const struct fmt_vma *vma, uint64_t start,
                    struct gpa from, uint64_t size_bytes, bool maybe)
{
    cow->n_vmas += vma != cow->last_vma;
    cow->last_vma = vma;
    maybe = maybe && from.addr != cow->zero.addr &&
            size_bytes / VMM_PAGE_BYTES <= MAX_PAGES - cow->n_candidates;
    struct piece piece = {vma, cow->n_vmas - 1, start, size_bytes, from, maybe ? 0 : NONE};

    g_array_append_val(cow->pieces, piece);
    cow->n_candidates += maybe ? size_bytes / VMM_PAGE_BYTES : 0;
}

struct resolve {
    struct intro_ctx *c;
    const GArray *pieces;
    struct candidate *pages;
    uint32_t n_pages;
    uint32_t *heads;
    uint32_t mask;
    GArray *steps;       // struct step; the set 0 is empty
    GHashTable *step_of; // {from, member} as one number -> index in steps
    uint64_t last_key;   // of step_of
    uint32_t last_step;
    uint32_t *area_of;     // union-find over mappings
    uint64_t *start, *end; // of an area, by its representative
    GHashTable *cows;      // representative -> struct fmt_cow
    GHashTable *sets;      // {representative, set} -> objref of COW_SET
};

static const struct piece *piece_of(const struct resolve *r, const struct candidate *page)
{
    return &g_array_index(r->pieces, struct piece, page->piece);
}

/* ---- areas ---- */

static uint32_t find_area(struct resolve *r, uint32_t vma)
{
    while (r->area_of[vma] != vma)
        vma = r->area_of[vma] = r->area_of[r->area_of[vma]];
    return vma;
}

static void join_areas(struct resolve *r, uint32_t a, uint32_t b)
{
    a = find_area(r, a);
    b = find_area(r, b);
    if (a == b)
        return;
    r->area_of[b] = a;
    r->start[a] = MIN(r->start[a], r->start[b]);
    r->end[a] = MAX(r->end[a], r->end[b]);
}

static uint32_t area_of_page(struct resolve *r, const struct candidate *page)
{
    return find_area(r, piece_of(r, page)->vma_index);
}

/* ---- sets ---- */

static uint32_t extend_set(struct resolve *r, uint32_t from, uint32_t member)
{
    uint64_t key = (uint64_t)from << 32 | member;
    void *known;

    if (key == r->last_key)
        return r->last_step;
    if (g_hash_table_lookup_extended(r->step_of, &key, NULL, &known)) {
        r->last_step = GPOINTER_TO_UINT(known);
    } else {
        struct step step = {from, member};
        g_array_append_val(r->steps, step);
        r->last_step = r->steps->len - 1;
        g_hash_table_insert(r->step_of, g_memdup2(&key, sizeof key),
                            GUINT_TO_POINTER(r->last_step));
    }
    r->last_key = key;
    return r->last_step;
}

/* ---- groups ---- */

static uint32_t hash(const struct resolve *r, uint64_t a, uint64_t b)
{
    uint64_t h = (a >> VMM_PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) ^
                 (b >> VMM_PAGE_SHIFT) * UINT64_C(0xc2b2ae3d27d4eb4f);

    return (uint32_t)(h >> 32 ^ h) & r->mask;
}

static bool is_alike(const struct fmt_vma *a, const struct fmt_vma *b)
{
    return ((a->flags ^ b->flags) & FMT_COW_FLAGS) == 0 && a->object == b->object &&
           (!a->object || a->offset_bytes - a->start == b->offset_bytes - b->start);
}

static void enter_page(struct resolve *r, uint32_t i)
{
    struct candidate *page = &r->pages[i];
    const struct piece *piece = piece_of(r, page);
    uint32_t *head = &r->heads[hash(r, page->frame, page->addr)];

    page->leader = i;
    for (uint32_t j = *head, n = 0; j != NONE && n < MAX_CHAIN; j = r->pages[j].next, n++) {
        struct candidate *other = &r->pages[j];
        const struct piece *others = piece_of(r, other);

        if (other->frame != page->frame || other->addr != page->addr ||
            others->vma->mm == piece->vma->mm || !is_alike(others->vma, piece->vma))
            continue;
        page->leader = j;
        other->n_members++;
        other->set = extend_set(r, other->set, (uint32_t)piece->vma->mm);
        join_areas(r, others->vma_index, piece->vma_index);
        return;
    }
    page->n_members = 1;
    page->set = extend_set(r, 0, (uint32_t)piece->vma->mm);
    page->next = *head;
    *head = i;
}

// Not where the page is changed for its process alone, or what nobody accounts for: the agent makes
// memory that can be written. (Objrefs of mm's are small numbers.)
static bool can_share(const struct resolve *r, const struct piece *piece, uint64_t start,
                      uint64_t size_bytes)
{
    return piece->vma->mm < NONE && piece->vma->flags & (FMT_VMA_ACCOUNT | FMT_VMA_NORESERVE) &&
           !intro_pages_is_patched(r->c->pages, piece->vma->mm, start, size_bytes);
}

// The agent makes 32-bit programs by an exec, which leaves nothing of what was inherited.
static bool has_ia32(const FmtImage *img)
{
    const struct fmt_mm *mm;

    for (size_t i = 0; FMT_NEXT(img, MM, i, mm); i++)
        if (mm->ia32)
            return true;
    return false;
}

static void collect(struct resolve *r)
{
    bool none = has_ia32(r->c->img);

    for (guint i = 0; i < r->pieces->len; i++) {
        struct piece *piece = &g_array_index(r->pieces, struct piece, i);

        r->start[piece->vma_index] = piece->vma->start;
        r->end[piece->vma_index] = piece->vma->end;
        if (piece->first == NONE)
            continue;
        piece->first = r->n_pages;
        bool all = !none && can_share(r, piece, piece->start, piece->size_bytes);
        for (uint64_t at = 0; at < piece->size_bytes; at += VMM_PAGE_BYTES) {
            struct candidate *page = &r->pages[r->n_pages++];

            *page = (struct candidate){
                piece->from.addr + at,
                piece->start + at,
                i,
                0,
                NONE,
                0,
                0,
                none || (!all && !can_share(r, piece, piece->start + at, VMM_PAGE_BYTES))};
            page->leader = r->n_pages - 1;
        }
    }
    for (uint32_t i = 0; i < r->n_pages; i++)
        if (!r->pages[i].dropped)
            enter_page(r, i);
}

static bool is_group(const struct candidate *leader)
{
    return !leader->dropped && leader->n_members > 1;
}

/* ---- records ---- */

static struct fmt_cow *cow_of(struct resolve *r, uint32_t area, const struct fmt_vma *vma)
{
    struct fmt_cow *cow = g_hash_table_lookup(r->cows, GUINT_TO_POINTER(area + 1));

    if (cow)
        return cow;
    cow = fmt_image_add(r->c->img, FMT_COW);
    cow->start = r->start[area];
    cow->end = r->end[area];
    cow->flags = vma->flags & FMT_COW_FLAGS;
    if ((cow->object = vma->object))
        cow->offset_bytes = vma->offset_bytes - (vma->start - cow->start);
    g_hash_table_insert(r->cows, GUINT_TO_POINTER(area + 1), cow);
    return cow;
}

static GBytes *members_of(const struct resolve *r, uint32_t set)
{
    g_autoptr(GArray) members = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    while (set) {
        const struct step *step = &g_array_index(r->steps, struct step, set);
        uint64_t member = GUINT64_TO_LE((uint64_t)step->member);
        g_array_prepend_val(members, member);
        set = step->from;
    }
    return g_bytes_new(members->data, members->len * sizeof(uint64_t));
}

// 0 where there are too many, or too many addresses.
static uint64_t set_ref(struct resolve *r, const struct candidate *leader)
{
    const struct piece *piece = piece_of(r, leader);
    uint32_t area = area_of_page(r, leader);
    uint64_t key = (uint64_t)area << 32 | leader->set;
    void *known = g_hash_table_lookup(r->sets, &key);

    if (r->end[area] - r->start[area] > FMT_COW_MAX_BYTES ||
        (!known && g_hash_table_size(r->sets) == MAX_SETS))
        return 0;
    struct fmt_cow *cow = cow_of(r, area, piece->vma);
    cow->huge |= piece->size_bytes > VMM_PAGE_BYTES;
    if (known)
        return GPOINTER_TO_SIZE(known);
    struct fmt_cow_set *set = fmt_image_add(r->c->img, FMT_COW_SET);
    set->cow = cow->rec.objref;
    set->members = members_of(r, leader->set);
    g_hash_table_insert(r->sets, g_memdup2(&key, sizeof key), GSIZE_TO_POINTER(set->rec.objref));
    return set->rec.objref;
}

struct shared {
    uint64_t set, addr;
    struct gpa from;
};

static gint compare_shared(gconstpointer a, gconstpointer b)
{
    const struct shared *x = a, *y = b;

    if (x->set != y->set)
        return x->set < y->set ? -1 : 1;
    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void want_shared(struct resolve *r)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(struct shared));

    for (uint32_t i = 0; i < r->n_pages; i++) {
        struct candidate *page = &r->pages[i];

        if (page->leader != i || !is_group(page))
            continue;
        struct shared shared = {set_ref(r, page), page->addr, GPA(page->frame)};
        if (shared.set)
            g_array_append_val(all, shared);
        else
            page->dropped = true;
    }
    g_array_sort(all, compare_shared);
    for (guint i = 0; i < all->len; i++) {
        const struct shared *page = &g_array_index(all, struct shared, i);
        intro_pages_want(r->c->pages, page->set, page->addr, page->from, VMM_PAGE_BYTES,
                         FMT_PAGES_DATA);
    }
}

static void want_own(struct resolve *r)
{
    const struct fmt_vma *vma = NULL;

    for (guint i = 0; i < r->pieces->len; i++) {
        const struct piece *piece = &g_array_index(r->pieces, struct piece, i);

        if (piece->vma != vma)
            intro_pages_part(r->c->pages);
        vma = piece->vma;
        if (piece->first == NONE) {
            intro_pages_want(r->c->pages, vma->mm, piece->start, piece->from, piece->size_bytes,
                             FMT_PAGES_DATA);
            continue;
        }
        for (uint64_t at = 0; at < piece->size_bytes; at += VMM_PAGE_BYTES) {
            const struct candidate *page = &r->pages[piece->first + at / VMM_PAGE_BYTES];
            if (!is_group(&r->pages[page->leader]))
                intro_pages_want(r->c->pages, vma->mm, page->addr, GPA(page->frame), VMM_PAGE_BYTES,
                                 FMT_PAGES_DATA);
        }
    }
}

static uint32_t table_size(uint64_t n)
{
    uint32_t size = 1024;

    while (size < n && size < 1u << 30)
        size *= 2;
    return size;
}

void intro_cow_resolve(struct intro_ctx *c)
{
    uint32_t n_vmas = c->cow->n_vmas, size = table_size(c->cow->n_candidates);
    g_autofree struct candidate *pages = g_new(struct candidate, c->cow->n_candidates);
    g_autofree uint32_t *heads = g_new(uint32_t, size);
    g_autofree uint32_t *areas = g_new(uint32_t, n_vmas);
    g_autofree uint64_t *start = g_new0(uint64_t, n_vmas), *end = g_new0(uint64_t, n_vmas);
    g_autoptr(GArray) steps = g_array_new(FALSE, TRUE, sizeof(struct step));
    g_autoptr(GHashTable) step_of =
        g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    g_autoptr(GHashTable) cows = g_hash_table_new(NULL, NULL);
    g_autoptr(GHashTable) sets = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    struct resolve r = {.c = c,
                        .pieces = c->cow->pieces,
                        .pages = pages,
                        .heads = heads,
                        .mask = size - 1,
                        .steps = steps,
                        .step_of = step_of,
                        .last_key = UINT64_MAX,
                        .area_of = areas,
                        .start = start,
                        .end = end,
                        .cows = cows,
                        .sets = sets};

    memset(heads, 0xff, size * sizeof *heads);
    for (uint32_t i = 0; i < n_vmas; i++)
        areas[i] = i;
    g_array_set_size(steps, 1);
    collect(&r);
    intro_pages_part(c->pages);
    want_shared(&r);
    want_own(&r);
}
