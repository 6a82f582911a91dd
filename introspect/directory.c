// SPDX-License-Identifier: GPL-2.0-or-later
// Directories that somebody is in the middle of reading: which names are still to come.
#include "introspect/file.h"
#include "introspect/reader.h"

#include <string.h>
#include <sys/stat.h>

/*
 * A position in a directory is a cookie of its file system and means nothing elsewhere. What
 * getdents has yet to give does. For file systems whose names are in memory (fs/libfs.c) that is
 * found from the kernel's own cursor; of others only the end is known, by the cookie that each has
 * for it. Most readers are there: the C library reads ahead.
 *
 * dcache_readdir goes along the children and leaves a dentry without an inode before the one that
 * comes next, or in no list at the end. offset_readdir (tmpfs since 6.6) numbers the children
 * (d_fsdata) and goes by their numbers: upwards, or since 6.14 and in its stable releases along the
 * children, the newest first.
 */

#define MAX_CHILDREN  (1u << 22)
#define MAX_BYTES     (64u << 20)
#define FIRST_CHILD   2 // position, behind . and ..
#define OFFSET_EOD    INT32_MAX
#define KERNEL_ENOENT ((uint64_t)-2)

struct reading {
    struct intro_ctx *c;
    uint64_t pos;
    GByteArray *unread;
    struct gva cursor; // dentry
    bool begun;        // along the children: what follows is unread
    uint64_t end;      // by numbers: those from here on came after the directory was opened
    bool (*is_next)(struct reading *d, IntroReader *r, struct gva child);
    bool each; // ask is_next for each child, not only until it says yes
};

static void add_name(struct reading *d, const char *name)
{
    g_byte_array_append(d->unread, (const guint8 *)name, (guint)strlen(name) + 1);
}

static bool is_cursor(struct reading *d, IntroReader *r, struct gva child)
{
    return child.addr == d->cursor.addr;
}

static bool has_number(struct reading *d, IntroReader *r, struct gva child)
{
    return rd(r, child, M_dentry_fsdata) == d->pos;
}

static bool is_in_numbers(struct reading *d, IntroReader *r, struct gva child)
{
    const uint64_t number = rd(r, child, M_dentry_fsdata);

    return number >= d->pos && number < d->end;
}

static bool look_at_child(struct gva node, void *user, GError **error)
{
    struct reading *d = user;
    g_auto(IntroReader) r = INTRO_READER(d->c->k);
    struct gva child = intro_container(d->c->k, node, M_dentry_sibling);

    if (d->each || !d->begun)
        d->begun = d->is_next(d, &r, child);
    // As simple_positive: no cursors of others, nothing that was removed or is not there.
    if (!d->begun || !rd(&r, child, M_dentry_inode) || !rd(&r, child, M_dentry_hash_pprev))
        return rd_done(&r, error);
    if (!rd_done(&r, error))
        return false;
    g_autofree char *name = intro_dentry_name(d->c->k, child, error);
    if (!name)
        return false;
    if (d->unread->len > MAX_BYTES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "dentry at %#" G_GINT64_MODIFIER "x: more names than a directory has",
                    child.addr);
        return false;
    }
    add_name(d, name);
    return true;
}

static bool look_at_children(struct reading *d, struct gva dir, GError **error)
{
    struct gva head = intro_member_addr(d->c->k, dir, M_dentry_children);
    // The first alternative is the hlist.
    const bool hlist = intro_place(d->c->k, M_dentry_children)->alternative == 0;

    return (hlist ? intro_walk_hlist : intro_walk_list)(d->c->k, head, MAX_CHILDREN, look_at_child,
                                                        d, error);
}

static bool is_function(IntroKernel *k, struct gva at, const char *name)
{
    struct gva symbol;

    return intro_symbol(k, name, &symbol, NULL) && symbol.addr == at.addr;
}

// *ret_known: whether d->unread holds the rest.
static bool read_children(struct intro_opened *o, struct reading *d, struct gva dir,
                          bool *ret_known, GError **error)
{
    IntroKernel *k = d->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva iterate = rd_ptr(&r, rd_ptr(&r, o->file, M_file_op), M_fop_iterate_shared);
    uint64_t private = rd(&r, o->file, M_file_private);
    struct gva symbol;

    if (!rd_done(&r, error))
        return false;
    *ret_known = true;
    if (d->pos <= FIRST_CHILD)
        d->begun = true;
    if (is_function(k, iterate, "dcache_readdir")) {
        d->cursor = GVA(private);
        d->is_next = is_cursor;
    } else if (!is_function(k, iterate, "offset_readdir")) {
        *ret_known = d->begun = false;
        return true;
    } else if (intro_symbol(k, "offset_dir_lookup", &symbol, NULL)) {
        d->is_next = has_number;
        if (d->pos == OFFSET_EOD)
            return true;
    } else {
        d->each = true;
        d->is_next = is_in_numbers;
        if (private == KERNEL_ENOENT)
            return true;
        // The number that the directory gave next when it was opened; before 6.10 nothing.
        d->end = private ? private : UINT64_MAX;
    }
    if (d->pos == 0)
        add_name(d, ".");
    if (d->pos <= 1)
        add_name(d, "..");
    return look_at_children(d, dir, error);
}

static bool is_end(const char *fstype, uint64_t pos, uint64_t size_bytes)
{
    static const struct {
        const char *fstype;
        uint64_t pos;
    } ends[] = {
        {"ext4", INT64_MAX},  {"ext4", INT32_MAX},   {"ext3", INT64_MAX},    {"ext3", INT32_MAX},
        {"btrfs", INT64_MAX}, {"btrfs", INT32_MAX},  {"sysfs", INT32_MAX},   {"cgroup2", INT32_MAX},
        {"f2fs", INT64_MAX},  {"cgroup", INT32_MAX}, {"debugfs", INT32_MAX},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++)
        if (strcmp(ends[i].fstype, fstype) == 0 && ends[i].pos == pos)
            return true;
    // Without an index a position there is an offset in the directory's blocks.
    return g_str_has_prefix(fstype, "ext") && size_bytes > 0 && pos == size_bytes;
}

bool intro_directory_position(struct intro_opened *o, const struct fmt_inode *inode, GError **error)
{
    g_autoptr(GByteArray) unread = g_byte_array_new();
    struct reading d = {.c = o->c, .pos = o->rec->pos, .unread = unread};
    struct gva dir;
    bool known;

    if (o->rec->pos == 0 || o->rec->deleted)
        return true; // nothing comes from a deleted one
    if (!intro_get_ptr(o->c->k, o->file, M_file_path_dentry, &dir, error) ||
        !read_children(o, &d, dir, &known, error))
        return false;
    if (!known && !is_end(o->fstype, o->rec->pos, inode->size_bytes)) {
        intro_refuse(o->c, "directory-position",
                     "is in the middle of reading the directory %s (%s)", o->name, o->fstype);
        return true;
    }
    o->rec->reading = 1;
    if (unread->len > 0)
        o->rec->unread = g_byte_array_free_to_bytes(g_steal_pointer(&unread));
    return true;
}
