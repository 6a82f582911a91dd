// SPDX-License-Identifier: GPL-2.0-or-later
// What few files have besides: extended attributes, ACLs, what chattr sets, a hint about writes,
// and whether one without a name can get one.
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>

#include "introspect/file.h"
#include "introspect/reader.h"

/*
 * tmpfs has its extended attributes in memory (fs/xattr.c): in a list, from 6.2 on in a tree, from
 * 7.2 on in a list of another kind. What a file system on a disk has of them is not looked for;
 * of ACLs, those that the kernel has read.
 */
#define TMPFS_MAGIC     0x01021994
#define MAX_XATTRS      4096
#define MAX_VALUE_BYTES 65536u
#define MAX_ALL_BYTES   (1u << 20)
#define MAX_ENTRIES     1024
#define LINKABLE        (1 << 10) // I_LINKABLE, where it was a macro
#define KERNEL_TMPFILE  020000000 // __O_TMPFILE

// S_VERITY of inode.i_flags (include/linux/fs.h).
#define INODE_VERITY (1u << 16)

// The rest of inode.i_flags that a program has set, and how it says so.
static const struct {
    uint32_t inode, fs;
} flag_names[] = {
    {1 << 0, FS_SYNC_FL},      // S_SYNC
    {1 << 1, FS_NOATIME_FL},   // S_NOATIME
    {1 << 2, FS_APPEND_FL},    // S_APPEND
    {1 << 3, FS_IMMUTABLE_FL}, // S_IMMUTABLE
};

struct reading {
    struct intro_ctx *c;
    struct gva inode;
    GByteArray *xattrs;
};

/* ---- extended attributes ---- */

static void add_u32(GByteArray *bytes, uint32_t value)
{
    const uint32_t le = GUINT32_TO_LE(value);

    g_byte_array_append(bytes, (const uint8_t *)&le, sizeof le);
}

static bool add(struct reading *g, const char *name, const uint8_t *value, uint32_t size,
                GError **error)
{
    if (g->xattrs->len > MAX_ALL_BYTES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "inode at %#" G_GINT64_MODIFIER "x: too many extended attributes",
                    g->inode.addr);
        return false;
    }
    g_byte_array_append(g->xattrs, (const uint8_t *)name, (guint)strlen(name) + 1);
    add_u32(g->xattrs, size);
    g_byte_array_append(g->xattrs, value, size);
    return true;
}

static bool add_xattr(struct gva node, enum intro_member member, struct reading *g, GError **error)
{
    IntroKernel *k = g->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    const struct gva xattr = intro_container(k, node, member);
    const struct gva name_at = rd_ptr(&r, xattr, M_xattr_name);
    const uint64_t size = rd(&r, xattr, M_xattr_size);

    if (!rd_done(&r, error))
        return false;
    if (size > MAX_VALUE_BYTES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "simple_xattr at %#" G_GINT64_MODIFIER "x: %" G_GUINT64_FORMAT " bytes",
                    xattr.addr, size);
        return false;
    }
    g_autofree char *name = intro_read_str(k, name_at, 256, error);
    g_autofree uint8_t *value = g_malloc(size + 1);

    return name && intro_read(k, intro_member_addr(k, xattr, M_xattr_value), value, size, error) &&
           add(g, name, value, (uint32_t)size, error);
}

static bool add_listed(struct gva node, void *user, GError **error)
{
    return add_xattr(node, M_xattr_list, user, error);
}

static bool add_sorted(struct gva node, void *user, GError **error)
{
    return add_xattr(node, M_xattr_rb_node, user, error);
}

static bool read_xattrs(struct reading *g, const char *name, GError **error)
{
    IntroKernel *k = g->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    const struct gva info = intro_container(k, g->inode, M_shmem_inode);

    if (!intro_has(k, M_shmem_xattrs))
        return true; // CONFIG_TMPFS_XATTR
    const struct gva at = intro_member_addr(k, info, M_shmem_xattrs);
    const struct gva first = rd_ptr_at(&r, at);

    if (!rd_done(&r, error))
        return false;
    if (!first.addr || first.addr == at.addr)
        return true;
    if (intro_has(k, M_xattr_rb_node))
        return intro_walk_rbtree(k, first, MAX_XATTRS, add_sorted, g, error);
    if (intro_has(k, M_xattr_list))
        return intro_walk_list(k, at, MAX_XATTRS, add_listed, g, error);
    intro_refuse(g->c, "file-attributes", "%s has extended attributes that cannot be read", name);
    return true;
}

/* ---- ACLs ---- */

// struct posix_acl_xattr_header and _entry (include/uapi/linux/posix_acl_xattr.h).
#define ACL_VERSION   2
#define ACL_USER      0x02
#define ACL_GROUP     0x08
#define ACL_NO_ID     0xffffffffu
#define ACL_MAX_BYTES (4 + 8 * MAX_ENTRIES)

