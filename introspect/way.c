// SPDX-License-Identifier: GPL-2.0-or-later
// The directories that lead to what the target may have to make: those of a socket or a FIFO lie in
// /tmp as often as not, under a name of that moment.
#include "introspect/context.h"
#include "introspect/reader.h"

#define MAX_DEPTH 4096 // a path of PATH_MAX has fewer names than that

static bool record(struct intro_ctx *c, struct intro_path where, struct intro_path root,
                   GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva inode = rd_ptr(&r, where.dentry, M_dentry_inode);
    g_autofree char *path = NULL;
    bool deleted;

    if (!rd_done(&r, error) || !(path = intro_path_str(c->k, where, root, &deleted, error)))
        return false;
    struct fmt_directory *rec = intro_object_add(c, where.dentry, FMT_DIRECTORY);
    rec->path = g_steal_pointer(&path);
    rec->mode = rd(&r, inode, M_inode_mode) & 07777;
    rec->uid = rd(&r, inode, M_inode_uid);
    rec->gid = rd(&r, inode, M_inode_gid);
    return rd_done(&r, error);
}

bool intro_way(struct intro_ctx *c, struct intro_path place, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct intro_path root;

    if (!intro_root(c, &root, error))
        return false;
    uint64_t top = rd(&r, place.mnt, M_vfsmount_root);
    for (unsigned n = 0; n < MAX_DEPTH; n++) {
        place.dentry = rd_ptr(&r, place.dentry, M_dentry_parent);
        if (!rd_done(&r, error))
            return false;
        // What is mounted somewhere is made by a mount.
        if (place.dentry.addr == top || place.dentry.addr == root.dentry.addr ||
            intro_object_ref(c, place.dentry))
            return true;
        if (!record(c, place, root, error))
            return false;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "dentry at %#" G_GINT64_MODIFIER "x: its parents do not end", place.dentry.addr);
    return false;
}
