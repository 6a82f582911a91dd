// SPDX-License-Identifier: GPL-2.0-or-later
// Inotify instances: watches under their numbers, and the events that wait to be read.
//
// The kernel gives numbers in turn, so each that is not a watch is given once and taken back. All
// watches are quiet at first. Then what waited is made to happen once more (inotify_events.c), each
// event with the one watch listening that had it, and last they get their masks. That is when all
// else has been done to the files of this machine: what the restore itself does is no news.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guestagent/inotify.h"

#define MAX_NUMBERS (1u << 20) // that are given in turn

#define MASK (IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK)

bool agent_event_next(const struct fmt_inotify *rec, gsize *at, struct agent_event *ret)
{
    gsize size = 0;
    const uint8_t *data = rec->events ? g_bytes_get_data(rec->events, &size) : NULL;
    struct agent_event event = {.name = ""};

    if (size - *at < sizeof event.head)
        return false;
    memcpy(&event.head, data + *at, sizeof event.head);
    *at += sizeof event.head;
    if (event.head.len > size - *at || (event.head.len && data[*at + event.head.len - 1]))
        return false;
    if (event.head.len)
        event.name = (const char *)data + *at;
    *at += event.head.len;
    *ret = event;
    return true;
}

/* ---- what is watched ---- */

// The agent's descriptor of something without a name that is watched; -1.
static int open_object(AgentRestore *r, const struct fmt_inotify_watch *watch)
{
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++) {
        if (f->object == watch->object && agent_file_fd(r, f->rec.objref) >= 0)
            return agent_file_fd(r, f->rec.objref);
    }
    return -1;
}

static bool is_open_in_image(AgentRestore *r, const struct fmt_inotify_watch *watch)
{
    const struct fmt_file *f;

    for (size_t i = 0; FMT_NEXT(r->img, FILE, i, f); i++) {
        if (watch->object && f->object == watch->object)
            return true;
    }
    return false;
}

static void plan_watch(AgentRestore *r, const struct fmt_file *f,
                       const struct fmt_inotify_watch *watch)
{
    const char *path = watch->path;
    const struct fmt_inode *inode = fmt_image_by_ref(r->img, watch->object, FMT_INODE);
    struct stat st;

    if (!path && !is_open_in_image(r, watch))
        agent_refuse_file(r, "inotify", f->rec.objref, "watch %" G_GUINT64_FORMAT " is of nothing",
                          watch->wd);
    else if (path && inode && inode->contents == FMT_CONTENTS_CARRIED && is_open_in_image(r, watch))
        return;
    else if (path && lstat(path, &st) < 0)
        agent_refuse_file(r, "file-missing", f->rec.objref,
                          "%s, which is watched: %s (--carry-files takes what is open alone)", path,
                          g_strerror(errno));
    else if (path && (st.st_mode & S_IFMT) != (watch->mode & S_IFMT))
        agent_refuse_file(r, "file-type", f->rec.objref,
                          "%s, which is watched, is something else here", path);
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_inotify *rec = fmt_image_by_ref(r->img, f->object, FMT_INOTIFY);
    const struct fmt_inotify_watch *watch;
    g_autofree char *text = NULL;

    if (!rec) {
        agent_refuse_file(r, "inotify", f->rec.objref, "the image lacks an inotify instance");
        return;
    }
    for (size_t i = 0; FMT_NEXT(r->img, INOTIFY_WATCH, i, watch); i++) {
        if (watch->inotify != rec->rec.objref)
            continue;
        if (watch->wd == 0 || watch->wd >= rec->next_wd)
            agent_refuse_file(r, "inotify", f->rec.objref,
                              "a watch has the number %" G_GUINT64_FORMAT, watch->wd);
        plan_watch(r, f, watch);
    }
    if (rec->next_wd > MAX_NUMBERS)
        agent_refuse_file(r, "inotify", f->rec.objref,
                          "%" G_GUINT64_FORMAT
                          " watches have been added to it, which takes too long",
                          rec->next_wd - 1);
    if (g_file_get_contents("/proc/sys/fs/inotify/max_queued_events", &text, NULL, NULL) &&
        g_ascii_strtoull(text, NULL, 10) != rec->max_events)
        agent_note_file(r, "inotify", f->rec.objref,
                        "fs.inotify.max_queued_events was %" G_GUINT64_FORMAT " and is %s here",
                        rec->max_events, g_strstrip(text));
    agent_inotify_plan_events(r, f, rec);
}

/* ---- numbers ---- */

