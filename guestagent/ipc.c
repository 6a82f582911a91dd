// SPDX-License-Identifier: GPL-2.0-or-later
// Objects of System V IPC: made with their ids, in the name of who made them.

#include "guestagent/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INDEX_OF_ID 0x7fff // the rest of an id counts how often its place was used

struct agent_ipc {
    GArray *made;      // of const struct fmt_ipc *
    GHashTable *left;  // objref of those that have no place here and need none
    GPtrArray *actors; // of struct actor
};

// A process of the past, for the time that it takes to act in its name.
struct actor {
    struct agent_tracee tracee;
    uint64_t pid;
};

static const struct agent_ipc_kind *const kinds[] = {
    [FMT_IPC_SEM] = &agent_ipc_sem,
    [FMT_IPC_MSG] = &agent_ipc_msg,
    [FMT_IPC_SHM] = &agent_ipc_shm,
};

void agent_ipc_perm(const struct fmt_ipc *rec, struct ipc_perm *ret)
{
    ret->uid = (uid_t)rec->uid;
    ret->gid = (gid_t)rec->gid;
    ret->mode = rec->mode & 0777;
}

/* ---- messages ---- */

bool agent_ipc_next_message(GBytes *messages, size_t *at, struct agent_ipc_message *ret)
{
    size_t size = 0;
    const uint8_t *data = messages ? g_bytes_get_data(messages, &size) : NULL;
    uint64_t head[2];

    if (!data || *at > size || size - *at < sizeof head)
        return false;
    memcpy(head, data + *at, sizeof head);
    ret->type = (int64_t)GUINT64_FROM_LE(head[0]);
    ret->bytes = GUINT64_FROM_LE(head[1]);
    ret->text = data + *at + sizeof head;
    if (ret->bytes > size - *at - sizeof head)
        return false;
    *at += MIN(sizeof head + ((ret->bytes + 7) & ~7ull), size - *at);
    return true;
}

bool agent_ipc_messages_are_whole(GBytes *messages, uint64_t *ret_longest, uint64_t *ret_count)
{
    struct agent_ipc_message m;
    size_t at = 0;

    *ret_longest = *ret_count = 0;
    while (agent_ipc_next_message(messages, &at, &m)) {
        *ret_longest = MAX(*ret_longest, m.bytes);
        *ret_count += 1;
    }
    return at == (messages ? g_bytes_get_size(messages) : 0);
}

/* ---- plan ---- */

// What is there already: the place of the id, or the key.
static bool is_taken(const struct fmt_ipc *rec, char **ret_what)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents(kinds[rec->kind]->list, &text, NULL, NULL))
        return false;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines[0] ? lines + 1 : lines; *line; line++) {
        char *end;
        const int64_t key = g_ascii_strtoll(*line, &end, 10), id = g_ascii_strtoll(end, NULL, 10);

        if (**line == '\0')
            continue;
        if ((id & INDEX_OF_ID) == ((int64_t)rec->id & INDEX_OF_ID)) {
            *ret_what = g_strdup_printf("the place of id %" G_GUINT64_FORMAT
                                        " is taken by id %" G_GINT64_FORMAT,
                                        rec->id, id);
            return true;
        }
        if (rec->key && (uint32_t)key == (uint32_t)rec->key) {
            *ret_what = g_strdup_printf("key %#x is in use (id %" G_GINT64_FORMAT ")",
                                        (unsigned)rec->key, id);
            return true;
        }
    }
    return false;
}

static bool is_well_formed(AgentRestore *r, const struct fmt_ipc *rec)
{
    const struct fmt_ipc *other;

    if (rec->kind >= G_N_ELEMENTS(kinds) || rec->id > G_MAXINT32 || rec->key > G_MAXUINT32)
        return false;
    for (size_t i = 0; FMT_NEXT(r->img, IPC, i, other); i++)
        if (other != rec && other->kind == rec->kind &&
            (other->id & INDEX_OF_ID) == (rec->id & INDEX_OF_ID))
            return false;
    return true;
}

static void plan_object(AgentRestore *r, const struct fmt_ipc *rec)
{
    g_autofree char *what = NULL;
    const struct agent_ipc_kind *kind;

    if (!is_well_formed(r, rec)) {
        agent_refuse(r, "ipc", 0, -1,
                     "the image has an object of System V IPC (id %" G_GUINT64_FORMAT
                     ") that is not well formed",
                     rec->id);
        return;
    }
    kind = kinds[rec->kind];
    if (kind->plan)
        kind->plan(r, rec);
    if (access(kind->next_id, W_OK) < 0)
        agent_refuse(r, "ipc-id", 0, -1,
                     "%s %" G_GUINT64_FORMAT ": this kernel gives no say in ids", kind->name,
                     rec->id);
    if (!is_taken(rec, &what))
        return;
    if (rec->flags & FMT_IPC_OWNED) {
        agent_refuse(r, "ipc-taken", 0, -1, "%s %" G_GUINT64_FORMAT ": %s on this machine",
                     kind->name, rec->id, what);
        return;
    }
    agent_note(r, "ipc-left", 0, -1,
               "%s %" G_GUINT64_FORMAT
               ", which no living process is known to use, stays behind: %s",
               kind->name, rec->id, what);
    g_hash_table_add(r->ipc->left, (void *)&rec->rec.objref);
}

