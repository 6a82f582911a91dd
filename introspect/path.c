// SPDX-License-Identifier: GPL-2.0-or-later
// Paths of open files and directories, as the guest's own d_path would give them.
#include "introspect/context.h"
#include "introspect/reader.h"

#include <limits.h>
#include <string.h>

/*
 * A path is found from its end: up from the dentry to the root of its file system, from there to
 * the place where that is mounted, and on, until the wanted root. A walk that comes to the top of
 * the mount tree without meeting the root has left a chroot, one that comes to a mount without a
 * namespace belongs to a detached mount (umount -l, open_tree): neither has a name that a process
 * could open.
 */

#define MAX_STEPS 8192  // dentries and mounts; a path of PATH_MAX has fewer names than that
#define MAX_LINKS 65536 // ext4 allows 65000
#define MAX_NAME  1024  // file systems keep to 255 bytes, names of pseudo files may be longer

// What d_dname makes of the names of files that no path leads to.
static const struct pseudo {
    const char *fstype;
    const char *prefix;
    enum { INODE_NUMBER, NAME, NOTHING } rest;
} pseudos[] = {
    {"pipefs", "pipe:", INODE_NUMBER},
    {"sockfs", "socket:", INODE_NUMBER},
    {"anon_inodefs", "anon_inode:", NAME},
    {"pidfs", "anon_inode:[pidfd]", NOTHING}, // since 6.9; before, pidfds were anonymous inodes
    {"tmpfs", "/", NAME},
    {"hugetlbfs", "/", NAME},
};

char *intro_dentry_name(IntroKernel *k, struct gva dentry, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva name = rd_ptr(&r, dentry, M_dentry_name);
    uint64_t len = rd(&r, dentry, M_dentry_name_len);

    if (!rd_done(&r, error))
        return NULL;
    if (len > MAX_NAME) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "dentry at %#" G_GINT64_MODIFIER "x: a name of %" G_GUINT64_FORMAT " bytes",
                    dentry.addr, len);
        return NULL;
    }
    g_autofree char *text = g_malloc0(len + 1);
    if (!intro_read(k, name, text, len, error))
        return NULL;
    return g_steal_pointer(&text);
}

static char *pseudo_path(IntroKernel *k, struct gva dentry, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva inode = rd_ptr(&r, dentry, M_dentry_inode);
    uint64_t ino = inode.addr ? rd(&r, inode, M_inode_ino) : 0;
    struct gva type = rd_ptr(&r, rd_ptr(&r, dentry, M_dentry_sb), M_sb_type);
    struct gva type_name = rd_ptr(&r, type, M_fstype_name);

    if (!rd_done(&r, error))
        return NULL;
    g_autofree char *fstype = intro_read_str(k, type_name, 64, error);
    if (!fstype)
        return NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(pseudos); i++) {
        if (strcmp(pseudos[i].fstype, fstype) != 0)
            continue;
        if (pseudos[i].rest == INODE_NUMBER)
            return g_strdup_printf("%s[%" G_GUINT64_FORMAT "]", pseudos[i].prefix, ino);
        if (pseudos[i].rest == NOTHING)
            return g_strdup(pseudos[i].prefix);
        g_autofree char *name = intro_dentry_name(k, dentry, error);
        return name ? g_strconcat(pseudos[i].prefix, name, NULL) : NULL;
    }
    return g_strdup_printf("%s:[%" G_GUINT64_FORMAT "]", fstype, ino);
}

struct climb {
    struct gva mnt; // struct mount
    struct gva dentry;
    struct intro_path root;
    GString *path;
    bool nameless; // it has been deleted
    bool top;      // of a mount that is no longer in the tree
};

static bool unreachable(const struct climb *at, const char *why, GError **error)
{
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED,
                "dentry at %#" G_GINT64_MODIFIER "x: %s (...%s)", at->dentry.addr, why,
                at->path->str);
    return false;
}

// From the root of a mount to the place where it is mounted.
static bool leave_mount(IntroReader *r, struct climb *at, GError **error)
{
    struct gva above = rd_ptr(r, at->mnt, M_mount_parent);
    struct gva mountpoint = rd_ptr(r, at->mnt, M_mount_mountpoint);
    struct gva ns = rd_ptr(r, at->mnt, M_mount_ns);

    if (!rd_done(r, error))
        return false;
    // What has no name any more is shown as on a file system of its own, and needs no more.
    if (above.addr == at->mnt.addr && !ns.addr && at->nameless) {
        at->top = true;
        return true;
    }
    if (above.addr == at->mnt.addr)
        return unreachable(at,
                           ns.addr ? "it lies outside of the process's root directory"
                                   : "it is on a mount that is no longer in the tree",
                           error);
    at->mnt = above;
    at->dentry = mountpoint;
    return true;
}

