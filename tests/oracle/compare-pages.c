// SPDX-License-Identifier: GPL-2.0-or-later
// Contents: which pages an address space has of its own, and what is in them.

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "tests/oracle/image-compare.h"

#define RSEQ_CS 8 // the only field of struct rseq that is the program's

struct page {
    const uint8_t *data; // NULL: zeros
    uint64_t kind;
};

static const uint8_t zeros[FMT_PAGE_BYTES];

// address -> struct page, of one owner
static GHashTable *pages_of(const FmtImage *img, uint64_t owner)
{
    GHashTable *pages = g_hash_table_new_full(NULL, NULL, NULL, g_free);

    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_extent *e = fmt_image_extent(img, i);

        for (uint64_t j = 0; e->pages.owner == owner && j < e->pages.n_pages; j++) {
            struct page *page = g_new(struct page, 1);

            page->data = e->data ? e->data + j * FMT_PAGE_BYTES : zeros;
            page->kind = e->pages.kind;
            g_hash_table_insert(pages, (void *)(e->pages.start + j * FMT_PAGE_BYTES), page);
        }
    }
    return pages;
}

// Bytes that the kernel writes when a thread is looked at from inside: what is left of a timeout,
// and on which CPU it runs.
static uint64_t time_argument(const struct fmt_task *t)
{
    switch (t->syscall) {
    case SYS_select:
    case SYS_pselect6:
        return t->r8;
    case SYS_ppoll:
        return t->rdx;
    case SYS_nanosleep:
        return t->rsi;
    case SYS_clock_nanosleep:
        return t->r10;
    default:
        return 0;
    }
}

static bool is_volatile(const struct compare *c, uint64_t addr)
{
    const struct fmt_task *t;

    for (size_t i = 0; FMT_NEXT(c->a, TASK, i, t); i++) {
        const uint64_t time = time_argument(t);

        if ((time && addr - time < 16) ||
            (t->rseq && addr - t->rseq < MAX(t->rseq_bytes, 32) && addr - t->rseq - RSEQ_CS >= 8))
            return true;
    }
    return false;
}

static void compare_contents(struct compare *c, uint64_t at, const struct page *a,
                             const struct page *b)
{
    c->n_pages++;
    if (memcmp(a->data, b->data, FMT_PAGE_BYTES) == 0)
        return;
    for (unsigned i = 0; i < FMT_PAGE_BYTES; i++) {
        if (a->data[i] == b->data[i] || is_volatile(c, at + i))
            continue;
        compare_differ(c, "page %#lx: byte %u is %02x, the guest says %02x", at, i, a->data[i],
                       b->data[i]);
        return;
    }
}

static bool is_own(const struct page *page)
{
    return page && page->kind != FMT_PAGES_CLEAN;
}

static void compare_mapping(struct compare *c, const struct fmt_vma *vma, GHashTable *a,
                            GHashTable *b)
{
    for (uint64_t at = vma->start; at < vma->end; at += FMT_PAGE_BYTES) {
        const struct page *x = g_hash_table_lookup(a, (void *)at);
        const struct page *y = g_hash_table_lookup(b, (void *)at);
        uint8_t file[FMT_PAGE_BYTES];
        struct page clean = {file, FMT_PAGES_CLEAN};

        if (c->running && vma->flags & FMT_VMA_WRITE)
            continue;
        if (is_own(x) != is_own(y)) {
            compare_differ(c, "page %#lx of the mapping at %#lx: %s", at, vma->start,
                           is_own(x) ? "the guest has none" : "only the guest has it");
            continue;
        }
        if (!x && y && fmt_image_read(c->a, vma->mm, at, file, sizeof file))
            x = &clean;
        if (x && y)
            compare_contents(c, at, x, y);
        else if (y)
            compare_differ(c, "page %#lx of the mapping at %#lx: the file's is not there", at,
                           vma->start);
    }
}

static void compare_address_space(struct compare *c, const struct fmt_mm *mm, GHashTable *a,
                                  GHashTable *b)
{
    const struct fmt_vma *vma;

    for (size_t i = 0; FMT_NEXT(c->a, VMA, i, vma); i++)
        if (vma->mm == mm->rec.objref && vma->kind != FMT_VMA_VVAR &&
            !(vma->flags & FMT_VMA_SHARED))
            compare_mapping(c, vma, a, b);
}

// What is not there is zeros.
static void compare_shm(struct compare *c, const struct fmt_shm *shm, GHashTable *a, GHashTable *b)
{
    const struct page none = {zeros, FMT_PAGES_ZERO};

    for (uint64_t at = 0; at < shm->size_bytes; at += FMT_PAGE_BYTES) {
        const struct page *x = g_hash_table_lookup(a, (void *)at);
        const struct page *y = g_hash_table_lookup(b, (void *)at);

        if (x || y)
            compare_contents(c, at, x ? x : &none, y ? y : &none);
    }
}

// Which pages of a file are in memory is chance: those that both have must be the same.
static void compare_file(struct compare *c, GHashTable *a, GHashTable *b)
{
    GHashTableIter iter;
    void *at, *page;

    g_hash_table_iter_init(&iter, a);
    while (g_hash_table_iter_next(&iter, &at, &page)) {
        const struct page *other = g_hash_table_lookup(b, at);
        if (other)
            compare_contents(c, (uint64_t)at, page, other);
    }
}

void compare_pages(struct compare *c, const void *a, const void *b)
{
    const struct fmt_record *x = a, *y = b;
    g_autoptr(GHashTable) of_a = pages_of(c->a, x->objref);
    g_autoptr(GHashTable) of_b = pages_of(c->b, y->objref);

    if (x->type == FMT_MM)
        compare_address_space(c, a, of_a, of_b);
    else if (x->type == FMT_SHM)
        compare_shm(c, a, of_a, of_b);
    else
        compare_file(c, of_a, of_b);
}
