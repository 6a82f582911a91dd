// SPDX-License-Identifier: GPL-2.0-or-later
// What is in an image, for people.
#include "formats/summary.h"

#include <inttypes.h>
#include <string.h>

#include "formats/outfile.h"
#include "formats/stream.h"

static void count_pages(const FmtImage *img, uint64_t owner, struct fmt_proc_summary *sum)
{
    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_pages *pages = &fmt_image_extent(img, i)->pages;

        if (owner && pages->owner != owner)
            continue;
        switch ((enum fmt_pages_kind)pages->kind) {
        case FMT_PAGES_PLACED:
        case FMT_PAGES_DATA:
            sum->data_pages += pages->n_pages;
            break;
        case FMT_PAGES_ZERO:
            sum->zero_pages += pages->n_pages;
            break;
        case FMT_PAGES_HASHED:
        case FMT_PAGES_CLEAN:
            sum->clean_pages += pages->n_pages;
            break;
        }
    }
}

static uint64_t inherited_pages(const FmtImage *img, uint64_t mm)
{
    uint64_t n = 0;

    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_pages *pages = &fmt_image_extent(img, i)->pages;
        const struct fmt_cow_set *set = fmt_image_by_ref(img, pages->owner, FMT_COW_SET);

        n += set && fmt_cow_set_has(set, mm) ? pages->n_pages : 0;
    }
    return n;
}

static void count_fds(const FmtImage *img, uint64_t files, struct fmt_proc_summary *sum)
{
    const struct fmt_fd *fd;

    for (size_t i = 0; FMT_NEXT(img, FD, i, fd); i++)
        sum->n_fds += fd->files == files;
}

struct fmt_proc_summary fmt_proc_summary(const FmtImage *img, const struct fmt_proc *proc)
{
    struct fmt_proc_summary sum = {0};
    const struct fmt_task *task;
    const struct fmt_vma *vma;

    for (size_t i = 0; FMT_NEXT(img, TASK, i, task); i++) {
        if (task->proc != proc->rec.objref)
            continue;
        // Threads with tables of their own are rare; the leader's stands for the process.
        if (sum.n_threads++ == 0)
            count_fds(img, task->files, &sum);
    }
    for (size_t i = 0; proc->mm && FMT_NEXT(img, VMA, i, vma); i++) {
        if (vma->mm == proc->mm) {
            sum.n_vmas++;
            sum.mapped_bytes += vma->end - vma->start;
        }
    }
    if (proc->mm) {
        count_pages(img, proc->mm, &sum);
        sum.inherited_pages = inherited_pages(img, proc->mm);
    }
    return sum;
}

static void add_count(GString *text, uint64_t n, const char *what)
{
    g_string_append_printf(text, "%" PRIu64 " %s%s, ", n, what, n == 1 ? "" : "s");
}

static void add_size(GString *text, uint64_t pages, const char *what)
{
    g_autofree char *size = fmt_size_text(pages * FMT_PAGE_BYTES);

    if (pages > 0)
        g_string_append_printf(text, "%s %s, ", size, what);
}

static void add_proc(GString *text, const FmtImage *img, const struct fmt_proc *proc)
{
    static const char *const states[] = {"", ", stopped", ", zombie"};
    struct fmt_proc_summary sum = fmt_proc_summary(img, proc);

    g_string_append_printf(text, "process %" PRIu64 " (%s)%s: ", proc->pid,
                           proc->comm ? proc->comm : "?",
                           proc->state < G_N_ELEMENTS(states) ? states[proc->state] : "");
    add_count(text, sum.n_threads, "thread");
    add_count(text, sum.n_fds, "descriptor");
    add_count(text, sum.n_vmas, "mapping");
    add_size(text, sum.data_pages, "of its own");
    add_size(text, sum.inherited_pages, "shared since a fork");
    add_size(text, sum.zero_pages, "of zeros");
    add_size(text, sum.clean_pages, "as in its files");
    g_string_truncate(text, text->len - strlen(", "));
    g_string_append(text, "\n");
    if (proc->cmdline)
        g_string_append_printf(text, "  %s\n", proc->cmdline);
}

static void add_head(GString *text, const struct fmt_head *head)
{
    g_autoptr(GDateTime) time =
        g_date_time_new_from_unix_utc(head->realtime_ns / G_GINT64_CONSTANT(1000000000));
    g_autofree char *when = time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S UTC") : NULL;

    g_string_append_printf(text, "vmgraft image, format %" PRIu64 "%s\n", head->format,
                           head->forensic ? ", forensic: cannot be restored" : "");
    g_string_append_printf(text, "from %s: %s, Linux %s %s\n", head->source ? head->source : "?",
                           head->hostname ? head->hostname : "?",
                           head->release ? head->release : "?", head->machine ? head->machine : "");
    g_string_append_printf(text, "taken %s, paused for %.1f ms\n", when ? when : "?",
                           head->pause_ns / 1e6);
}

static void add_note(GString *text, const struct fmt_note *note)
{
    static const char *const levels[] = {"note", "lost", "refused"};

    g_string_append_printf(text, "%s [%s]: %s\n",
                           note->level < G_N_ELEMENTS(levels) ? levels[note->level] : "?",
                           note->kind ? note->kind : "", note->text ? note->text : "");
}

char *fmt_image_summary(const FmtImage *img)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const struct fmt_proc *proc;
    const struct fmt_note *note;
    g_autofree char *size = fmt_size_text(fmt_encoded_size(img));

    add_head(text, fmt_image_nth(img, FMT_HEAD, 0));
    for (size_t i = 0; FMT_NEXT(img, PROC, i, proc); i++)
        add_proc(text, img, proc);
    for (size_t i = 0; FMT_NEXT(img, NOTE, i, note); i++)
        add_note(text, note);
    g_string_append_printf(text, "%s in all, %zu runs of pages\n", size, fmt_image_n_extents(img));
    return g_string_free(g_steal_pointer(&text), false);
}