static void watch_free(void *p)
{
    struct agent_watch *watch = p;

    g_free(watch->path);
    g_free(watch);
}

struct agent_watch *agent_instance_watch(const struct agent_instance *in, int wd)
{
    for (guint i = 0; i < in->watches->len; i++) {
        struct agent_watch *watch = g_ptr_array_index(in->watches, i);

        if (watch->wd == wd)
            return watch;
    }
    return NULL;
}

static bool make_scratch(struct agent_instance *in, GError **error)
{
    g_autofree char *path = g_strdup("/tmp/.vmgraft-XXXXXX");

    if (in->scratch)
        return true;
    if (!mkdtemp(path)) {
        g_free(path);
        path = g_strdup("/dev/shm/.vmgraft-XXXXXX");
        if (!mkdtemp(path))
            return agent_fail_errno(error, "a directory for a while");
    }
    in->scratch = g_steal_pointer(&path);
    return true;
}

static struct agent_watch *add(struct agent_instance *in, int wd)
{
    struct agent_watch *watch = g_new0(struct agent_watch, 1);

    watch->wd = wd;
    g_ptr_array_add(in->watches, watch);
    return watch;
}

static bool add_living(struct agent_instance *in, const struct fmt_inotify_watch *rec)
{
    struct agent_watch *watch = add(in, (int)rec->wd);
    struct stat st;

    watch->rec = rec;
    watch->is_dir = S_ISDIR(rec->mode);
    // Of several names of a carried file one is made here, which need not be that of the watch.
    watch->by_fd = !rec->path || (lstat(rec->path, &st) < 0 && open_object(in->r, rec) >= 0);
    watch->path = watch->by_fd ? g_strdup_printf("/proc/self/fd/%d", open_object(in->r, rec))
                               : g_strdup(rec->path);
    return true;
}

// One that has been removed, and whose last events wait: a directory stands for it where they say
// that it was one.
static bool add_removed(struct agent_instance *in, const struct agent_event *event, GError **error)
{
    struct agent_watch *watch = agent_instance_watch(in, event->head.wd);

    if (!watch) {
        if (!make_scratch(in, error))
            return false;
        watch = add(in, event->head.wd);
        watch->path = g_strdup_printf("%s/%d", in->scratch, event->head.wd);
    }
    watch->is_dir |= !watch->rec && (*event->name || event->head.mask & IN_ISDIR);
    return true;
}

static int by_number(gconstpointer a, gconstpointer b)
{
    const struct agent_watch *x = *(struct agent_watch *const *)a;
    const struct agent_watch *y = *(struct agent_watch *const *)b;

    return x->wd < y->wd ? -1 : x->wd > y->wd;
}

static bool collect(struct agent_instance *in, GError **error)
{
    const struct fmt_inotify_watch *watch;
    struct agent_event event;

    for (size_t i = 0; FMT_NEXT(in->r->img, INOTIFY_WATCH, i, watch); i++) {
        if (watch->inotify == in->rec->rec.objref && !add_living(in, watch))
            return false;
    }
    for (gsize at = 0; agent_event_next(in->rec, &at, &event);) {
        if (!add_removed(in, &event, error))
            return false;
    }
    g_ptr_array_sort(in->watches, by_number);
    return true;
}

