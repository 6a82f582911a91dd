// SPDX-License-Identifier: GPL-2.0-or-later
// Epoll sets: what is watched, and which events are still to be fetched.
//
// An entry that is added while its file is ready is queued to be looked at. That is right for what
// was queued at home, and does no harm to level-triggered entries, which are looked at as long as
// they are ready. But an edge that the program has fetched must not come again, and an entry that
// has fired once (EPOLLONESHOT) must not speak at all, not even of errors, which only the kernel
// can make it: by having it fire. So the steps are
//
//   attach  entries that have fired are added and made to fire, before anybody watches the same
//           files: where the file is not ready, its kind makes it so for a moment (stir)
//   arm     sets within sets first. Entries that were not queued are added and what comes of it is
//           fetched; then the queued ones in their order; then the level-triggered rest
//
// An entry is known by the number under which it was added, which may be another file's by now. A
// thread with a descriptor table of its own adds them: there all numbers below ours are free. A
// signalfd speaks for whoever added it, so that is the process itself.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/fork.h"

// What is left of the events of an entry that has fired (EP_PRIVATE_BITS).
#define PRIVATE_BITS ((uint32_t)(EPOLLWAKEUP | EPOLLONESHOT | EPOLLET) | EPOLLEXCLUSIVE)
#define ALL_EVENTS                                                                                 \
    (EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDNORM | EPOLLRDBAND | EPOLLWRNORM | EPOLLWRBAND |       \
     EPOLLMSG | EPOLLRDHUP)

// Since 6.9; older headers lack it.
struct busy_poll_params {
    uint32_t usecs;
    uint16_t budget;
    uint8_t prefer, pad;
};
#define SET_BUSY_POLL _IOW(0x8A, 0x01, struct busy_poll_params)

struct set {
    bool begun;
};

static const struct fmt_file *file_of(AgentRestore *r, const struct fmt_epoll_item *item)
{
    return fmt_image_by_ref(r->img, item->file, FMT_FILE);
}

static bool has_fired(const struct fmt_epoll_item *item)
{
    return item->events & EPOLLONESHOT && !((uint32_t)item->events & ~PRIVATE_BITS);
}

/* ---- signalfds, by the process ---- */

// The number by which a process knows an open file; `prefer` where that is one. -1: none.
static int64_t number_of(const AgentProc *p, uint64_t file, uint64_t prefer, bool *ret_taken)
{
    const struct fmt_fd *fd;
    int64_t found = -1;

    *ret_taken = false;
    for (size_t i = 0; FMT_NEXT(p->r->img, FD, i, fd); i++) {
        if (fd->files != agent_leader(p)->rec->files)
            continue;
        if (fd->file == file && (found < 0 || fd->fd == prefer))
            found = (int64_t)fd->fd;
        *ret_taken |= fd->fd == prefer && fd->file != file;
    }
    return found;
}

static AgentProc *proc_of(AgentRestore *r, const struct fmt_epoll_item *item)
{
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->rec.objref == item->proc)
            return p;
    }
    return NULL;
}

static bool has_pending_signal(AgentRestore *r, const struct fmt_epoll_item *item)
{
    const AgentProc *p = proc_of(r, item);
    const struct fmt_eventfd *rec = fmt_image_by_ref(r->img, file_of(r, item)->object, FMT_EVENTFD);
    const struct fmt_signal *s;

    for (size_t i = 0; p && rec && FMT_NEXT(r->img, SIGNAL, i, s); i++) {
        if ((s->owner == item->proc || s->owner == agent_leader(p)->rec->rec.objref) &&
            s->signo - 1 < 64 && rec->mask >> (s->signo - 1) & 1)
            return true;
    }
    return false;
}

// Whether there was anything at the capture that can have been fetched. What a timer, a signal or a
// change of a file has brought since then is news.
static bool was_ready(AgentRestore *r, const struct fmt_epoll_item *item)
{
    const struct fmt_file *file = file_of(r, item);
    const struct fmt_timerfd *timer = fmt_image_by_ref(r->img, file->object, FMT_TIMERFD);
    const struct fmt_inotify *inotify = fmt_image_by_ref(r->img, file->object, FMT_INOTIFY);

    if (file->kind == FMT_FILE_SIGNALFD)
        return has_pending_signal(r, item);
    return timer ? timer->ticks > 0 : inotify ? inotify->events != NULL : true;
}

