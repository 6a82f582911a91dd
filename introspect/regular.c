// SPDX-License-Identifier: GPL-2.0-or-later
// Files whose contents go into the image: those without a name, POSIX shared memory, and small ones
// where that is asked for.
#include "introspect/file.h"

#include <string.h>
#include <sys/stat.h>

/*
 * What memory has of a file is what is in the guest's page cache. Of a file system that lives there
 * that is everything, and a page that is missing is a hole. Of one on a disk a missing page may be
 * a hole or not have been read: such a file is not whole, unless the disk can be read (disk.c).
 */
bool intro_file_is_in_memory(const char *fstype)
{
    static const char *const names[] = {"tmpfs", "rootfs", "ramfs", "devtmpfs"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        if (strcmp(fstype, names[i]) == 0)
            return true;
    return false;
}

// File systems whose files the kernel makes up; every target has its own.
static bool is_made_up(const char *fstype)
{
    static const char *const names[] = {"proc",       "sysfs",    "cgroup",  "cgroup2",
                                        "debugfs",    "tracefs",  "bpf",     "pstore",
                                        "securityfs", "configfs", "efivarfs"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        if (strcmp(fstype, names[i]) == 0)
            return true;
    return false;
}

static bool want_all(struct intro_opened *o, const struct fmt_inode *inode,
                     enum fmt_pages_kind kind, GError **error)
{
    intro_pages_part(o->c->pages);
    return intro_pagecache(o->c, o->inode, inode->rec.objref, 0, inode->size_bytes, kind, error);
}

// Unlinked by the name that it was opened by; others lead to it still.
static bool find_other_name(struct intro_opened *o, struct fmt_inode *inode, GError **error)
{
    g_autoptr(GError) local = NULL;
    struct intro_path root;

    if (inode->path)
        return true;
    if (!intro_root(o->c, &root, error))
        return false;
    inode->path = intro_inode_path(o->c->k, o->inode, o->mnt, root, &local);
    if (inode->path)
        return true;
    if (!g_error_matches(local, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    intro_refuse(o->c, "deleted-file", "has %s open, which is no longer there under that name: %s",
                 o->name, local->message);
    return true;
}

bool intro_file_deleted(struct intro_opened *o, struct fmt_inode *inode, GError **error)
{
    bool whole;

    if (is_made_up(o->fstype) || !(S_ISREG(o->mode) || S_ISDIR(o->mode))) {
        intro_refuse(o->c, "deleted-file", "has %s open, which is no longer there", o->name);
        return true;
    }
    if (S_ISREG(o->mode) && o->nlink)
        return find_other_name(o, inode, error) &&
               (!inode->path || intro_file_carry(o, inode, error));
    if (inode->contents)
        return true; // through another descriptor
    inode->contents = FMT_CONTENTS_DELETED;
    if (S_ISDIR(o->mode))
        return true;
    if (intro_file_is_in_memory(o->fstype) &&
        !intro_pagecache_reserved(o->c->k, o->inode, &inode->reserved, error))
        return false;
    if (!intro_pagecache_is_whole(o->c, o->inode, intro_file_is_in_memory(o->fstype), &whole,
                                  error))
        return false;
    if (!whole)
        intro_refuse(o->c, "deleted-file",
                     "has %s open, which has been deleted and is not wholly in memory", o->name);
    return want_all(o, inode, FMT_PAGES_DATA, error);
}

// POSIX shared memory and named semaphores: the C library's names for memory.
static bool is_posix_memory(const struct intro_opened *o, const struct fmt_inode *inode)
{
    return g_str_has_prefix(inode->path, "/dev/shm/") && intro_file_is_in_memory(o->fstype);
}

bool intro_file_carry(struct intro_opened *o, struct fmt_inode *inode, GError **error)
{
    const bool always = is_posix_memory(o, inode);
    bool whole;

    if (inode->contents || is_made_up(o->fstype) || (!always && !o->c->opt->carry_bytes))
        return true;
    if (!always && inode->size_bytes > o->c->opt->carry_bytes) {
        inode->contents = FMT_CONTENTS_LARGE;
        return true;
    }
    if (!intro_pagecache_is_whole(o->c, o->inode, intro_file_is_in_memory(o->fstype), &whole,
                                  error))
        return false;
    // Whether the target needs it is not known here.
    inode->contents = whole ? FMT_CONTENTS_CARRIED : FMT_CONTENTS_PARTLY;
    if (!whole)
        intro_disk_later(o, inode);
    return !whole || want_all(o, inode, FMT_PAGES_CLEAN, error);
}
