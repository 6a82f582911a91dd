// SPDX-License-Identifier: GPL-2.0-or-later
// POSIX message queues: messages in the order of their priorities, who is to be notified.
//
// The queue is made and filled by the agent; each description of the image is opened by its name,
// which goes when all have it, where it was unlinked.

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/ipc.h"

struct queue {
    int fd;
    char name[32]; // of an unlinked one, as long as it needs one
};

static bool is_name_taken(const char *name)
{
    const mqd_t fd = mq_open(name, O_RDONLY | O_CLOEXEC);

    if (fd >= 0)
        mq_close(fd);
    return fd >= 0 || errno != ENOENT;
}

static bool is_well_formed(const struct fmt_mqueue *q)
{
    uint64_t longest, count;

    return q && q->name && q->name[0] == '/' && q->name[1] && !strchr(q->name + 1, '/') &&
           agent_ipc_messages_are_whole(q->messages, &longest, &count) &&
           longest <= q->msgsize_bytes && count <= q->maxmsg && q->maxmsg <= G_MAXINT &&
           q->msgsize_bytes <= G_MAXINT && q->notify <= SIGEV_NONE && q->notify_signo <= 64;
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_mqueue *q = fmt_image_by_ref(r->img, f->object, FMT_MQUEUE);

    if (!is_well_formed(q))
        agent_refuse_file(r, "ipc", f->rec.objref, "its message queue is not well formed");
    else if (!q->unlinked && is_name_taken(q->name))
        agent_refuse_file(r, "ipc-taken", f->rec.objref,
                          "there is a message queue %s on this machine", q->name);
}

static mqd_t make(const struct fmt_mqueue *q, const char *name)
{
    struct mq_attr attr = {.mq_maxmsg = (long)q->maxmsg, .mq_msgsize = (long)q->msgsize_bytes};
    const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    struct rlimit before;
    const bool raised =
        getrlimit(RLIMIT_MSGQUEUE, &before) == 0 && setrlimit(RLIMIT_MSGQUEUE, &all) == 0;
    const mqd_t fd = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK | O_CLOEXEC, 0600, &attr);
    const int saved = errno;

    if (raised)
        setrlimit(RLIMIT_MSGQUEUE, &before);
    errno = saved;
    return fd;
}

static bool fill(const struct fmt_mqueue *q, int fd, GError **error)
{
    struct agent_ipc_message m;
    size_t at = 0;

    while (agent_ipc_next_message(q->messages, &at, &m))
        if (mq_send(fd, (const char *)m.text, m.bytes, (unsigned)m.type) < 0)
            return agent_fail_errno(error, "mq_send");
    return (fchmod(fd, q->mode & 07777) == 0 && fchown(fd, (uid_t)q->uid, (gid_t)q->gid) == 0) ||
           agent_fail_errno(error, "permissions of a message queue");
}

static const char *name_of(const struct fmt_mqueue *q, const struct queue *queue)
{
    return queue->name[0] ? queue->name : q->name;
}

// By a queue of the image that has it still.
static bool is_name_needed(AgentRestore *r, const char *name)
{
    const struct fmt_mqueue *q;

    for (size_t i = 0; FMT_NEXT(r->img, MQUEUE, i, q); i++) {
        if (!q->unlinked && g_strcmp0(q->name, name) == 0)
            return true;
    }
    return false;
}

static struct queue *find(AgentRestore *r, const struct fmt_mqueue *q, GError **error)
{
    struct queue *queue = g_hash_table_lookup(r->objects, &q->rec.objref);

    if (queue)
        return queue;
    queue = g_new0(struct queue, 1);
    if (q->unlinked && (is_name_needed(r, q->name) || is_name_taken(q->name)))
        g_snprintf(queue->name, sizeof queue->name, "/vmgraft-%" G_GUINT64_FORMAT, q->rec.objref);
    queue->fd = agent_fd_up(r, make(q, name_of(q, queue)), error);
    if (queue->fd < 0) {
        g_free(queue);
        return NULL;
    }
    g_hash_table_insert(r->objects, (void *)&q->rec.objref, queue);
    return fill(q, queue->fd, error) ? queue : NULL;
}

static int open_queue(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    static const int access[4] = {O_RDONLY, O_RDONLY, O_WRONLY, O_RDWR};
    const struct fmt_mqueue *q = fmt_image_by_ref(r->img, f->object, FMT_MQUEUE);
    const struct queue *queue = find(r, q, error);
    const int flags = access[f->mode & 3] | (f->flags & O_NONBLOCK) | O_CLOEXEC;

    return queue ? agent_fd_up(r, mq_open(name_of(q, queue), flags), error) : -1;
}

const struct agent_file_kind agent_file_mqueue = {
    .kind = FMT_FILE_MQUEUE,
    .name = "message queue",
    .plan = plan,
    .open = open_queue,
};

/* ---- when all have it ---- */

static int64_t descriptor_of(const AgentProc *p, const struct fmt_mqueue *q)
{
    const struct fmt_fd *fd;

    for (size_t i = 0; FMT_NEXT(p->r->img, FD, i, fd); i++) {
        const struct fmt_file *f = fmt_image_by_ref(p->r->img, fd->file, FMT_FILE);

        if (fd->files == agent_leader(p)->rec->files && f && f->object == q->rec.objref)
            return (int64_t)fd->fd;
    }
    return -1;
}

static bool notify(AgentRestore *r, const struct fmt_mqueue *q, GError **error)
{
    struct sigevent event = {.sigev_notify = (int)q->notify, .sigev_signo = (int)q->notify_signo};

    memcpy(&event.sigev_value, &q->notify_value, sizeof event.sigev_value);
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);
        const int64_t fd = p->rec->pid == q->notify_pid ? descriptor_of(p, q) : -1;
        uint64_t at;

        if (fd >= 0)
            return agent_remote_put(&agent_leader(p)->tracee, 0, &event, sizeof event, &at,
                                    error) &&
                   agent_remote(&agent_leader(p)->tracee, "mq_notify", SYS_mq_notify, NULL, error,
                                (uint64_t)fd, at);
    }
    return true;
}

bool agent_mqueue_finish(AgentRestore *r, GError **error)
{
    const struct fmt_mqueue *q;

    for (size_t i = 0; FMT_NEXT(r->img, MQUEUE, i, q); i++) {
        const struct queue *queue = g_hash_table_lookup(r->objects, &q->rec.objref);

        if (!queue)
            continue;
        if (q->notify_pid && !notify(r, q, error))
            return false;
        if (q->unlinked && mq_unlink(name_of(q, queue)) < 0)
            return agent_fail_errno(error, "message queue %s", q->name);
    }
    return true;
}

void agent_mqueue_undo(AgentRestore *r)
{
    const struct fmt_mqueue *q;

    for (size_t i = 0; FMT_NEXT(r->img, MQUEUE, i, q); i++) {
        const struct queue *queue = g_hash_table_lookup(r->objects, &q->rec.objref);
        struct stat ours, there;
        const mqd_t fd = queue ? mq_open(name_of(q, queue), O_RDONLY | O_CLOEXEC) : -1;

        // One that was unlinked may have a successor that is none of ours.
        if (fd >= 0 && fstat(queue->fd, &ours) == 0 && fstat(fd, &there) == 0 &&
            ours.st_ino == there.st_ino)
            mq_unlink(name_of(q, queue));
        if (fd >= 0)
            mq_close(fd);
    }
}
