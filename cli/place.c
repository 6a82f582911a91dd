// SPDX-License-Identifier: GPL-2.0-or-later
// Puts page contents straight into the RAM of the target guest, past the agent's channel.
#include "cli/place.h"

#include "introspect/place.h"

// As struct agent_place_mark in guestagent/restore.h.
struct mark {
    uint64_t nonce, address;
};

uint64_t cli_place_bytes(const FmtImage *img)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_extent *extent = fmt_image_extent(img, i);

        if (extent->pages.kind == FMT_PAGES_DATA &&
            (fmt_image_by_ref(img, extent->pages.owner, FMT_MM) ||
             fmt_image_by_ref(img, extent->pages.owner, FMT_COW_SET)))
            bytes += extent->pages.n_pages * FMT_PAGE_BYTES;
    }
    return bytes;
}

struct space {
    uint64_t mm;
    struct gva root;
};

// Where the page tables of each address space are: mm -> struct space.
static GHashTable *find_spaces(struct cli_guest *target, struct json_object *list, GError **error)
{
    g_autoptr(GHashTable) spaces = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);

    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i);
        g_autofree struct space *space = g_new0(struct space, 1);

        space->mm = (uint64_t)agent_json_int(one, "mm", 0);
        if (!intro_user_root(target->kernel, (uint32_t)agent_json_int(one, "pid", 0), &space->root,
                             error))
            return NULL;
        g_hash_table_replace(spaces, &space->mm, space);
        g_steal_pointer(&space);
    }
    return g_steal_pointer(&spaces);
}

// Who has the pages of an extent: one address space, or all that have pages in common, each of
// which may have its own copy. The last owner is remembered.
struct holders {
    struct cli_guest *target;
    const FmtImage *img;
    GHashTable *spaces;
    uint64_t owner;
    GArray *roots; // struct gva
};

static bool add_holder(struct holders *h, uint64_t mm, GError **error)
{
    const struct space *space = g_hash_table_lookup(h->spaces, &mm);

    if (space) {
        g_array_append_val(h->roots, space->root);
        return true;
    }
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                "the agent does not say who has address space %" G_GUINT64_FORMAT, mm);
    return false;
}

static bool find_holders(struct holders *h, uint64_t owner, GError **error)
{
    const struct fmt_cow_set *set = fmt_image_by_ref(h->img, owner, FMT_COW_SET);

    if (h->owner == owner)
        return true;
    h->owner = owner;
    g_array_set_size(h->roots, 0);
    for (size_t i = 0; set && i < fmt_cow_set_count(set); i++)
        if (!add_holder(h, fmt_cow_set_member(set, i), error))
            return false;
    return set || add_holder(h, owner, error);
}

// What is to be written where, and which page of its process that is.
struct placing {
    GArray *stores;     // struct vmm_store, one per frame
    GArray *addresses;  // uint64_t of each
    GHashTable *frames; // set of frames that several processes have
};

// The pages of an extent as one process has them.
static bool add_pages(const struct holders *h, const struct fmt_extent *extent, struct gva root,
                      struct placing *p, GError **error)
{
    struct gpa frames[FMT_EXTENT_MAX_PAGES];

    if (!intro_user_frames(h->target->kernel, root, GVA(extent->pages.start), extent->pages.n_pages,
                           frames, error))
        return false;
    for (uint64_t j = 0; j < extent->pages.n_pages; j++) {
        const uint64_t address = extent->pages.start + j * FMT_PAGE_BYTES;
        const struct vmm_store store = {frames[j], extent->data + j * FMT_PAGE_BYTES,
                                        FMT_PAGE_BYTES};

        // Several may have it in one frame.
        if (h->roots->len > 1 &&
            !g_hash_table_add(p->frames, GSIZE_TO_POINTER(frames[j].addr >> VMM_PAGE_SHIFT)))
            continue;
        g_array_append_val(p->stores, store);
        g_array_append_val(p->addresses, address);
    }
    return true;
}

static bool find_pages(struct holders *h, const GArray *placed, struct placing *p, GError **error)
{
    for (guint i = 0; i < placed->len; i++) {
        const struct fmt_extent *extent = &g_array_index(placed, struct fmt_extent, i);

        if (!find_holders(h, extent->pages.owner, error))
            return false;
        for (guint j = 0; j < h->roots->len; j++)
            if (!add_pages(h, extent, g_array_index(h->roots, struct gva, j), p, error))
                return false;
    }
    return true;
}

static bool check_marks(struct cli_guest *target, const struct placing *p, uint64_t nonce,
                        GError **error)
{
    const guint n = p->stores->len;
    g_autofree struct mark *marks = g_new0(struct mark, n);
    g_autofree struct vmm_copy *copies = g_new(struct vmm_copy, n);

    for (guint i = 0; i < n; i++)
        copies[i] = (struct vmm_copy){g_array_index(p->stores, struct vmm_store, i).to, &marks[i],
                                      sizeof(*marks)};
    if (!vmm_memory_read_bulk(vmm_machine_memory(target->vm), copies, n, 0, error))
        return false;
    for (guint i = 0; i < n; i++) {
        const uint64_t address = g_array_index(p->addresses, uint64_t, i);

        if (marks[i].nonce == nonce && marks[i].address == address)
            continue;
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "the page at %" G_GINT64_MODIFIER "x is not where its page tables say",
                    address);
        return false;
    }
    return true;
}

bool cli_place(struct cli *cli, struct cli_guest *target, const FmtImage *img, const GArray *placed,
               uint64_t nonce, struct json_object *spaces, GError **error)
{
    g_autoptr(GArray) stores = g_array_new(FALSE, FALSE, sizeof(struct vmm_store));
    g_autoptr(GArray) addresses = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GArray) roots = g_array_new(FALSE, FALSE, sizeof(struct gva));
    g_autoptr(GHashTable) frames = g_hash_table_new(NULL, NULL);
    struct placing placing = {stores, addresses, frames};
    struct holders holders = {.target = target, .img = img, .roots = roots};
    bool ok;

    if (!cli_guest_pause(target, error))
        return false;
    g_autoptr(GHashTable) by_mm = holders.spaces = find_spaces(target, spaces, error);
    ok = by_mm && find_pages(&holders, placed, &placing, error) &&
         check_marks(target, &placing, nonce, error) &&
         vmm_machine_store(target->vm, (const struct vmm_store *)(const void *)stores->data,
                           stores->len, error);
    if (!vmm_machine_resume(target->vm, ok ? error : NULL))
        return false;
    if (ok)
        cli_debug(cli, "%s: %u pages placed, paused %.1f ms", target->target, stores->len,
                  (double)vmm_machine_pause_ns(target->vm) / 1e6);
    return ok;
}
