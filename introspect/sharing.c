// SPDX-License-Identifier: GPL-2.0-or-later
// Open files that a process outside of the tree has as well (struct file, not the file on disk).
#include "introspect/fd.h"
#include "introspect/file.h"
#include "introspect/process.h"
#include "introspect/reader.h"

// What becomes of a kind when the two sides have one each.
static const struct {
    enum fmt_file_kind kind;
    enum { LOST_POSITION, LOST_TOUCH } how;
} kinds[] = {
    {FMT_FILE_REG, LOST_POSITION},   {FMT_FILE_DIR, LOST_POSITION}, {FMT_FILE_EVENTFD, LOST_TOUCH},
    {FMT_FILE_TIMERFD, LOST_TOUCH},  {FMT_FILE_EPOLL, LOST_TOUCH},  {FMT_FILE_INOTIFY, LOST_TOUCH},
    {FMT_FILE_SIGNALFD, LOST_TOUCH},
};

static uint64_t count_in_tree(const FmtImage *img, uint64_t ref)
{
    const struct fmt_fd *fd;
    uint64_t n = 0;

    for (size_t i = 0; FMT_NEXT(img, FD, i, fd); i++)
        n += fd->file == ref;
    return n;
}

static bool read_holders(struct intro_ctx *c, GError **error)
{
    return c->holders || (c->holders = intro_outside_holders(c, error)) != NULL;
}

bool intro_file_check_sharing(struct intro_ctx *c, struct gva file, uint64_t ref, GError **error)
{
    const struct fmt_file *rec = fmt_image_by_ref(c->img, ref, FMT_FILE);
    const char *holder;
    uint64_t held;
    size_t i = 0;

    while (i < G_N_ELEMENTS(kinds) && kinds[i].kind != rec->kind)
        i++;
    // Mappings and calls hold a file too: the tables of the others tell.
    if (i == G_N_ELEMENTS(kinds))
        return true;
    if (!intro_file_count(c->k, file, &held, error))
        return false;
    if (held == 1 || held <= count_in_tree(c->img, ref))
        return true;
    if (!read_holders(c, error))
        return false;
    holder = g_hash_table_lookup(c->holders, GSIZE_TO_POINTER(file.addr));
    if (!holder)
        return true;
    const char *name = rec->path ? rec->path : "an open file";
    if (kinds[i].how == LOST_POSITION)
        intro_note(c, FMT_NOTE_LOSS, "shared-file",
                   "has %s open together with %s: each has a position of its own from now on", name,
                   holder);
    else
        intro_refuse(c, "external-file", "has %s that is also held by %s", name, holder);
    return true;
}