// From a dentry to its parent.
static bool leave_dentry(IntroReader *r, struct climb *at, GError **error)
{
    struct gva parent = rd_ptr(r, at->dentry, M_dentry_parent);

    if (!rd_done(r, error))
        return false;
    if (parent.addr == at->dentry.addr)
        return unreachable(at, "it is not below the directory that is mounted", error);

    g_autofree char *name = intro_dentry_name(r->k, at->dentry, error);
    if (!name)
        return false;
    g_string_prepend(at->path, name);
    g_string_prepend_c(at->path, '/');
    at->dentry = parent;
    return true;
}

static bool climb_to_root(IntroKernel *k, struct climb *at, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);

    for (unsigned n = 0; n < MAX_STEPS && at->path->len < PATH_MAX; n++) {
        struct gva vfsmount = intro_member_addr(k, at->mnt, M_mount_mnt);
        if (at->dentry.addr == at->root.dentry.addr && vfsmount.addr == at->root.mnt.addr)
            return true;

        uint64_t mnt_root = rd(&r, vfsmount, M_vfsmount_root);
        if (!rd_done(&r, error))
            return false;
        bool ok =
            at->dentry.addr == mnt_root ? leave_mount(&r, at, error) : leave_dentry(&r, at, error);
        if (!ok || at->top)
            return ok;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "dentry at %#" G_GINT64_MODIFIER "x: its path does not end", at->dentry.addr);
    return false;
}

static bool is_pseudo(IntroReader *r, struct intro_path path)
{
    struct gva op = rd_ptr(r, path.dentry, M_dentry_op);

    if (!op.addr || !rd(r, op, M_dop_dname))
        return false;
    // Some pseudo file systems can be mounted (nsfs): then their root has a path.
    return rd(r, path.dentry, M_dentry_parent) != path.dentry.addr ||
           rd(r, path.mnt, M_vfsmount_root) != path.dentry.addr;
}

char *intro_path_str(IntroKernel *k, struct intro_path path, struct intro_path root,
                     bool *ret_deleted, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    g_autoptr(GString) text = g_string_new(NULL);

    bool pseudo = is_pseudo(&r, path);
    bool unhashed = rd(&r, path.dentry, M_dentry_hash_pprev) == 0;
    bool is_top = rd(&r, path.dentry, M_dentry_parent) == path.dentry.addr;
    if (!rd_done(&r, error))
        return NULL;
    if (pseudo) {
        char *name = pseudo_path(k, path.dentry, error);
        if (name)
            *ret_deleted = false;
        return name;
    }

    struct climb at = {
        .mnt = intro_container(k, path.mnt, M_mount_mnt),
        .dentry = path.dentry,
        .root = root,
        .path = text,
        .nameless = unhashed && !is_top,
    };
    if (!climb_to_root(k, &at, error))
        return NULL;
    if (text->len == 0)
        g_string_assign(text, "/");
    *ret_deleted = unhashed && !is_top;
    return g_string_free(g_steal_pointer(&text), FALSE);
}

char *intro_inode_path(IntroKernel *k, struct gva inode, struct gva mnt, struct intro_path root,
                       GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva alias = rd_ptr(&r, inode, M_inode_dentry);

    for (unsigned n = 0; alias.addr && n < MAX_LINKS; n++) {
        struct gva dentry = intro_container(k, alias, M_dentry_alias);
        bool deleted, hashed = rd(&r, dentry, M_dentry_hash_pprev) != 0 ||
                               rd(&r, dentry, M_dentry_parent) == dentry.addr;

        alias = rd_ptr_at(&r, alias); // hlist_node.next
        if (!rd_done(&r, error))
            return NULL;
        if (hashed)
            return intro_path_str(k, (struct intro_path){mnt, dentry}, root, &deleted, error);
    }
    if (rd_done(&r, error))
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED,
                    "inode at %#" G_GINT64_MODIFIER "x: no name of it is in memory", inode.addr);
    return NULL;
}
