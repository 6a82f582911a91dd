// SPDX-License-Identifier: GPL-2.0-or-later
// Working directory, root directory and umask (struct fs_struct).
#include "introspect/context.h"
#include "introspect/file.h"
#include "introspect/life.h"
#include "introspect/reader.h"

struct fs_paths {
    struct intro_path cwd, root;
};

static bool read_paths(IntroKernel *k, struct gva fs, struct fs_paths *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct fs_paths paths = {
        .cwd = {rd_ptr(&r, fs, M_fs_pwd_mnt), rd_ptr(&r, fs, M_fs_pwd_dentry)},
        .root = {rd_ptr(&r, fs, M_fs_root_mnt), rd_ptr(&r, fs, M_fs_root_dentry)},
    };

    if (!rd_done(&r, error) ||
        !intro_check_spinlock(k, intro_member_addr(k, fs, M_fs_lock), "fs_struct", error))
        return false;
    *ret = paths;
    return true;
}

// The top of the mount tree that a place is in: what / is before anybody calls chroot.
static bool mount_tree_top(IntroKernel *k, struct intro_path path, struct intro_path *ret,
                           GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva mount = intro_container(k, path.mnt, M_mount_mnt);

    for (unsigned n = 0; n < 4096; n++) {
        struct gva above = rd_ptr(&r, mount, M_mount_parent);
        struct gva vfsmount = intro_member_addr(k, mount, M_mount_mnt);
        struct gva dentry = rd_ptr(&r, vfsmount, M_vfsmount_root);
        uint64_t ns = rd(&r, mount, M_mount_ns);
        if (!rd_done(&r, error))
            return false;
        if (above.addr == mount.addr && !ns) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED,
                        "mount at %#" G_GINT64_MODIFIER "x: it is no longer in the tree",
                        mount.addr);
            return false;
        }
        if (above.addr == mount.addr) {
            *ret = (struct intro_path){.mnt = vfsmount, .dentry = dentry};
            return true;
        }
        mount = above;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "vfsmount at %#" G_GINT64_MODIFIER "x: its parents do not end", path.mnt.addr);
    return false;
}

bool intro_root(struct intro_ctx *c, struct intro_path *ret, GError **error)
{
    g_autoptr(GError) local = NULL;
    struct fs_paths paths;
    struct gva living, fs = GVA(0);

    if (!intro_main_thread(c->k, c->root_task, &living, error) ||
        (living.addr && !intro_get_ptr(c->k, living, M_task_fs, &fs, error)))
        return false;
    if (!fs.addr) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "task_struct at %#" G_GINT64_MODIFIER "x: the process is exiting",
                    c->root_task.addr);
        return false;
    }
    if (!read_paths(c->k, fs, &paths, error))
        return false;
    // One whose mount has left its tree is all that there is.
    if (!mount_tree_top(c->k, paths.root, ret, &local))
        *ret = paths.root;
    if (!local || g_error_matches(local, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED))
        return true;
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

// The path of one of the two directories; NULL with no error where it was refused.
static char *directory(struct intro_ctx *c, const char *what, struct intro_path path,
                       bool *ret_deleted, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autofree char *text = NULL;
    struct intro_path top;
    bool deleted = false;

    if (mount_tree_top(c->k, path, &top, &local))
        text = intro_path_str(c->k, path, top, &deleted, &local);

    if (!text && g_error_matches(local, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED))
        intro_refuse(c, "unreachable-path", "its %s cannot be named: %s", what, local->message);
    else if (!text)
        g_propagate_prefixed_error(error, g_steal_pointer(&local), "%s: ", what);
    *ret_deleted = deleted;
    return g_steal_pointer(&text);
}

// A directory without a name is known by its inode, which a descriptor may have as well.
static uint64_t deleted_directory(struct intro_ctx *c, struct gva dentry, GError **error)
{
    struct gva inode;
    uint64_t ref = 0;

    if (intro_get_ptr(c->k, dentry, M_dentry_inode, &inode, error) &&
        (ref = intro_inode(c, inode, error))) {
        struct fmt_inode *rec = fmt_image_by_ref(c->img, ref, FMT_INODE);
        rec->contents = FMT_CONTENTS_DELETED;
        if (!intro_attributes(c, inode, ref, true, "the working directory", error))
            return 0;
    }
    return ref;
}

uint64_t intro_fs(struct intro_ctx *c, struct gva fs, GError **error)
{
    g_autoptr(GError) local = NULL;
    uint64_t known = intro_object_ref(c, fs), umask;
    bool root_deleted = false, cwd_deleted = false;
    struct fs_paths paths;

    if (known)
        return known;
    if (!read_paths(c->k, fs, &paths, error) || !intro_get(c->k, fs, M_fs_umask, &umask, error))
        return 0;
    g_autofree char *root = directory(c, "root directory", paths.root, &root_deleted, &local);
    g_autofree char *cwd =
        local ? NULL : directory(c, "working directory", paths.cwd, &cwd_deleted, &local);
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return 0;
    }

    struct fmt_fs *rec = intro_object_add(c, fs, FMT_FS);
    rec->cwd = g_steal_pointer(&cwd);
    rec->root = g_steal_pointer(&root);
    rec->umask = umask;
    if (root_deleted)
        intro_refuse(c, "deleted-directory", "its root directory %s has been deleted", rec->root);
    if (cwd_deleted && !(rec->cwd_inode = deleted_directory(c, paths.cwd.dentry, error)))
        return 0;
    return rec->rec.objref;
}
