// SPDX-License-Identifier: GPL-2.0-or-later
// Maple trees (include/linux/maple_tree.h, since 6.1): the entries in order of index.
#include "introspect/mm.h"

/*
 * A node pointer carries its type in bits 3..6 and flags in the lower ones; nodes are 256-byte
 * aligned. A node of n slots has n - 1 pivots: slot i covers up to and including pivot i, the last
 * used slot up to the node's own maximum. The node ends at the first pivot that is 0 (but the
 * first) or reaches that maximum.
 */
#define NODE_MASK         (~(uint64_t)0xff)
#define NODE_TYPE(e)      (((e) >> 3) & 0xf)
#define MAX_DEPTH         24
#define XA_IS_INTERNAL(e) (((e)&3) == 2)

// enum maple_type
enum { MAPLE_DENSE, MAPLE_LEAF_64, MAPLE_RANGE_64, MAPLE_ARANGE_64 };

struct maple_walk {
    IntroKernel *k;
    size_t left; // entries and nodes that may still come
    intro_node_fn fn;
    void *user;
};

static bool corrupt(GError **error, uint64_t at, const char *what)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "maple node at %" G_GINT64_MODIFIER "x: %s", at, what);
    return false;
}

static bool walk_node(struct maple_walk *w, uint64_t enode, uint64_t max, unsigned depth,
                      GError **error);

static bool visit(struct maple_walk *w, uint64_t slot, bool leaf, uint64_t max, unsigned depth,
                  GError **error)
{
    if (slot == 0)
        return true;
    if (!leaf)
        return walk_node(w, slot, max, depth + 1, error);
    if (slot & 3) // value and reserved entries: nothing that we look for
        return true;
    if (w->left-- == 0)
        return corrupt(error, slot, "more entries than the tree can have");
    return w->fn(GVA(slot), w->user, error);
}

static bool walk_node(struct maple_walk *w, uint64_t enode, uint64_t max, unsigned depth,
                      GError **error)
{
    uint64_t node = enode & NODE_MASK;
    unsigned type = NODE_TYPE(enode);
    bool wide = type == MAPLE_ARANGE_64;
    const struct intro_place *pivots = intro_place(w->k, wide ? M_ma64_pivot : M_mr64_pivot);
    const struct intro_place *slots = intro_place(w->k, wide ? M_ma64_slot : M_mr64_slot);
    uint64_t pivot[32], slot[32];

    if (type != MAPLE_LEAF_64 && type != MAPLE_RANGE_64 && type != MAPLE_ARANGE_64)
        return corrupt(error, enode, "unknown type");
    if (depth > MAX_DEPTH || w->left-- == 0)
        return corrupt(error, enode, "too deep: a loop");
    if (pivots->n_elements > 31 || slots->n_elements > 32)
        return corrupt(error, enode, "more slots than any kernel has");
    if (!intro_read(w->k, GVA(node + pivots->offset), pivot, pivots->n_elements * 8, error) ||
        !intro_read(w->k, GVA(node + slots->offset), slot, slots->n_elements * 8, error))
        return false;

    for (unsigned i = 0; i < slots->n_elements; i++) {
        bool last = i >= pivots->n_elements || pivot[i] >= max || (i > 0 && pivot[i] == 0);

        if (!visit(w, slot[i], type == MAPLE_LEAF_64, last ? max : pivot[i], depth, error))
            return false;
        if (last)
            break;
    }
    return true;
}

bool intro_walk_maple(IntroKernel *k, struct gva tree, size_t max, intro_node_fn fn, void *user,
                      GError **error)
{
    // Inner nodes have at least half of ten slots in use, so there are fewer nodes than entries.
    struct maple_walk walk = {k, 2 * max + 64, fn, user};
    struct gva root;

    if (!intro_get_ptr(k, tree, M_maple_root, &root, error))
        return false;
    if (root.addr == 0)
        return true;
    if (XA_IS_INTERNAL(root.addr) && root.addr > 4096)
        return walk_node(&walk, root.addr, UINT64_MAX, 0, error);
    return visit(&walk, root.addr, true, UINT64_MAX, 0, error);
}
