// SPDX-License-Identifier: GPL-2.0-or-later
// Where in physical memory the pages of a process are.
#include "introspect/place.h"

#include "introspect/process.h"

struct frames {
    struct gva start;
    uint64_t n_pages, n_found;
    struct gpa *ret;
};

static bool found(const struct intro_user_page *page, bool present, void *user)
{
    struct frames *f = user;
    uint64_t end = f->start.addr + f->n_pages * VMM_PAGE_BYTES;

    if (!present || !page->is_ram)
        return false;
    for (uint64_t at = MAX(page->at.addr, f->start.addr);
         at < MIN(page->at.addr + page->size_bytes, end); at += VMM_PAGE_BYTES) {
        f->ret[(at - f->start.addr) / VMM_PAGE_BYTES] =
            GPA(page->frame.addr + (at - page->at.addr));
        f->n_found++;
    }
    return true;
}

bool intro_user_root(IntroKernel *k, uint32_t pid, struct gva *ret_pgd, GError **error)
{
    struct gva task, mm;

    return intro_find_process(k, pid, &task, error) &&
           intro_get_ptr(k, task, M_task_mm, &mm, error) &&
           intro_get_ptr(k, mm, M_mm_pgd, ret_pgd, error);
}

bool intro_user_frames(IntroKernel *k, struct gva pgd, struct gva start, uint64_t n_pages,
                       struct gpa *ret, GError **error)
{
    struct frames frames = {.start = start, .n_pages = n_pages, .ret = ret};
    struct gva end = GVA(start.addr + n_pages * VMM_PAGE_BYTES);

    if (!intro_walk_user(k, pgd, start, end, found, &frames, error))
        return false;
    if (frames.n_found == n_pages)
        return true;
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_NOT_PRESENT,
                "not all of %" G_GUINT64_FORMAT " pages from %" G_GINT64_MODIFIER
                "x on are in memory",
                n_pages, start.addr);
    return false;
}
