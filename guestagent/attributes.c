// SPDX-License-Identifier: GPL-2.0-or-later
// What few files have besides: extended attributes, ACLs, what chattr sets, hints about writes.

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "guestagent/engine.h"

#ifndef F_SET_RW_HINT
#define F_SET_RW_HINT (1024 + 12)
#endif

const struct fmt_attributes *agent_attributes(const AgentRestore *r, uint64_t owner)
{
    const struct fmt_attributes *has;

    for (size_t i = 0; FMT_NEXT(r->img, ATTRIBUTES, i, has); i++)
        if (has->owner == owner)
            return has;
    return NULL;
}

/* ---- to a new file ---- */

static bool malformed(GError **error)
{
    g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE, "malformed extended attributes");
    return false;
}

static bool give_xattrs(int fd, GBytes *xattrs, GError **error)
{
    size_t left;
    const uint8_t *at = xattrs ? g_bytes_get_data(xattrs, &left) : NULL;

    while (at && left > 0) {
        const char *name = (const char *)at;
        const size_t name_bytes = strnlen(name, left) + 1;
        uint32_t size;

        if (left < name_bytes + sizeof size)
            return malformed(error);
        memcpy(&size, at + name_bytes, sizeof size);
        size = GUINT32_FROM_LE(size);
        at += name_bytes + sizeof size;
        left -= name_bytes + sizeof size;
        if (size > left)
            return malformed(error);
        if (fsetxattr(fd, name, at, size, 0) < 0)
            return agent_fail_errno(error, "its attribute %s", name);
        at += size;
        left -= size;
    }
    return true;
}

static bool give_flags(int fd, uint64_t wanted, GError **error)
{
    int flags;

    if (wanted == 0)
        return true;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
        return agent_fail_errno(error, "its flags (chattr)");
    flags |= (int)wanted;
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0 ||
           agent_fail_errno(error, "its flags %#x (chattr)", flags);
}

bool agent_attributes_give(int fd, const struct fmt_attributes *has, GError **error)
{
    return !has || (give_xattrs(fd, has->xattrs, error) && give_flags(fd, has->flags, error));
}

void agent_attributes_take_back(const char *path)
{
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int flags;

    if (fd < 0)
        return;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags &= ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    close(fd);
}

/* ---- plan ---- */

static const struct fmt_file *file_of(const AgentRestore *r, uint64_t object)
{
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++)
        if (f->object == object && !(f->flags & O_PATH))
            return f;
    return NULL;
}

// A file like the one that is to be made, which nobody else sees.
static int try_file(AgentRestore *r, const struct fmt_file *f)
{
    if (f->kind == FMT_FILE_MEMFD)
        return memfd_create("vmgraft-plan", MFD_CLOEXEC);
    if (!f->path)
        return -1;
    const char *path = f->path;
    g_autofree char *dir = agent_existing_ancestor(path);

    if (!f->deleted && access(path, F_OK) == 0)
        return -1; // it is there, with what it has
    return open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

void agent_attributes_plan(AgentRestore *r)
{
    const struct fmt_attributes *has;

    for (size_t i = 0; FMT_NEXT(r->img, ATTRIBUTES, i, has); i++) {
        const struct fmt_file *f = file_of(r, has->owner);
        const int fd = f && (has->xattrs || has->flags) ? try_file(r, f) : -1;
        g_autoptr(GError) error = NULL;

        if (fd < 0)
            continue;
        if (!agent_attributes_give(fd, has, &error))
            agent_refuse_file(r, "file-attributes", f->rec.objref, "%s cannot have %s here",
                              f->path ? f->path : "a memfd", error->message);
        close(fd);
    }
}

/* ---- hints ---- */

bool agent_attributes_hint(AgentRestore *r, GError **error)
{
    const struct fmt_attributes *has;
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(r->img, ATTRIBUTES, i, has); i++) {
        uint64_t hint = has->write_hint;

        for (size_t j = 0; hint && FMT_NEXT(r->img, FILE, j, f); j++) {
            const int fd = f->object == has->owner ? agent_file_fd(r, f->rec.objref) : -1;

            if (fd < 0 || f->flags & O_PATH)
                continue;
            if (fcntl(fd, F_SET_RW_HINT, &hint) < 0)
                return agent_fail_errno(error, "a hint about writes to %s",
                                        f->path ? f->path : "a memfd");
            break;
        }
    }
    return true;
}
