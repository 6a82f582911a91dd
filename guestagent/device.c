// SPDX-License-Identifier: GPL-2.0-or-later
// Character devices: those that mean the same on every machine.

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "guestagent/engine.h"

// What holds for devices [first, last] of a major number.
static const struct device {
    unsigned major, first, last;
    const char *refused; // why not, NULL: the node with the same number is opened
    const char *note;    // what will be different, NULL: nothing
} devices[] = {
    {1, 3, 3, NULL, NULL},                                              // null
    {1, 5, 5, NULL, NULL},                                              // zero
    {1, 7, 9, NULL, NULL},                                              // full, random, urandom
    {4, 0, 255, NULL, "becomes this machine's, with its settings"},     // tty0.., ttyS0..
    {204, 0, 255, NULL, "becomes this machine's, with its settings"},   // other serial ports
    {229, 0, 63, NULL, "becomes this machine's, with its settings"},    // hvc0..
    {5, 1, 1, NULL, "becomes this machine's, with its settings"},       // console
    {5, 0, 0, "is the controlling terminal, which stays behind", NULL}, // tty
    {5, 2, 2, "is a pseudo terminal with state on the source", NULL},   // ptmx
    {136, 0, 1 << 20, "is a pseudo terminal whose other side stays behind", NULL},
};

static const struct device *find(uint64_t rdev)
{
    for (size_t i = 0; i < G_N_ELEMENTS(devices); i++) {
        const struct device *d = &devices[i];

        if (d->major == major(rdev) && minor(rdev) >= d->first && minor(rdev) <= d->last)
            return d;
    }
    return NULL;
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, f->object, FMT_INODE);
    const struct device *d = inode ? find(inode->rdev) : NULL;
    const char *path = f->path;
    struct stat st;

    if (!inode || !path) {
        agent_refuse_file(r, "file-path", f->rec.objref, "a device has no path");
        return;
    }
    if (!d)
        agent_refuse_file(r, "device", f->rec.objref, "%s: device %u:%u is not supported", path,
                          major(inode->rdev), minor(inode->rdev));
    else if (d->refused)
        agent_refuse_file(r, "device", f->rec.objref, "%s %s", path, d->refused);
    else if (stat(path, &st) < 0)
        agent_refuse_file(r, "file-missing", f->rec.objref, "%s: %s", path, g_strerror(errno));
    else if (!S_ISCHR(st.st_mode) || st.st_rdev != inode->rdev)
        agent_refuse_file(r, "file-type", f->rec.objref, "%s is not device %u:%u on this machine",
                          path, major(inode->rdev), minor(inode->rdev));
    else if (d->note)
        agent_note_file(r, "device", f->rec.objref, "%s %s", path, d->note);
}

static int open_device(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    static const int access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    const char *path = f->path;
    const int keep = O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_LARGEFILE;

    return agent_fd_up(
        r, open(path, access[f->mode & 3] | (f->flags & keep) | O_NOCTTY | O_CLOEXEC), error);
}

const struct agent_file_kind agent_file_chr = {
    .kind = FMT_FILE_CHR,
    .name = "character device",
    .plan = plan,
    .open = open_device,
};