static bool make_stand_in(const struct agent_watch *watch, GError **error)
{
    if (watch->is_dir)
        return mkdir(watch->path, 0700) == 0 || agent_fail_errno(error, "%s", watch->path);

    const int fd = open(watch->path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    const bool ok = fd >= 0 && write(fd, "", 1) == 1;

    if (!ok)
        agent_fail_errno(error, "%s", watch->path);
    close(fd);
    return ok;
}

bool agent_watch_listen(const struct agent_instance *in, const struct agent_watch *watch,
                        uint32_t mask, GError **error)
{
    // A path of the image leads to what was watched, without links.
    const int wd =
        inotify_add_watch(in->fd, watch->path, mask | (watch->by_fd ? 0 : IN_DONT_FOLLOW));

    if (wd < 0)
        return agent_fail_errno(error, "a watch of %s", watch->path);
    return wd == watch->wd || agent_fail(error, "the watch of %s gets the number %d instead of %d",
                                         watch->path, wd, watch->wd);
}

// Numbers that nothing needs are given to something and taken back.
static bool pass_numbers(struct agent_instance *in, int from, int to, GError **error)
{
    for (int wd = from; wd < to; wd++) {
        const int given = inotify_add_watch(in->fd, "/proc/self", AGENT_INOTIFY_QUIET);

        if (given != wd || inotify_rm_watch(in->fd, wd) < 0)
            return given < 0
                       ? agent_fail_errno(error, "watch")
                       : agent_fail(error, "a watch gets the number %d instead of %d", given, wd);
    }
    return true;
}

// What passing numbers has left in the queue.
static bool drain(int fd, GError **error)
{
    uint8_t data[16384];
    ssize_t n;

    while ((n = read(fd, data, sizeof data)) > 0)
        ;
    return errno == EAGAIN || agent_fail_errno(error, "read");
}

static bool give_numbers(struct agent_instance *in, GError **error)
{
    int next = 1;

    for (guint i = 0; i < in->watches->len; i++) {
        const struct agent_watch *watch = g_ptr_array_index(in->watches, i);

        if (!pass_numbers(in, next, watch->wd, error) ||
            (!watch->rec && !make_stand_in(watch, error)) ||
            !agent_watch_listen(in, watch, AGENT_INOTIFY_QUIET, error))
            return false;
        next = watch->wd + 1;
    }
    return pass_numbers(in, next, (int)in->rec->next_wd, error) && drain(in->fd, error);
}

static bool listen_all(struct agent_instance *in, GError **error)
{
    for (guint i = 0; i < in->watches->len; i++) {
        const struct agent_watch *watch = g_ptr_array_index(in->watches, i);

        const uint32_t mask = watch->rec ? (uint32_t)watch->rec->mask & MASK : 0;

        if (watch->rec && !agent_watch_listen(in, watch, mask ? mask : AGENT_INOTIFY_QUIET, error))
            return false;
    }
    return true;
}

static void drop_scratch(struct agent_instance *in)
{
    for (guint i = 0; i < in->watches->len; i++) {
        const struct agent_watch *watch = g_ptr_array_index(in->watches, i);

        if (!watch->rec && unlink(watch->path) < 0 && errno == EISDIR)
            rmdir(watch->path);
    }
    if (in->scratch)
        rmdir(in->scratch);
}

/* ---- the file ---- */

static void instance_free(void *p)
{
    struct agent_instance *in = p;

    g_ptr_array_unref(in->watches);
    g_free(in->scratch);
    g_free(in);
}

static struct agent_instance *instance_new(AgentRestore *r, const struct fmt_file *f)
{
    struct agent_instance *in = g_new0(struct agent_instance, 1);

    in->r = r;
    in->rec = fmt_image_by_ref(r->img, f->object, FMT_INOTIFY);
    in->fd = agent_file_fd(r, f->rec.objref);
    in->watches = g_ptr_array_new_with_free_func(watch_free);
    return in;
}

// Reading must not wait, to drain it.
static bool replay(struct agent_instance *in, GError **error)
{
    const int flags = fcntl(in->fd, F_GETFL);
    const bool ok = collect(in, error) && fcntl(in->fd, F_SETFL, flags | O_NONBLOCK) == 0 &&
                    give_numbers(in, error) && agent_inotify_events(in, error);

    drop_scratch(in);
    return ok && (fcntl(in->fd, F_SETFL, flags) == 0 || agent_fail_errno(error, "flags"));
}

// All at once, with the first of them: nobody listens to what is done for another.
static bool arm(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    g_autoptr(GPtrArray) instances = g_ptr_array_new_with_free_func(instance_free);
    GHashTableIter iter;
    struct agent_file *file;
    bool ok = true;

    g_hash_table_iter_init(&iter, r->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&file)) {
        if (file->rec->kind != FMT_FILE_INOTIFY)
            continue;
        if (file->rec->rec.objref < f->rec.objref)
            return true;
        g_ptr_array_add(instances, instance_new(r, file->rec));
    }
    for (guint i = 0; ok && i < instances->len; i++)
        ok = replay(g_ptr_array_index(instances, i), error);
    for (guint i = 0; ok && i < instances->len; i++)
        ok = listen_all(g_ptr_array_index(instances, i), error);
    return ok;
}

static int open_inotify(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const int fd = agent_fd_up(r, inotify_init1(IN_CLOEXEC), error);

    return fd >= 0 && agent_fd_status(fd, f, error) ? fd : -1;
}

const struct agent_file_kind agent_file_inotify = {
    .kind = FMT_FILE_INOTIFY,
    .name = "inotify instance",
    .plan = plan,
    .open = open_inotify,
    .later = {[AGENT_FILE_ARM] = arm},
};