// Its event has been fetched.
static bool is_settled(AgentRestore *r, const struct fmt_epoll_item *item)
{
    return item->ready == 0 && item->events & EPOLLET && !(item->events & EPOLLONESHOT) &&
           was_ready(r, item);
}

static bool is_remote(AgentRestore *r, const struct fmt_epoll_item *item)
{
    return file_of(r, item)->kind == FMT_FILE_SIGNALFD && !item->detached;
}

static bool add_remote(AgentRestore *r, const struct fmt_file *set,
                       const struct fmt_epoll_item *item, GError **error)
{
    const AgentProc *p = proc_of(r, item);
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    struct epoll_event event = {.events = (uint32_t)item->events, .data.u64 = item->data};
    bool taken;
    const int64_t ep = number_of(p, set->rec.objref, UINT64_MAX, &taken);
    const int64_t fd = number_of(p, item->file, item->fd, &taken);
    const bool moved = fd != (int64_t)item->fd;
    uint64_t at;

    // One that has fired is added as such: a signalfd knows no errors, which alone it would tell
    // of.
    if (!agent_remote_put(t, 0, &event, sizeof event, &at, error) ||
        (moved &&
         !agent_remote(t, "dup3", SYS_dup3, NULL, error, (uint64_t)fd, item->fd, O_CLOEXEC)) ||
        !agent_remote(t, "epoll_ctl", SYS_epoll_ctl, NULL, error, (uint64_t)ep, EPOLL_CTL_ADD,
                      item->fd, at) ||
        (moved && !agent_remote(t, "close", SYS_close, NULL, error, item->fd)))
        return false;
    return !is_settled(r, item) ||
           agent_remote(t, "epoll_wait", SYS_epoll_wait, NULL, error, (uint64_t)ep, at, 1, 0);
}

/* ---- everything else, by us ---- */

// A run of entries, added one after the other by a thread.
struct run {
    AgentRestore *r;
    const struct fmt_file *set;
    GPtrArray *items; // of const struct fmt_epoll_item
    GError **error;
    bool ok;
};

static bool control(struct run *run, const struct fmt_epoll_item *item, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = item->data};
    const int ep = agent_file_fd(run->r, run->set->rec.objref);

    return epoll_ctl(ep, op, (int)item->fd, &event) == 0 ||
           agent_fail_errno(run->error, "entry for descriptor %" G_GUINT64_FORMAT, item->fd);
}

// Takes an event off the queue; false without an error where there is none.
static bool fetch(struct run *run)
{
    struct epoll_event event;

    return epoll_wait(agent_file_fd(run->r, run->set->rec.objref), &event, 1, 0) == 1;
}

static bool add_fired(struct run *run, const struct fmt_epoll_item *item)
{
    const struct fmt_file *file = file_of(run->r, item);
    const struct agent_file_kind *kind = agent_file_kind(file->kind);

    if (!control(run, item, EPOLL_CTL_ADD, (uint32_t)item->events | ALL_EVENTS))
        return false;
    if (fetch(run))
        return true;
    // Disarmed it tells of errors and hangups alone, which such a file hardly has.
    if (!kind->stir)
        return control(run, item, EPOLL_CTL_MOD, (uint32_t)item->events & PRIVATE_BITS);
    if (!kind->stir(run->r, file, true, run->error))
        return false;
    const bool fired = fetch(run);

    return kind->stir(run->r, file, false, run->error) &&
           (fired || agent_fail(run->error, "a %s cannot be made to fire", kind->name));
}

static bool add_one(struct run *run, const struct fmt_epoll_item *item)
{
    if (has_fired(item))
        return add_fired(run, item);
    if (!control(run, item, EPOLL_CTL_ADD, (uint32_t)item->events))
        return false;
    if (is_settled(run->r, item))
        fetch(run);
    return true;
}

