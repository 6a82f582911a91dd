// SPDX-License-Identifier: GPL-2.0-or-later
// System V message queues: messages in order, who sent and who received last.

#include <errno.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/syscall.h>

#include "guestagent/ipc.h"

#define ANY_BYTES (1u << 30) // room while it is filled

static void plan(AgentRestore *r, const struct fmt_ipc *rec)
{
    g_autofree char *text = NULL;
    uint64_t longest, count;
    const uint64_t limit = g_file_get_contents("/proc/sys/kernel/msgmax", &text, NULL, NULL)
                               ? g_ascii_strtoull(text, NULL, 10)
                               : 8192;
    struct agent_ipc_message m;
    size_t at = 0;
    bool ok = agent_ipc_messages_are_whole(rec->messages, &longest, &count);

    while (agent_ipc_next_message(rec->messages, &at, &m))
        ok = ok && m.type > 0;
    if (!ok)
        agent_refuse(r, "ipc", 0, -1, "message queue %" G_GUINT64_FORMAT " is not well formed",
                     rec->id);
    else if (longest > limit)
        agent_refuse(r, "ipc-limit", 0, -1,
                     "message queue %" G_GUINT64_FORMAT " has a message of %" G_GUINT64_FORMAT
                     " bytes, kernel.msgmax is %" G_GUINT64_FORMAT,
                     rec->id, longest, limit);
}

static bool make(AgentRestore *r, const struct agent_tracee *as, const struct fmt_ipc *rec,
                 uint64_t key, int64_t *ret, GError **error)
{
    const uint64_t args[6] = {key, IPC_CREAT | IPC_EXCL | 0600};

    return agent_remote_raw(as, SYS_msgget, args, ret, error);
}

static bool set(const struct fmt_ipc *rec, uint64_t bytes, GError **error)
{
    struct msqid_ds ds = {.msg_qbytes = bytes};

    agent_ipc_perm(rec, &ds.msg_perm);
    return msgctl((int)rec->id, IPC_SET, &ds) == 0 || agent_fail_errno(error, "permissions");
}

static void *as_msgbuf(const struct agent_ipc_message *m)
{
    uint8_t *buf = g_malloc(sizeof(long) + m->bytes);

    memcpy(buf, &m->type, sizeof(long));
    memcpy(buf + sizeof(long), m->text, m->bytes);
    return buf;
}

static bool send_own(const struct fmt_ipc *rec, const struct agent_ipc_message *m, GError **error)
{
    g_autofree void *buf = as_msgbuf(m);

    return msgsnd((int)rec->id, buf, m->bytes, IPC_NOWAIT) == 0 ||
           agent_fail_errno(error, "msgsnd");
}

static bool send_as(AgentRestore *r, const struct fmt_ipc *rec, uint64_t pid,
                    const struct agent_ipc_message *m, GError **error)
{
    const struct agent_tracee *as = agent_ipc_as(r, pid, error);
    g_autofree void *buf = as_msgbuf(m);
    uint64_t at;

    if (!as)
        return false;
    if (sizeof(long) + m->bytes > as->site->scratch_bytes / 2) {
        agent_note(r, "ipc-pid", 0, -1,
                   "the last sender of message queue %" G_GUINT64_FORMAT " is another", rec->id);
        return send_own(rec, m, error);
    }
    return agent_remote_put(as, 0, buf, sizeof(long) + m->bytes, &at, error) &&
           agent_remote(as, "msgsnd", SYS_msgsnd, NULL, error, rec->id, at, m->bytes, IPC_NOWAIT);
}

static bool receive_as(AgentRestore *r, const struct fmt_ipc *rec, uint64_t pid, GError **error)
{
    const struct agent_tracee *as = agent_ipc_as(r, pid, error);

    return as && agent_remote(as, "msgrcv", SYS_msgrcv, NULL, error, rec->id, as->site->scratch, 0,
                              0, IPC_NOWAIT | MSG_NOERROR);
}

// Who was last says nothing of what is in it: an empty message goes through where need be.
static bool pass_through(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    const struct agent_ipc_message empty = {.type = 1, .text = (const uint8_t *)""};

    if (!rec->pid2)
        return true;
    return (rec->pid1 ? send_as(r, rec, rec->pid1, &empty, error) : send_own(rec, &empty, error)) &&
           receive_as(r, rec, rec->pid2, error);
}

static bool fill(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    struct agent_ipc_message m;
    uint64_t longest, count;
    size_t at = 0;

    agent_ipc_messages_are_whole(rec->messages, &longest, &count);
    if (!set(rec, ANY_BYTES, error) || !pass_through(r, rec, error))
        return false;
    for (uint64_t i = 1; agent_ipc_next_message(rec->messages, &at, &m); i++) {
        if (i == count && rec->pid1 ? !send_as(r, rec, rec->pid1, &m, error)
                                    : !send_own(rec, &m, error))
            return false;
    }
    return set(rec, rec->size, error);
}

static int remove_queue(int id)
{
    return msgctl(id, IPC_RMID, NULL);
}

const struct agent_ipc_kind agent_ipc_msg = {
    .name = "System V message queue",
    .list = "/proc/sysvipc/msg",
    .next_id = "/proc/sys/kernel/msg_next_id",
    .plan = plan,
    .make = make,
    .fill = fill,
    .remove = remove_queue,
};
