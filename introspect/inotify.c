// SPDX-License-Identifier: GPL-2.0-or-later
// Inotify instances (struct fsnotify_group): what is watched, and the events that wait to be read.
#include "introspect/file.h"
#include "introspect/reader.h"

#include <limits.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

/*
 * The watches hang in an idr by their numbers. Each points through a connector to the inode that it
 * watches, and the inode has no name of its own: one is looked for among those that are in memory,
 * below any mount of its file system that the tree can see.
 */

#define MAX_WATCHES (1u << 24)
#define MAX_EVENTS  (1u << 20)
#define MAX_MOUNTS  4096

// Flags of a mark (include/linux/fsnotify_backend.h) since 6.0; before, these were bits of its mask
// and the flags had other, lower ones.
#define MARK_EXCL_UNLINK 0x10
#define MARK_IN_ONESHOT  0x20

#define READ_MASK (IN_ALL_EVENTS | IN_ISDIR | IN_UNMOUNT | IN_IGNORED | IN_Q_OVERFLOW)

struct instance {
    struct intro_ctx *c;
    uint64_t ref;
    GByteArray *events;
};

/* ---- what is watched ---- */

static struct gva inode_of(IntroReader *r, struct gva mark)
{
    struct gva connector = rd_ptr(r, mark, M_fsmark_connector);
    struct gva object = rd_ptr(r, connector, M_fsconnector_object);

    // The inode since 6.10; before, its member that points back to the connector.
    if (rd_ptr_at(r, object).addr == connector.addr)
        return intro_container(r->k, object, M_inode_marks);
    return object;
}

struct search {
    struct intro_ctx *c;
    struct gva inode, ns;
    struct intro_path root;
    char *path;
};

static bool try_mount(struct gva mount, struct search *s, GError **error)
{
    g_autoptr(GError) local = NULL;
    struct gva ns;

    if (s->path)
        return true;
    if (!intro_get_ptr(s->c->k, mount, M_mount_ns, &ns, error))
        return false;
    if (ns.addr != s->ns.addr)
        return true;
    s->path = intro_inode_path(s->c->k, s->inode, intro_member_addr(s->c->k, mount, M_mount_mnt),
                               s->root, &local);
    if (s->path || g_error_matches(local, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED))
        return true;
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

static bool try_node(struct gva node, void *user, GError **error)
{
    struct search *s = user;

    return try_mount(intro_container(s->c->k, node, M_mount_instance), s, error);
}

static bool try_mounts(struct search *s, GError **error)
{
    IntroKernel *k = s->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva sb = rd_ptr(&r, s->inode, M_inode_sb);

    if (!rd_done(&r, error))
        return false;
    if (!intro_has(k, M_mount_next_for_sb))
        return intro_walk_list(k, intro_member_addr(k, sb, M_sb_mounts), MAX_MOUNTS, try_node, s,
                               error);
    struct gva mount = rd_ptr(&r, sb, M_sb_mounts);
    for (unsigned n = 0; mount.addr && n < MAX_MOUNTS; n++) {
        if (!try_mount(mount, s, error))
            return false;
        mount = rd_ptr(&r, mount, M_mount_next_for_sb);
    }
    return rd_done(&r, error);
}

// A path that leads to the inode; NULL without an error where none is known.
static bool find_path(struct intro_ctx *c, struct gva inode, char **ret_path, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva nsproxy = rd_ptr(&r, c->root_task, M_task_nsproxy);
    struct search s = {.c = c, .inode = inode};

    if (nsproxy.addr)
        s.ns = rd_ptr(&r, nsproxy, M_nsproxy_mnt_ns);
    if (!rd_done(&r, error) || !intro_root(c, &s.root, error))
        return false;
    if (!try_mounts(&s, error)) {
        g_free(s.path);
        return false;
    }
    *ret_path = s.path;
    return true;
}

static bool read_watch(uint64_t index, unsigned order, uint64_t entry, void *user, GError **error)
{
    struct instance *in = user;
    struct intro_ctx *c = in->c;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva mark = intro_member_addr(c->k, GVA(entry), M_inotify_mark);
    const uint64_t flags = rd(&r, mark, M_fsmark_flags), mask = rd(&r, mark, M_fsmark_mask);
    struct gva inode = inode_of(&r, mark);
    const uint64_t wd = rd(&r, GVA(entry), M_inotify_mark_wd);
    const uint64_t mode = rd(&r, inode, M_inode_mode);
    g_autofree char *path = NULL;

    if (!rd_done(&r, error) || !find_path(c, inode, &path, error))
        return false;
    if (wd != index) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "inotify_inode_mark at %#" G_GINT64_MODIFIER "x: watch %" G_GUINT64_FORMAT
                    " under the number %" G_GUINT64_FORMAT,
                    entry, wd, index);
        return false;
    }
    struct fmt_inotify_watch *rec = fmt_image_add(c->img, FMT_INOTIFY_WATCH);
    rec->inotify = in->ref;
    rec->wd = wd;
    rec->mask = mask & (IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK);
    if (flags & MARK_EXCL_UNLINK)
        rec->mask |= IN_EXCL_UNLINK;
    if (flags & MARK_IN_ONESHOT)
        rec->mask |= IN_ONESHOT;
    rec->mode = mode;
    rec->object = intro_object_ref(c, inode);
    rec->path = g_steal_pointer(&path);
    rec->deleted = !rec->path;
    if (!rec->path && !rec->object)
        intro_refuse(c, "inotify",
                     "watches (%" G_GUINT64_FORMAT ") what has no name and is not open", wd);
    return true;
}