// What a signalfd waits with belongs to whoever adds it, and goes when he ends.
static bool add_detached(struct run *run, const struct fmt_epoll_item *item)
{
    const pid_t child = agent_fork_high(0);
    int status = 0;

    if (child == 0)
        _exit(control(run, item, EPOLL_CTL_ADD, (uint32_t)item->events) ? 0 : 1);
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        return agent_fail(run->error, "entry of a signalfd that nobody waits with");
    return true;
}

static void *add_run(void *arg)
{
    struct run *run = arg;

    run->ok = unshare(CLONE_FILES) == 0 || agent_fail_errno(run->error, "descriptor table");
    for (guint i = 0; run->ok && i < run->items->len; i++) {
        const struct fmt_epoll_item *item = g_ptr_array_index(run->items, i);

        if (dup2(agent_file_fd(run->r, item->file), (int)item->fd) < 0)
            run->ok = agent_fail_errno(run->error, "descriptor %" G_GUINT64_FORMAT, item->fd);
        else if (item->detached)
            run->ok = add_detached(run, item);
        else
            run->ok = add_one(run, item);
        close((int)item->fd);
    }
    return NULL;
}

static bool add_here(AgentRestore *r, const struct fmt_file *set, GPtrArray *items, GError **error)
{
    struct run run = {.r = r, .set = set, .items = items, .error = error};
    pthread_t thread;

    if (items->len == 0)
        return true;
    errno = pthread_create(&thread, NULL, add_run, &run);
    if (errno)
        return agent_fail_errno(error, "thread");
    pthread_join(thread, NULL);
    g_ptr_array_set_size(items, 0);
    return run.ok;
}

static bool add_all(AgentRestore *r, const struct fmt_file *set, GPtrArray *items, GError **error)
{
    g_autoptr(GPtrArray) run = g_ptr_array_new();

    for (guint i = 0; i < items->len; i++) {
        const struct fmt_epoll_item *item = g_ptr_array_index(items, i);

        if (!is_remote(r, item))
            g_ptr_array_add(run, (void *)item);
        else if (!add_here(r, set, run, error) || !add_remote(r, set, item, error))
            return false;
    }
    return add_here(r, set, run, error);
}

/* ---- the order ---- */

// Which of the steps an entry belongs to.
enum step { FIRED, SETTLED, READY, OTHER };

static enum step step_of(AgentRestore *r, const struct fmt_epoll_item *item)
{
    const struct fmt_file *file = file_of(r, item);

    if (has_fired(item) && file->kind != FMT_FILE_EPOLL && file->kind != FMT_FILE_SIGNALFD)
        return FIRED;
    if (has_fired(item) || is_settled(r, item))
        return SETTLED;
    return item->ready ? READY : OTHER;
}

static int by_step(gconstpointer a, gconstpointer b, void *r)
{
    const struct fmt_epoll_item *x = *(struct fmt_epoll_item *const *)a;
    const struct fmt_epoll_item *y = *(struct fmt_epoll_item *const *)b;
    const int dx = (int)step_of(r, x), dy = (int)step_of(r, y);

    if (dx != dy)
        return dx - dy;
    if (x->ready != y->ready)
        return x->ready < y->ready ? -1 : 1;
    return x->rec.objref < y->rec.objref ? -1 : 1;
}

// The entries of a set: those that have fired, or all others in the order to be added.
static GPtrArray *entries(AgentRestore *r, uint64_t set, bool fired)
{
    GPtrArray *items = g_ptr_array_new();
    struct fmt_epoll_item *item;

    for (size_t i = 0; FMT_NEXT(r->img, EPOLL_ITEM, i, item); i++) {
        if (item->epoll == set && (step_of(r, item) == FIRED) == fired)
            g_ptr_array_add(items, item);
    }
    g_ptr_array_sort_with_data(items, by_step, r);
    return items;
}

static bool attach(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    g_autoptr(GPtrArray) items = entries(r, f->object, true);

    return add_all(r, f, items, error);
}