static bool read_acl(struct reading *g, enum intro_member member, const char *name, GError **error)
{
    IntroKernel *k = g->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    g_autoptr(GByteArray) value = g_byte_array_new();
    const struct gva acl = GVA(rd_opt(&r, g->inode, member, 0));

    // Odd: not read yet (ACL_NOT_CACHED), or being read.
    if (!acl.addr || acl.addr & 1)
        return rd_done(&r, error);
    const uint64_t n = rd(&r, acl, M_acl_count);

    add_u32(value, ACL_VERSION);
    for (uint64_t i = 0; i < MIN(n, MAX_ENTRIES) && !r.error; i++) {
        const struct gva entry =
            rd_elem(&r, acl, M_acl_entries, i, (uint32_t)intro_sizeof(k, T_posix_acl_entry));
        const uint32_t tag = rd(&r, entry, M_acl_entry_tag) & 0xffff;
        const uint32_t perm = rd(&r, entry, M_acl_entry_perm) & 0xffff;
        const uint32_t id = rd(&r, entry, M_acl_entry_id);

        add_u32(value, tag | perm << 16);
        add_u32(value, tag == ACL_USER || tag == ACL_GROUP ? id : ACL_NO_ID);
    }
    if (!rd_done(&r, error))
        return false;
    if (n <= MAX_ENTRIES)
        return add(g, name, value->data, value->len, error);
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "posix_acl at %#" G_GINT64_MODIFIER "x: %" G_GUINT64_FORMAT " entries", acl.addr,
                n);
    return false;
}

/* ---- all of it ---- */

static bool is_shmem(IntroReader *r, struct gva inode)
{
    return rd(r, rd_ptr(r, inode, M_inode_sb), M_sb_magic) == TMPFS_MAGIC;
}

static bool read_all(struct reading *g, struct fmt_attributes *ret, const char *name,
                     GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(g->c->k);
    const bool shmem = is_shmem(&r, g->inode);
    const uint64_t flags = rd(&r, g->inode, M_inode_flags);

    for (size_t i = 0; i < G_N_ELEMENTS(flag_names); i++)
        ret->flags |= flags & flag_names[i].inode ? flag_names[i].fs : 0;
    if (shmem)
        ret->flags |=
            rd_opt(&r, intro_container(g->c->k, g->inode, M_shmem_inode), M_shmem_fsflags, 0) &
            (FS_NODUMP_FL | FS_NOATIME_FL | FS_APPEND_FL | FS_IMMUTABLE_FL);
    if (flags & INODE_VERITY)
        intro_refuse(g->c, "file-attributes", "%s is protected by fs-verity", name);
    return rd_done(&r, error) && (!shmem || read_xattrs(g, name, error)) &&
           read_acl(g, M_inode_acl, "system.posix_acl_access", error) &&
           read_acl(g, M_inode_default_acl, "system.posix_acl_default", error);
}

// The record, which is made where there is something to say.
static struct fmt_attributes *record_of(struct intro_ctx *c, struct gva inode, uint64_t owner)
{
    const struct gva key = intro_member_addr(c->k, inode, M_inode_size);
    const uint64_t known = intro_object_ref(c, key);
    struct fmt_attributes *rec = known ? fmt_image_by_ref(c->img, known, FMT_ATTRIBUTES)
                                       : intro_object_add(c, key, FMT_ATTRIBUTES);

    rec->owner = owner;
    return rec;
}

bool intro_attributes(struct intro_ctx *c, struct gva inode, uint64_t owner, bool whole,
                      const char *name, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    g_autoptr(GByteArray) xattrs = g_byte_array_new();
    struct reading g = {.c = c, .inode = inode, .xattrs = xattrs};
    struct fmt_attributes has = {.write_hint = rd_opt(&r, inode, M_inode_write_hint, 0)};
    const bool is_directory = S_ISDIR(rd(&r, inode, M_inode_mode));

    if (!rd_done(&r, error) || (whole && !read_all(&g, &has, name, error)))
        return false;
    if (is_directory && (xattrs->len || has.flags)) {
        intro_refuse(c, "file-attributes",
                     "has the deleted directory %s, with extended attributes or flags", name);
        return true;
    }
    if (!xattrs->len && !has.flags && !has.write_hint)
        return true;
    struct fmt_attributes *rec = record_of(c, inode, owner);

    rec->write_hint = has.write_hint;
    rec->flags = has.flags;
    g_clear_pointer(&rec->xattrs, g_bytes_unref);
    if (xattrs->len)
        rec->xattrs = g_bytes_new(xattrs->data, xattrs->len);
    return true;
}

bool intro_file_attributes(struct intro_opened *o, bool whole, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);
    const uint64_t hint = rd_opt(&r, o->file, M_file_write_hint, 0);
    const uint64_t state = rd(&r, o->inode, M_inode_state);
    int64_t linkable;

    if (!intro_constant(o->c->k, C_I_LINKABLE, &linkable))
        linkable = LINKABLE;
    if (!rd_done(&r, error) ||
        !intro_attributes(o->c, o->inode, o->rec->object, whole, o->name, error))
        return false;
    if (hint)
        intro_refuse(o->c, "file-attributes", "has a hint about writes to %s (F_SET_FILE_RW_HINT)",
                     o->name);
    if (o->rec->flags & KERNEL_TMPFILE && o->nlink == 0 && !(state & (uint64_t)linkable))
        record_of(o->c, o->inode, o->rec->object)->unlinkable = 1;
    return true;
}
