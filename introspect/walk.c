// SPDX-License-Identifier: GPL-2.0-or-later
// Walks the kernel's generic containers: lists, red-black trees, xarrays.
#include "introspect/context.h"
#include "introspect/reader.h"

#include <string.h>

/*
 * None of these walks needs to remember where it has been, because each structure says where a node
 * belongs and that is checked: a list node's `prev` (or `pprev`) must be where we come from, an
 * xarray node's parent and offset must be the slot that leads to it. A node that is reached twice
 * fails the second time. Red-black trees keep no such proof that is cheap to read (the parent
 * shares its word with the colour), so there the depth and the number of nodes are bounded.
 */

#define MAX_RBTREE_DEPTH 128 // twice the depth of a tree with 2^64 nodes

bool intro_walk_list(IntroKernel *k, struct gva head, size_t max, intro_node_fn fn, void *user,
                     GError **error)
{
    struct gva from = head, node;

    if (!intro_get_ptr(k, head, M_list_next, &node, error))
        return false;
    for (size_t n = 0; node.addr != head.addr; n++) {
        struct gva prev, next;

        if (n == max) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                        "the list at %#" G_GINT64_MODIFIER "x has more than %zu entries", head.addr,
                        max);
            return false;
        }
        if (!intro_get_ptr(k, node, M_list_prev, &prev, error) ||
            !intro_get_ptr(k, node, M_list_next, &next, error)) {
            g_prefix_error(error, "list at %#" G_GINT64_MODIFIER "x: ", head.addr);
            return false;
        }
        if (prev.addr != from.addr) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                        "the entry at %#" G_GINT64_MODIFIER "x of the list at %#" G_GINT64_MODIFIER
                        "x does not point back to the one before it",
                        node.addr, head.addr);
            return false;
        }
        if (!fn(node, user, error))
            return false;
        from = node;
        node = next;
    }
    return true;
}

bool intro_walk_hlist(IntroKernel *k, struct gva head, size_t max, intro_node_fn fn, void *user,
                      GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva from = head, node = rd_ptr_at(&r, head);

    for (size_t n = 0; node.addr && !r.error; n++) {
        struct gva next = rd_ptr(&r, node, M_hlist_next), prev = rd_ptr(&r, node, M_hlist_pprev);

        if (r.error)
            break;
        if (n == max || prev.addr != from.addr) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                        "the hlist at %#" G_GINT64_MODIFIER "x %s", head.addr,
                        n == max ? "does not end" : "has an entry that does not point back");
            return false;
        }
        if (!fn(node, user, error))
            return false;
        from = intro_member_addr(k, node, M_hlist_next);
        node = next;
    }
    return rd_done(&r, error);
}

static bool rbtree_corrupt(struct gva root, const char *what, GError **error)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "the tree at %#" G_GINT64_MODIFIER "x is %s than it can be", root.addr, what);
    return false;
}

bool intro_walk_rbtree(IntroKernel *k, struct gva root_node, size_t max, intro_node_fn fn,
                       void *user, GError **error)
{
    struct gva above[MAX_RBTREE_DEPTH]; // nodes whose left side is being walked
    size_t depth = 0, n = 0;
    struct gva node = root_node;

    while (node.addr || depth) {
        while (node.addr) {
            if (depth == MAX_RBTREE_DEPTH)
                return rbtree_corrupt(root_node, "deeper", error);
            above[depth++] = node;
            if (!intro_get_ptr(k, node, M_rb_left, &node, error))
                return false;
        }
        node = above[--depth];
        if (n++ == max)
            return rbtree_corrupt(root_node, "larger", error);

        struct gva right;
        if (!intro_get_ptr(k, node, M_rb_right, &right, error) || !fn(node, user, error))
            return false;
        node = right;
    }
    return true;
}

/*
 * Entries of an xarray (include/linux/xarray.h, since 4.20): bit 0 set is a value; the low bits 10
 * are internal: up to 4096 a sibling (entry >> 2 is the slot that holds the entry of several slots)
 * or the marks RETRY and ZERO, above it a node; all else a pointer, 0 for empty.
 */
#define XA_RETRY ((256u << 2) | 2)
#define XA_ZERO  ((257u << 2) | 2)

#define XA_MAX_SLOTS 64

struct xa_walk {
    IntroKernel *k;
    struct gva xa;
    uint64_t first, last;
    intro_xa_fn fn;
    void *user;
    unsigned n_slots;
    unsigned chunk_shift;
};

static bool xa_is_internal(uint64_t entry)
{
    return (entry & 3) == 2;
}

static bool xa_is_node(uint64_t entry)
{
    return xa_is_internal(entry) && entry > 4096;
}

