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
            fmt_image_by_ref(img, extent->pages.owner, FMT_MM))
            bytes += extent->pages.n_pages * FMT_PAGE_BYTES;
    }
    return bytes;
}

static uint32_t pid_of(struct json_object *spaces, uint64_t mm)
{
    for (size_t i = 0; spaces && i < json_object_array_length(spaces); i++) {
        struct json_object *one = json_object_array_get_idx(spaces, i);

        if ((uint64_t)agent_json_int(one, "mm", 0) == mm)
            return (uint32_t)agent_json_int(one, "pid", 0);
    }
    return 0;
}

// One vmm_store per page, in order of placed.
static bool find_pages(struct cli_guest *target, const GArray *placed, struct json_object *spaces,
                       GArray *stores, GError **error)
{
    struct gpa frames[FMT_EXTENT_MAX_PAGES];
    struct gva pgd = GVA(0);
    uint64_t mm = 0;

    for (guint i = 0; i < placed->len; i++) {
        const struct fmt_extent *extent = &g_array_index(placed, struct fmt_extent, i);

        if (mm != extent->pages.owner &&
            !intro_user_root(target->kernel, pid_of(spaces, extent->pages.owner), &pgd, error))
            return false;
        mm = extent->pages.owner;
        if (!intro_user_frames(target->kernel, pgd, GVA(extent->pages.start), extent->pages.n_pages,
                               frames, error))
            return false;
        for (uint64_t j = 0; j < extent->pages.n_pages; j++) {
            struct vmm_store store = {frames[j], extent->data + j * FMT_PAGE_BYTES, FMT_PAGE_BYTES};
            g_array_append_val(stores, store);
        }
    }
    return true;
}

static bool check_mark(const struct mark *mark, uint64_t nonce, uint64_t address, GError **error)
{
    if (mark->nonce == nonce && mark->address == address)
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                "the page at %" G_GINT64_MODIFIER "x is not where its page tables say", address);
    return false;
}

static bool check_marks(struct cli_guest *target, const GArray *placed, const GArray *stores,
                        uint64_t nonce, GError **error)
{
    g_autofree struct mark *marks = g_new0(struct mark, stores->len);
    g_autofree struct vmm_copy *copies = g_new(struct vmm_copy, stores->len);
    guint n = 0;

    for (guint i = 0; i < stores->len; i++)
        copies[i] = (struct vmm_copy){g_array_index(stores, struct vmm_store, i).to, &marks[i],
                                      sizeof(*marks)};
    if (!vmm_memory_read_bulk(vmm_machine_memory(target->vm), copies, stores->len, 0, error))
        return false;
    for (guint i = 0; i < placed->len; i++) {
        const struct fmt_pages *pages = &g_array_index(placed, struct fmt_extent, i).pages;

        for (uint64_t j = 0; j < pages->n_pages; j++, n++)
            if (!check_mark(&marks[n], nonce, pages->start + j * FMT_PAGE_BYTES, error))
                return false;
    }
    return true;
}

bool cli_place(struct cli *cli, struct cli_guest *target, const GArray *placed, uint64_t nonce,
               struct json_object *spaces, GError **error)
{
    g_autoptr(GArray) stores = g_array_new(FALSE, FALSE, sizeof(struct vmm_store));
    bool ok;

    if (!cli_guest_pause(target, error))
        return false;
    ok = find_pages(target, placed, spaces, stores, error) &&
         check_marks(target, placed, stores, nonce, error) &&
         vmm_machine_store(target->vm, (const struct vmm_store *)(const void *)stores->data,
                           stores->len, error);
    if (!vmm_machine_resume(target->vm, ok ? error : NULL))
        return false;
    if (ok)
        cli_debug(cli, "%s: %u pages placed, paused %.1f ms", target->target, stores->len,
                  (double)vmm_machine_pause_ns(target->vm) / 1e6);
    return ok;
}