static const struct fmt_ipc *ipc_of_shm(AgentRestore *r, uint64_t shm)
{
    const struct fmt_ipc *rec;

    for (size_t i = 0; FMT_NEXT(r->img, IPC, i, rec); i++)
        if (rec->kind == FMT_IPC_SHM && rec->shm == shm)
            return rec;
    return NULL;
}

void agent_ipc_plan(AgentRestore *r)
{
    const struct fmt_ipc *rec;
    const struct fmt_shm *shm;

    r->ipc = g_new0(struct agent_ipc, 1);
    r->ipc->made = g_array_new(false, false, sizeof(const struct fmt_ipc *));
    r->ipc->left = g_hash_table_new(g_int64_hash, g_int64_equal);
    r->ipc->actors = g_ptr_array_new_with_free_func(g_free);
    for (size_t i = 0; FMT_NEXT(r->img, IPC, i, rec); i++)
        plan_object(r, rec);
    for (size_t i = 0; FMT_NEXT(r->img, SHM, i, shm); i++)
        if (shm->kind == FMT_SHM_SYSV && !ipc_of_shm(r, shm->rec.objref))
            agent_refuse(r, "sysv-shm", 0, -1,
                         "the image lacks the segment of the System V shared memory %s", shm->name);
}

bool agent_ipc_is_left(AgentRestore *r, const struct fmt_ipc *rec)
{
    return g_hash_table_contains(r->ipc->left, &rec->rec.objref);
}

void agent_ipc_free(struct agent_ipc *ipc)
{
    if (!ipc)
        return;
    g_array_unref(ipc->made);
    g_hash_table_unref(ipc->left);
    g_ptr_array_unref(ipc->actors);
    g_free(ipc);
}

/* ---- in whose name ---- */

static const struct agent_tracee *root_of(AgentRestore *r)
{
    return &agent_leader(g_ptr_array_index(r->procs, 0))->tracee;
}

const struct agent_tracee *agent_ipc_as(AgentRestore *r, uint64_t pid, GError **error)
{
    const pid_t nr = (pid_t)pid;
    // Its parent is the root's own: nobody of the tree will be told of its end.
    struct clone_args args = {.flags = CLONE_VM | CLONE_PARENT};
    g_autoptr(GError) local = NULL;
    struct actor *actor;

    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        if (pid == 0 || p->rec->pid == pid)
            return &agent_leader(p)->tracee;
    }
    for (guint i = 0; i < r->ipc->actors->len; i++) {
        actor = g_ptr_array_index(r->ipc->actors, i);
        if (actor->pid == pid)
            return &actor->tracee;
    }
    actor = g_new0(struct actor, 1);
    g_ptr_array_add(r->ipc->actors, actor);
    actor->tracee.site = root_of(r)->site;
    actor->pid = pid;
    if (pid > G_MAXINT ||
        !agent_remote_clone(root_of(r), &args, &nr, 1, &actor->tracee.tid, &local)) {
        agent_note(r, "ipc-pid", 0, -1,
                   "process %" G_GUINT64_FORMAT
                   ", which has ended, is no longer the last user of an object of System V IPC",
                   pid);
        actor->tracee = *root_of(r);
    }
    return &actor->tracee;
}

static void dismiss_actors(AgentRestore *r)
{
    int status;

    for (guint i = 0; i < r->ipc->actors->len; i++) {
        const struct actor *actor = g_ptr_array_index(r->ipc->actors, i);
        const pid_t tid = actor->tracee.tid;

        if (tid <= 0 || tid == root_of(r)->tid)
            continue;
        kill(tid, SIGKILL);
        while (waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status))
            ptrace(PTRACE_CONT, tid, NULL, NULL);
    }
    g_ptr_array_set_size(r->ipc->actors, 0);
}

// The effective ids of who makes an object are its cuid and cgid for ever.
static bool set_ids(const struct agent_tracee *as, uint64_t uid, uint64_t gid, GError **error)
{
    const uint64_t keep = ~0u;

    if (uid == 0) // first back to being root
        return agent_remote(as, "setresuid", SYS_setresuid, NULL, error, keep, 0, keep) &&
               agent_remote(as, "setresgid", SYS_setresgid, NULL, error, keep, gid, keep);
    return agent_remote(as, "setresgid", SYS_setresgid, NULL, error, keep, gid, keep) &&
           agent_remote(as, "setresuid", SYS_setresuid, NULL, error, keep, uid, keep);
}

