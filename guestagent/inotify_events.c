// SPDX-License-Identifier: GPL-2.0-or-later
// Events of inotify that wait to be read: each is made to happen once more.
//
// Nobody can put an event into the queue but the kernel, when what it tells of happens. So it does,
// to something that is like what it happened to: a file of that name made for it and taken away
// again, or the file itself where nothing is changed by it. Only the watch that had the event
// listens, for just that moment and that event. A watch that has been removed since is of something
// of ours (the scratch directory) and is removed again in its turn.
//
// What would change a file of this machine is refused.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/inotify.h"

// What is done about one event.
struct act {
    const struct agent_instance *in;
    struct agent_watch *watch;
    const struct agent_event *event, *next; // next: NULL at the end
    char *path;
    bool is_dir;
    bool took_next; // both have been made
};

static bool listen(const struct act *a, uint32_t mask, GError **error)
{
    return agent_watch_listen(a->in, a->watch, mask, error);
}

static bool quiet(const struct act *a, GError **error)
{
    return listen(a, AGENT_INOTIFY_QUIET, error);
}

static uint32_t kind_of(const struct agent_event *event)
{
    return event->head.mask & IN_ALL_EVENTS;
}

/* ---- files for a moment ---- */

static bool make(const char *path, bool is_dir, GError **error)
{
    if (is_dir)
        return mkdir(path, 0700) == 0 || agent_fail_errno(error, "%s", path);

    const int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
    const bool ok = fd >= 0 && write(fd, "", 1) == 1;

    if (!ok)
        agent_fail_errno(error, "%s", path);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool drop(const char *path, bool is_dir, GError **error)
{
    return (is_dir ? rmdir : unlink)(path) == 0 || agent_fail_errno(error, "%s", path);
}

static char *other_name(const struct act *a)
{
    return g_strdup_printf("%s/.vmgraft-%d", a->watch->path, getpid());
}

/* ---- what happens to a file ---- */

static int open_it(const struct act *a, int flags, GError **error)
{
    const int fd = open(a->path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        agent_fail_errno(error, "%s", a->path);
    return fd;
}

static bool happen_open(struct act *a, GError **error)
{
    const int fd = listen(a, IN_OPEN, error) ? open_it(a, O_RDONLY, error) : -1;
    const bool ok = fd >= 0 && quiet(a, error);

    if (fd >= 0)
        close(fd);
    return ok;
}

static bool happen_close(struct act *a, int flags, uint32_t mask, GError **error)
{
    const int fd = open_it(a, flags, error);
    const bool ok = fd >= 0 && listen(a, mask, error);

    if (fd >= 0)
        close(fd);
    return ok && quiet(a, error);
}

static bool happen_close_write(struct act *a, GError **error)
{
    return happen_close(a, O_WRONLY, IN_CLOSE_WRITE, error);
}

static bool happen_close_nowrite(struct act *a, GError **error)
{
    return happen_close(a, O_RDONLY, IN_CLOSE_NOWRITE, error);
}

static bool happen_access(struct act *a, GError **error)
{
    _Alignas(8) char data[4096];
    const int fd = open_it(a, O_RDONLY | O_NOATIME, error);
    bool ok = fd >= 0 && listen(a, IN_ACCESS, error);

    if (ok &&
        (a->is_dir ? syscall(SYS_getdents64, fd, data, sizeof data) : pread(fd, data, 1, 0)) <= 0)
        ok = agent_fail(error, "%s: there is nothing to read", a->path);
    if (fd >= 0)
        close(fd);
    return ok && quiet(a, error);
}

// To the length that it has.
static bool happen_modify(struct act *a, GError **error)
{
    const int fd = open_it(a, O_WRONLY, error);
    struct stat st;
    bool ok = fd >= 0 && listen(a, IN_MODIFY, error);

    if (ok)
        ok = (fstat(fd, &st) == 0 && ftruncate(fd, st.st_size) == 0) ||
             agent_fail_errno(error, "%s", a->path);
    ok = ok && quiet(a, error);
    if (ok)
        ok = futimens(fd, (const struct timespec[2]){st.st_atim, st.st_mtim}) == 0 ||
             agent_fail_errno(error, "times of %s", a->path);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool happen_attrib(struct act *a, GError **error)
{
    struct stat st;

    return listen(a, IN_ATTRIB, error) &&
           ((stat(a->path, &st) == 0 && chmod(a->path, st.st_mode & 07777) == 0) ||
            agent_fail_errno(error, "%s", a->path)) &&
           quiet(a, error);
}

/* ---- what happens in a directory ---- */

static bool happen_create(struct act *a, GError **error)
{
    return listen(a, IN_CREATE, error) && make(a->path, a->is_dir, error) && quiet(a, error) &&
           drop(a->path, a->is_dir, error);
}

static bool happen_delete(struct act *a, GError **error)
{
    return make(a->path, a->is_dir, error) && listen(a, IN_DELETE, error) &&
           drop(a->path, a->is_dir, error) && quiet(a, error);
}

static bool is_pair(const struct agent_event *event, const struct agent_event *next)
{
    return next && kind_of(event) == IN_MOVED_FROM && kind_of(next) == IN_MOVED_TO &&
           event->head.cookie == next->head.cookie;
}

static bool move(const char *from, const char *to, GError **error)
{
    return rename(from, to) == 0 || agent_fail_errno(error, "%s to %s", from, to);
}

// The next event tells of the same, of the other side.
static bool happen_pair(struct act *a, GError **error)
{
    const struct agent_watch *to = agent_instance_watch(a->in, a->next->head.wd);
    g_autofree char *path = g_strconcat(to->path, "/", a->next->name, NULL);
    const uint32_t both = to == a->watch ? IN_MOVED_TO : 0;

    a->took_next = true;
    return make(a->path, a->is_dir, error) && listen(a, IN_MOVED_FROM | both, error) &&
           (both || agent_watch_listen(a->in, to, IN_MOVED_TO, error)) &&
           move(a->path, path, error) && quiet(a, error) &&
           agent_watch_listen(a->in, to, AGENT_INOTIFY_QUIET, error) &&
           drop(path, a->is_dir, error);
}

static bool happen_moved_from(struct act *a, GError **error)
{
    g_autofree char *other = other_name(a);

    if (is_pair(a->event, a->next))
        return happen_pair(a, error);
    return make(a->path, a->is_dir, error) && listen(a, IN_MOVED_FROM, error) &&
           move(a->path, other, error) && quiet(a, error) && drop(other, a->is_dir, error);
}

static bool happen_moved_to(struct act *a, GError **error)
{
    g_autofree char *other = other_name(a);

    return make(other, a->is_dir, error) && listen(a, IN_MOVED_TO, error) &&
           move(other, a->path, error) && quiet(a, error) && drop(a->path, a->is_dir, error);
}

/* ---- the end of a watch ---- */

static bool happen_move_self(struct act *a, GError **error)
{
    char *other = g_strconcat(a->watch->path, "-", NULL);

    if (!listen(a, IN_MOVE_SELF, error) || !move(a->watch->path, other, error)) {
        g_free(other);
        return false;
    }
    g_free(a->watch->path);
    a->watch->path = other;
    return quiet(a, error);
}

// Takes the watch with it, which is the next event.
static bool happen_delete_self(struct act *a, GError **error)
{
    a->took_next = true;
    return listen(a, IN_DELETE_SELF, error) && drop(a->watch->path, a->watch->is_dir, error);
}

static bool happen_ignored(struct act *a, GError **error)
{
    return inotify_rm_watch(a->in->fd, a->watch->wd) == 0 || agent_fail_errno(error, "watch");
}

/* ---- one event after the other ---- */

enum where {
    FILE_ITSELF = 1 << 0, // or something made like it, where it has a name
    NAME_FREE = 1 << 1,   // there is no file of the name
    REMOVED = 1 << 2,     // the watch has been removed
};

static const struct happening {
    uint32_t kind;
    enum where where;
    bool (*happen)(struct act *a, GError **error);
} happenings[] = {
    {IN_OPEN, FILE_ITSELF, happen_open},
    {IN_ACCESS, FILE_ITSELF, happen_access},
    {IN_MODIFY, FILE_ITSELF, happen_modify},
    {IN_ATTRIB, FILE_ITSELF, happen_attrib},
    {IN_CLOSE_WRITE, FILE_ITSELF, happen_close_write},
    {IN_CLOSE_NOWRITE, FILE_ITSELF, happen_close_nowrite},
    {IN_CREATE, NAME_FREE, happen_create},
    {IN_DELETE, NAME_FREE, happen_delete},
    {IN_MOVED_FROM, NAME_FREE, happen_moved_from},
    {IN_MOVED_TO, NAME_FREE, happen_moved_to},
    {IN_MOVE_SELF, REMOVED, happen_move_self},
    {IN_DELETE_SELF, REMOVED, happen_delete_self},
    {IN_IGNORED, REMOVED, happen_ignored},
};

static const struct happening *happening_of(const struct agent_event *event)
{
    for (size_t i = 0; i < G_N_ELEMENTS(happenings); i++)
        if ((event->head.mask & ~(uint32_t)IN_ISDIR) == happenings[i].kind)
            return &happenings[i];
    return NULL;
}

static bool times_of_directory(const struct agent_watch *watch, struct stat *st, bool set,
                               GError **error)
{
    if (!watch->rec || !watch->is_dir)
        return true;
    if (set ? utimensat(AT_FDCWD, watch->path, (const struct timespec[2]){st->st_atim, st->st_mtim},
                        0)
            : stat(watch->path, st))
        return agent_fail_errno(error, "%s", watch->path);
    return true;
}

// Something of that name is there while it happens to it.
static bool happen(struct act *a, const struct happening *h, GError **error)
{
    struct stat st, dir;
    const bool lacking =
        h->where == FILE_ITSELF && *a->event->name && lstat(a->path, &st) < 0 && errno == ENOENT;

    return times_of_directory(a->watch, &dir, false, error) &&
           (!lacking || make(a->path, a->is_dir, error)) && h->happen(a, error) &&
           (!lacking || drop(a->path, a->is_dir, error)) &&
           times_of_directory(a->watch, &dir, true, error);
}

bool agent_inotify_events(struct agent_instance *in, GError **error)
{
    struct agent_event event, next;
    gsize at = 0, size = in->rec->events ? g_bytes_get_size(in->rec->events) : 0;
    int there = 0;
    bool more = agent_event_next(in->rec, &at, &event);

    while (more) {
        const bool follows = agent_event_next(in->rec, &at, &next);
        struct act a = {.in = in,
                        .watch = agent_instance_watch(in, event.head.wd),
                        .event = &event,
                        .next = follows ? &next : NULL,
                        .is_dir = event.head.mask & IN_ISDIR};

        a.path = *event.name ? g_strconcat(a.watch->path, "/", event.name, NULL)
                             : g_strdup(a.watch->path);
        const bool ok = happen(&a, happening_of(&event), error);

        g_free(a.path);
        if (!ok)
            return false;
        event = next;
        more = a.took_next ? agent_event_next(in->rec, &at, &event) : follows;
    }
    if (ioctl(in->fd, FIONREAD, &there) < 0 || (gsize)there != size)
        return agent_fail(error, "events of %d bytes wait instead of %zu", there, size);
    return true;
}

/* ---- what cannot happen again ---- */

static const struct fmt_inotify_watch *watch_of(AgentRestore *r, const struct fmt_inotify *rec,
                                                int wd)
{
    const struct fmt_inotify_watch *watch;

    for (size_t i = 0; FMT_NEXT(r->img, INOTIFY_WATCH, i, watch); i++)
        if (watch->inotify == rec->rec.objref && (int)watch->wd == wd)
            return watch;
    return NULL;
}

static const char *why_not_there(AgentRestore *r, const struct fmt_inotify_watch *watch,
                                 const struct agent_event *event, enum where where)
{
    const char *dir = watch->path;
    g_autofree char *path = dir && *event->name ? g_strconcat(dir, "/", event->name, NULL) : NULL;
    struct stat st;

    if (where == REMOVED)
        return "it says that the watch is gone, or what it watched is elsewhere";
    if (!dir)
        return where == NAME_FREE ? "nothing can be made in a deleted directory" : NULL;
    if (lstat(path ? path : dir, &st) < 0)
        return NULL; // it is made for it
    if (where == NAME_FREE)
        return "a file has that name here";
    if (S_ISDIR(st.st_mode) != !!(event->head.mask & IN_ISDIR) ||
        !(S_ISDIR(st.st_mode) || S_ISREG(st.st_mode)))
        return "it is no such file here";
    if (event->head.mask & IN_ACCESS && S_ISREG(st.st_mode) && st.st_size == 0)
        return "it is empty here";
    return NULL;
}

// Why an event cannot be made, NULL where it can.
static const char *why_not(AgentRestore *r, const struct fmt_inotify *rec,
                           const struct agent_event *before, const struct agent_event *event,
                           const struct agent_event *next)
{
    const struct happening *h = happening_of(event);
    const struct fmt_inotify_watch *watch = watch_of(r, rec, event->head.wd);
    const bool removes = kind_of(event) == IN_DELETE_SELF;

    if (event->head.wd <= 0 || (uint64_t)event->head.wd >= rec->next_wd)
        return "it is of no watch";
    if (!h || strchr(event->name, '/') || strcmp(event->name, ".") == 0 ||
        strcmp(event->name, "..") == 0 || (h->where == NAME_FREE && !*event->name))
        return "it is not known how";
    if (removes && (!next || next->head.mask != IN_IGNORED || next->head.wd != event->head.wd))
        return "its watch does not end with it";
    // What came with it may have been read.
    if (kind_of(event) == IN_MOVED_TO && !before)
        return "nobody can say with which cookie it goes";
    if (kind_of(event) == IN_MOVED_FROM && is_pair(event, next) &&
        !watch != !watch_of(r, rec, next->head.wd))
        return "only one of its two watches is there still";
    return watch ? why_not_there(r, watch, event, h->where) : NULL;
}

void agent_inotify_plan_events(AgentRestore *r, const struct fmt_file *f,
                               const struct fmt_inotify *rec)
{
    const gsize size = rec->events ? g_bytes_get_size(rec->events) : 0;
    struct agent_event before, event, next;
    gsize at = 0;
    bool first = true, more = agent_event_next(rec, &at, &event);

    while (more) {
        const bool follows = agent_event_next(rec, &at, &next);
        const char *why = why_not(r, rec, first ? NULL : &before, &event, follows ? &next : NULL);

        if (why)
            agent_refuse_file(r, "inotify", f->rec.objref,
                              "event %#x of watch %d (%s) waits, which cannot be made again: %s",
                              event.head.mask, event.head.wd, event.name, why);
        before = event;
        event = next;
        first = false;
        more = follows;
    }
    if (at != size)
        agent_refuse_file(r, "inotify", f->rec.objref, "its events are none");
}