static bool xa_is_sibling(const struct xa_walk *w, uint64_t entry)
{
    return xa_is_internal(entry) && entry >> 2 < w->n_slots;
}

static bool xa_corrupt(const struct xa_walk *w, struct gva node, const char *what, GError **error)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "xarray at %#" G_GINT64_MODIFIER "x: the node at %#" G_GINT64_MODIFIER "x %s",
                w->xa.addr, node.addr, what);
    return false;
}

static bool xa_entry(struct xa_walk *w, uint64_t index, unsigned order, uint64_t entry,
                     GError **error)
{
    if (entry == 0 || entry == XA_RETRY || entry == XA_ZERO)
        return true;
    return w->fn(index, order, entry, w->user, error);
}

// The number of slots after i that belong to the entry in slot i.
static unsigned xa_n_siblings(const struct xa_walk *w, const uint64_t *slots, unsigned i)
{
    unsigned n = 0;

    while (i + n + 1 < w->n_slots && xa_is_sibling(w, slots[i + n + 1]) &&
           slots[i + n + 1] >> 2 == i)
        n++;
    return n;
}

static bool xa_read_node(struct xa_walk *w, struct gva node, struct gva parent, unsigned offset,
                         unsigned *ret_shift, uint64_t *slots, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(w->k);

    uint64_t shift = rd(&r, node, M_xa_node_shift);
    uint64_t own_offset = rd(&r, node, M_xa_node_offset);
    struct gva own_parent = rd_ptr(&r, node, M_xa_node_parent);
    rd_bytes(&r, node, M_xa_node_slots, slots, w->n_slots * sizeof(*slots));
    if (!rd_done(&r, error))
        return false;
    if (own_parent.addr != parent.addr || (parent.addr && own_offset != offset))
        return xa_corrupt(w, node, "does not belong where it was found", error);
    if (shift >= 64 || shift % w->chunk_shift)
        return xa_corrupt(w, node, "has a shift that no node has", error);
    for (unsigned i = 0; i < w->n_slots; i++)
        slots[i] = GUINT64_FROM_LE(slots[i]);
    *ret_shift = (unsigned)shift;
    return true;
}

// Walks the node that covers the indices from `base` on; below: the shift that its own must be
// under.
static bool xa_walk_node(struct xa_walk *w, struct gva node, struct gva parent, unsigned offset,
                         unsigned below, uint64_t base, GError **error)
{
    uint64_t slots[XA_MAX_SLOTS];
    unsigned shift;

    if (!xa_read_node(w, node, parent, offset, &shift, slots, error))
        return false;
    if (parent.addr ? shift + w->chunk_shift != below : shift >= below)
        return xa_corrupt(w, node, "is at the wrong level", error);

    for (unsigned i = 0; i < w->n_slots; i++) {
        uint64_t entry = slots[i];
        uint64_t index = base + ((uint64_t)i << shift);
        unsigned n_siblings = xa_n_siblings(w, slots, i);
        unsigned order = shift + g_bit_nth_msf(n_siblings + 1, -1);
        uint64_t index_last = index + (((uint64_t)n_siblings + 1) << shift) - 1;

        if (i && index <= base) // beyond 2^64 in the topmost node
            break;
        if (index > w->last)
            break;
        if (entry == 0 || xa_is_sibling(w, entry) || index_last < w->first)
            continue;
        if (!xa_is_node(entry)) {
            if (!xa_entry(w, index, order, entry, error))
                return false;
        } else if (shift == 0) {
            return xa_corrupt(w, node, "has a node below the lowest level", error);
        } else if (!xa_walk_node(w, GVA(entry - 2), node, i, shift, index, error)) {
            return false;
        }
    }
    return true;
}

bool intro_walk_xarray(IntroKernel *k, struct gva xa, uint64_t first, uint64_t last, intro_xa_fn fn,
                       void *user, GError **error)
{
    const struct intro_place *slots = intro_place(k, M_xa_node_slots);
    struct xa_walk w = {.k = k, .xa = xa, .first = first, .last = last, .fn = fn, .user = user};
    uint64_t head;

    w.n_slots = slots->n_elements;
    if (w.n_slots != 64 && w.n_slots != 16) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_LAYOUT, "struct xa_node has %u slots",
                    w.n_slots);
        return false;
    }
    w.chunk_shift = w.n_slots == 64 ? 6 : 4;

    if (!intro_get(k, xa, M_xarray_head, &head, error))
        return false;
    if (xa_is_node(head))
        return xa_walk_node(&w, GVA(head - 2), GVA(0), 0, 64, 0, error);
    return first > 0 || xa_entry(&w, 0, 0, head, error);
}