/* ---- make ---- */

static bool ask_for_id(const struct agent_ipc_kind *kind, uint64_t id, GError **error)
{
    g_autofree char *text = g_strdup_printf("%" G_GUINT64_FORMAT, id);
    const int fd = open(kind->next_id, O_WRONLY | O_CLOEXEC);
    const bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (!ok)
        agent_fail_errno(error, "%s", kind->next_id);
    if (fd >= 0)
        close(fd);
    return ok;
}

// The name of a segment keeps the key that it was made with.
static uint64_t key_of_name(AgentRestore *r, const struct fmt_ipc *rec)
{
    const struct fmt_shm *shm = fmt_image_by_ref(r->img, rec->shm, FMT_SHM);

    if (!(rec->flags & FMT_IPC_REMOVED) || !shm || !shm->name ||
        !g_str_has_prefix(shm->name, "SYSV"))
        return rec->key;
    return g_ascii_strtoull(shm->name + strlen("SYSV"), NULL, 16) & G_MAXUINT32;
}

static bool make_once(AgentRestore *r, const struct fmt_ipc *rec, uint64_t key, int64_t *ret,
                      GError **error)
{
    const struct agent_ipc_kind *kind = kinds[rec->kind];
    const struct agent_tracee *as =
        agent_ipc_as(r, rec->kind == FMT_IPC_SHM ? rec->pid1 : 0, error);
    const bool other = rec->cuid || rec->cgid;

    return as && ask_for_id(kind, rec->id, error) &&
           (!other || set_ids(as, rec->cuid, rec->cgid, error)) &&
           kind->make(r, as, rec, key, ret, error) && (!other || set_ids(as, 0, 0, error));
}

static bool make(AgentRestore *r, const struct fmt_ipc *rec, GError **error)
{
    const struct agent_ipc_kind *kind = kinds[rec->kind];
    const uint64_t key = key_of_name(r, rec);
    int64_t id;

    if (!make_once(r, rec, key, &id, error))
        return false;
    // The key of a segment that was removed is free for others to use.
    if (id == -EEXIST && key != rec->key && !make_once(r, rec, rec->key, &id, error))
        return false;
    if (id < 0)
        return agent_fail(error, "%s", g_strerror((int)-id));
    if ((uint64_t)id != rec->id) {
        kind->remove((int)id);
        return agent_fail(error, "this kernel gave it id %" G_GINT64_FORMAT, id);
    }
    g_array_append_val(r->ipc->made, rec);
    return !(rec->flags & FMT_IPC_REMOVED) || rec->kind != FMT_IPC_SHM ||
           agent_ipc_shm_hold(r, rec, error);
}

bool agent_ipc_make(AgentRestore *r, GError **error)
{
    const struct fmt_ipc *rec;

    // What was removed has a key that may have come into use since: it comes first, and goes.
    for (int removed = 1; removed >= 0; removed--) {
        for (size_t i = 0; FMT_NEXT(r->img, IPC, i, rec); i++) {
            if (agent_ipc_is_left(r, rec) || !!(rec->flags & FMT_IPC_REMOVED) != removed)
                continue;
            if (!make(r, rec, error)) {
                g_prefix_error(error, "%s %" G_GUINT64_FORMAT ": ", kinds[rec->kind]->name,
                               rec->id);
                return false;
            }
        }
    }
    // A stand-in shares the memory of the root, which is about to get another.
    dismiss_actors(r);
    return true;
}

/* ---- fill ---- */

bool agent_ipc_fill(AgentRestore *r, GError **error)
{
    bool ok = true;

    for (guint i = 0; ok && i < r->ipc->made->len; i++) {
        const struct fmt_ipc *rec = g_array_index(r->ipc->made, const struct fmt_ipc *, i);

        ok = kinds[rec->kind]->fill(r, rec, error);
        if (!ok)
            g_prefix_error(error, "%s %" G_GUINT64_FORMAT ": ", kinds[rec->kind]->name, rec->id);
    }
    dismiss_actors(r);
    return ok;
}

void agent_ipc_undo(AgentRestore *r)
{
    if (!r->ipc)
        return;
    dismiss_actors(r);
    for (guint i = 0; i < r->ipc->made->len; i++) {
        const struct fmt_ipc *rec = g_array_index(r->ipc->made, const struct fmt_ipc *, i);

        if (rec->kind == FMT_IPC_SHM)
            agent_ipc_shm_forget(r, rec);
        kinds[rec->kind]->remove((int)rec->id);
    }
}