/* ---- events ---- */

static bool read_event(struct gva node, void *user, GError **error)
{
    struct instance *in = user;
    IntroKernel *k = in->c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva fse = intro_container(k, node, M_fsevent_list);
    struct gva event = intro_container(k, fse, M_inotify_event);
    const uint64_t len = rd(&r, event, M_inotify_event_name_len);
    struct inotify_event head = {
        .wd = (int)rd(&r, event, M_inotify_event_wd),
        .mask = (uint32_t)rd(&r, event, M_inotify_event_mask) & READ_MASK,
        .cookie = (uint32_t)rd(&r, event, M_inotify_event_cookie),
    };
    char name[NAME_MAX + 1] = "";

    if (!rd_done(&r, error))
        return false;
    if (len > NAME_MAX) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "inotify_event_info at %#" G_GINT64_MODIFIER "x: a name of %" G_GUINT64_FORMAT
                    " bytes",
                    event.addr, len);
        return false;
    }
    if (!intro_read(k, intro_member_addr(k, event, M_inotify_event_name), name, len, error))
        return false;
    // As round_event_name_len().
    head.len = len ? (uint32_t)(len + sizeof head) / sizeof head * sizeof head : 0;
    g_byte_array_append(in->events, (const guint8 *)&head, sizeof head);
    for (uint32_t i = 0; i < head.len; i++)
        g_byte_array_append(in->events, (const guint8 *)(i < len ? &name[i] : ""), 1);
    return true;
}

// Once all files of the tree are known.
static bool read_watches(struct intro_ctx *c, struct gva group, uint64_t ref, GError **error)
{
    struct instance in = {.c = c, .ref = ref};

    return intro_walk_xarray(c->k, intro_member_addr(c->k, group, M_fsgroup_idr), 0, INT_MAX,
                             read_watch, &in, error);
}

bool intro_record_inotify(struct intro_opened *o, GError **error)
{
    struct intro_ctx *c = o->c;
    IntroKernel *k = c->k;
    g_auto(IntroReader) r = INTRO_READER(k);
    g_autoptr(GByteArray) events = g_byte_array_new();
    struct instance in = {.c = c, .events = events};
    struct gva group = rd_ptr(&r, o->file, M_file_private);

    if (!rd_done(&r, error) ||
        !intro_check_mutex(k, intro_member_addr(k, group, M_fsgroup_mutex), "fsnotify_group",
                           error) ||
        !intro_check_spinlock(k, intro_member_addr(k, group, M_fsgroup_lock), "fsnotify_group",
                              error) ||
        !intro_check_spinlock(k, intro_member_addr(k, group, M_fsgroup_idr_lock), "fsnotify_group",
                              error))
        return false;
    struct fmt_inotify *rec = intro_object_add(c, group, FMT_INOTIFY);
    rec->max_events = rd(&r, group, M_fsgroup_max_events);
    rec->next_wd = rd(&r, group, M_fsgroup_idr_next);
    o->rec->object = rec->rec.objref;
    intro_later(c, read_watches, group, rec->rec.objref);
    if (!rd_done(&r, error) || !intro_walk_list(k, intro_member_addr(k, group, M_fsgroup_events),
                                                MAX_EVENTS, read_event, &in, error))
        return false;
    if (events->len > 0)
        rec->events = g_byte_array_free_to_bytes(g_steal_pointer(&events));
    return true;
}