static bool arm(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    g_autoptr(GPtrArray) items = entries(r, f->object, false);
    struct set *set = g_hash_table_lookup(r->objects, &f->object);

    // A set may be reached from several others; one that is in itself epoll_ctl will not take.
    if (set->begun)
        return true;
    set->begun = true;
    for (guint i = 0; i < items->len; i++) {
        const struct fmt_file *inner = file_of(r, g_ptr_array_index(items, i));

        if (inner->kind == FMT_FILE_EPOLL && !arm(r, inner, error))
            return false;
    }
    return add_all(r, f, items, error);
}

/* ---- the file ---- */

static void plan_item(AgentRestore *r, const struct fmt_file *f, const struct fmt_epoll_item *item,
                      uint64_t pid, int64_t fd)
{
    const struct fmt_file *file = file_of(r, item);
    const AgentProc *p = proc_of(r, item);
    bool taken = false, unused;

    if (item->fd > G_MAXINT / 2)
        agent_refuse(r, "epoll", pid, fd, "its entry for descriptor %" G_GUINT64_FORMAT " is none",
                     item->fd);
    if (file->kind != FMT_FILE_SIGNALFD || item->detached)
        return;
    if (!p || number_of(p, f->rec.objref, UINT64_MAX, &unused) < 0 ||
        number_of(p, item->file, item->fd, &taken) < 0 || taken)
        agent_refuse(r, "epoll", pid, fd,
                     "it watches a signalfd (%" G_GUINT64_FORMAT
                     ") for a process that has it or the set under no number of its own",
                     item->fd);
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_epoll_item *item;
    uint64_t pid;
    int64_t fd;

    agent_file_user(r, f->rec.objref, &pid, &fd);
    if (!fmt_image_by_ref(r->img, f->object, FMT_EPOLL))
        agent_refuse(r, "epoll", pid, fd, "the image lacks an epoll set");
    for (size_t i = 0; FMT_NEXT(r->img, EPOLL_ITEM, i, item); i++) {
        if (item->epoll == f->object)
            plan_item(r, f, item, pid, fd);
    }
}

static int open_epoll(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_epoll *rec = fmt_image_by_ref(r->img, f->object, FMT_EPOLL);
    const struct busy_poll_params params = {(uint32_t)rec->busy_poll_usecs,
                                            (uint16_t)rec->busy_poll_budget,
                                            (uint8_t)rec->prefer_busy_poll, 0};
    const int fd = agent_fd_up(r, epoll_create1(EPOLL_CLOEXEC), error);

    if (fd < 0)
        return -1;
    if ((params.usecs || params.budget || params.prefer) && ioctl(fd, SET_BUSY_POLL, &params) < 0)
        agent_note(r, "epoll", 0, -1, "busy polling of network devices cannot be set: %s",
                   g_strerror(errno));
    g_hash_table_insert(r->objects, (void *)&rec->rec.objref, g_new0(struct set, 1));
    return agent_fd_status(fd, f, error) ? fd : -1;
}

// Something in it is ready for a moment.
static bool stir(AgentRestore *r, const struct fmt_file *f, bool on, GError **error)
{
    static const int number = 0; // of our own, in the thread that adds the entries
    struct epoll_event event = {.events = EPOLLOUT};
    const int ep = agent_file_fd(r, f->rec.objref);

    if (!on)
        return epoll_ctl(ep, EPOLL_CTL_DEL, number, &event) == 0 ||
               agent_fail_errno(error, "epoll set");
    const int any = eventfd(0, EFD_CLOEXEC);
    const bool ok = any >= 0 && dup2(any, number) == number &&
                    epoll_ctl(ep, EPOLL_CTL_ADD, number, &event) == 0;

    close(any);
    return ok || agent_fail_errno(error, "epoll set");
}

const struct agent_file_kind agent_file_epoll = {
    .kind = FMT_FILE_EPOLL,
    .name = "epoll set",
    .plan = plan,
    .open = open_epoll,
    .later = {[AGENT_FILE_ATTACH] = attach, [AGENT_FILE_ARM] = arm},
    .stir = stir,
};
