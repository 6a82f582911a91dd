// SPDX-License-Identifier: GPL-2.0-or-later
// System V semaphores: values, who changed them last, what is to be undone.

#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#include "guestagent/ipc.h"

#define BATCH   32 // operations in one call: SEMOPM of old kernels
#define MAX_VAL 32767

union semctl_arg {
    int val;
    struct semid_ds *buf;
};

static void values_of(const struct fmt_ipc *rec, uint64_t i, uint32_t *ret_value, uint32_t *ret_pid)
{
    uint32_t pair[2];

    memcpy(pair, (const uint8_t *)g_bytes_get_data(rec->values, NULL) + 8 * i, sizeof pair);
    *ret_value = GUINT32_FROM_LE(pair[0]);
    *ret_pid = GUINT32_FROM_LE(pair[1]);
}

static void plan(AgentRestore *r, const struct fmt_ipc *rec)
{
    const struct fmt_ipc_undo *undo;
    bool ok = rec->size > 0 && rec->size <= MAX_VAL && rec->values &&
              g_bytes_get_size(rec->values) == 8 * rec->size;

    for (uint64_t i = 0; ok && i < rec->size; i++) {
        uint32_t value, pid;

        values_of(rec, i, &value, &pid);
        ok = value <= MAX_VAL && pid <= G_MAXINT32;
    }
    for (size_t i = 0; FMT_NEXT(r->img, IPC_UNDO, i, undo); i++)
        if (undo->ipc == rec->rec.objref)
            ok = ok && undo->adjust && g_bytes_get_size(undo->adjust) == 2 * rec->size;
    if (!ok)
        agent_refuse(r, "ipc", 0, -1, "semaphore set %" G_GUINT64_FORMAT " is not well formed",
                     rec->id);
}

static bool make(AgentRestore *r, const struct agent_tracee *as, const struct fmt_ipc *rec,
                 uint64_t key, int64_t *ret, GError **error)
{
    const uint64_t args[6] = {key, rec->size, IPC_CREAT | IPC_EXCL | 0600};

    return agent_remote_raw(as, SYS_semget, args, ret, error);
}

static bool operate(const struct agent_tracee *as, const struct fmt_ipc *rec,
                    const struct sembuf *ops, size_t n, GError **error)
{
    uint64_t at;

    return n == 0 || (agent_remote_put(as, 0, ops, n * sizeof *ops, &at, error) &&
                      agent_remote(as, "semop", SYS_semop, NULL, error, rec->id, at, n));
}

static const struct agent_tracee *thread_of(AgentRestore *r, uint64_t task)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            if (t->rec->rec.objref == task)
                return &t->tracee;
        }
    }
    return NULL;
}

// To a semaphore that is 0: up and down again, of which the kernel notes one half for the end.
static bool add_undo(AgentRestore *r, const struct fmt_ipc *rec, const struct fmt_ipc_undo *undo,
                     GError **error)
{
    const struct agent_tracee *as = thread_of(r, undo->task);
    const int16_t *adjust = g_bytes_get_data(undo->adjust, NULL);

    if (!as)
        return agent_fail(error, "changes to be undone by no thread");
    for (uint64_t i = 0; i < rec->size; i++) {
        const int16_t a = (int16_t)GINT16_FROM_LE(adjust[i]);
        const struct sembuf up = {(uint16_t)i, (short)(a > 0 ? a : -a), a > 0 ? 0 : SEM_UNDO};
        const struct sembuf down = {(uint16_t)i, (short)(a > 0 ? -a : a), a > 0 ? SEM_UNDO : 0};
        struct sembuf ops[2] = {up, down};

        ops[0].sem_flg |= IPC_NOWAIT;
        ops[1].sem_flg |= IPC_NOWAIT;
        if (a && !operate(as, rec, ops, 2, error))
            return false;
    }
    return true;
}

// With SETVAL nobody has used it yet: the time of the last semop() stays 0.
static bool set_value(AgentRestore *r, const struct fmt_ipc *rec, uint64_t i, uint32_t value,
                      uint32_t pid, GError **error)
{
    const struct agent_tracee *as = agent_ipc_as(r, pid, error);

    return as && agent_remote(as, "semctl", SYS_semctl, NULL, error, rec->id, i, SETVAL, value);
}

// Values that the same process changed last are changed by it at once.
static bool add_values(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    struct sembuf ops[BATCH];
    size_t n = 0;
    uint32_t by = 0;

    for (uint64_t i = 0; i < rec->size; i++) {
        const struct agent_tracee *as;
        uint32_t value, pid;

        values_of(rec, i, &value, &pid);
        if (pid == 0 && value == 0)
            continue;
        if (rec->time1_s == 0 || pid == 0) {
            if (!set_value(r, rec, i, value, pid, error))
                return false;
            continue;
        }
        if (n == BATCH || (n > 0 && pid != by)) {
            if (!(as = agent_ipc_as(r, by, error)) || !operate(as, rec, ops, n, error))
                return false;
            n = 0;
        }
        by = pid;
        ops[n++] = (struct sembuf){(uint16_t)i, (short)value, IPC_NOWAIT};
    }
    if (n == 0)
        return true;
    const struct agent_tracee *as = agent_ipc_as(r, by, error);

    return as && operate(as, rec, ops, n, error);
}

static bool fill(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    const struct fmt_ipc_undo *undo;
    struct semid_ds ds = {0};

    for (size_t i = 0; FMT_NEXT(r->img, IPC_UNDO, i, undo); i++)
        if (undo->ipc == rec->rec.objref && !add_undo(r, rec, undo, error))
            return false;
    if (!add_values(r, rec, error))
        return false;
    agent_ipc_perm(rec, &ds.sem_perm);
    return semctl((int)rec->id, 0, IPC_SET, (union semctl_arg){.buf = &ds}) == 0 ||
           agent_fail_errno(error, "permissions");
}

static int remove_set(int id)
{
    return semctl(id, 0, IPC_RMID);
}

const struct agent_ipc_kind agent_ipc_sem = {
    .name = "System V semaphores",
    .list = "/proc/sysvipc/sem",
    .next_id = "/proc/sys/kernel/sem_next_id",
    .plan = plan,
    .make = make,
    .fill = fill,
    .remove = remove_set,
};
