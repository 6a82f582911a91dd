// SPDX-License-Identifier: GPL-2.0-or-later
// Stopping a process tree so that it can be captured, and letting it go or ending it.
#include "guestagent/freeze.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/error.h"
#include "guestagent/procfs.h"
#include "guestagent/wind.h"

/*
 * Every thread is seized and interrupted; what it creates meanwhile is traced from birth. The set
 * is stable when all are stopped and a walk over /proc finds no thread that is not ours. There is
 * no EXITKILL: when the tracer dies the kernel lets everything go on, as before.
 *
 * An interrupted call ends with a code that the kernel turns into a restart when the thread goes
 * on, so the program never sees it. Some calls end with plain EINTR; the program would. Those are
 * wound back (wind.c), before anybody looks, to the `syscall` instruction: registers, hence also a
 * captured image, are then those of a thread that is about to enter the call. Nothing was done yet,
 * else the call had returned how much. What was left of a timeout the host has seen before.
 *
 * A read of /dev/zero or of random bytes stops after any page when it is interrupted, and returns
 * less than was asked for, which programs do not expect of these. It has consumed nothing, so it is
 * wound back, too.
 *
 * What cannot be kept from the program: a write of more than a pipe has room for, or a read with
 * VMIN, that was half done is over and returns how much, as after any signal.
 */
struct thread {
    pid_t tid, pid;
    bool stopped;
    bool in_group_stop; // its stop was that of its process (SIGSTOP ...)
    bool told;          // of that of its process
    bool let_run;       // until it gives its memory back to who waits in vfork()
    bool seen;          // by wind_back
    bool wound_back;    // is about to enter a call again that a signal would end
};

struct AgentFreeze {
    pid_t root;
    GHashTable *threads;   // tid -> struct thread
    uint64_t n_signals;    // agent_freeze_count_signals() of all, when they were frozen
    GHashTable *processes; // pid -> how many came before, parents first; those that died included
};

AgentFreeze *agent_freeze_new(pid_t root)
{
    AgentFreeze *f = g_new0(AgentFreeze, 1);

    f->root = root;
    f->threads = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    f->processes = g_hash_table_new(NULL, NULL);
    return f;
}

void agent_freeze_free(AgentFreeze *f)
{
    if (!f)
        return;
    g_hash_table_unref(f->threads);
    g_hash_table_unref(f->processes);
    g_free(f);
}

static struct thread *add_thread(AgentFreeze *f, pid_t pid, pid_t tid)
{
    struct thread *t = g_new0(struct thread, 1);

    t->pid = pid;
    t->tid = tid;
    g_hash_table_insert(f->threads, GINT_TO_POINTER(tid), t);
    if (!g_hash_table_contains(f->processes, GINT_TO_POINTER(pid)))
        g_hash_table_insert(f->processes, GINT_TO_POINTER(pid),
                            GUINT_TO_POINTER(g_hash_table_size(f->processes)));
    return t;
}

static void refuse(GPtrArray *refusals, pid_t pid, const char *kind, const char *text)
{
    g_ptr_array_add(refusals, g_strdup_printf("pid %d: %s: %s", pid, kind, text));
}

// Is pid one of those that do the freezing?
static bool is_self_or_ancestor(pid_t pid)
{
    struct procfs_status status;

    for (pid_t p = getpid(); p > 1; p = status.ppid) {
        if (p == pid)
            return true;
        if (!procfs_read_status(p, &status))
            return false;
    }
    return false;
}

// A leader may end before the other threads.
static bool is_zombie(pid_t pid, const struct procfs_status *status)
{
    g_autoptr(GArray) tids = procfs_list_threads(pid);

    return status->state == 'Z' && tids->len <= 1;
}

// What forbids to freeze this process? Returns false where it is none to deal with: gone or dead.
static bool check_process(AgentFreeze *f, pid_t pid, GPtrArray *refusals)
{
    struct procfs_status status;

    if (!procfs_read_status(pid, &status) || status.state == 'X')
        return false;
    if (is_zombie(pid, &status)) {
        if (pid == f->root)
            refuse(refusals, pid, "zombie", "it has ended and waits for its parent");
        return false;
    }
    if (pid == 1)
        refuse(refusals, pid, "init", "the guest cannot go on without it");
    else if (status.kernel_thread)
        refuse(refusals, pid, "kernel-thread", "it is a part of the guest's kernel");
    else if (is_self_or_ancestor(pid))
        refuse(refusals, pid, "agent", "the agent itself belongs to this tree");
    else if (status.tracer != 0 && status.tracer != getpid())
        refuse(refusals, pid, "traced", "a debugger is attached to it");
    return true;
}

static bool seize(AgentFreeze *f, pid_t pid, pid_t tid, GPtrArray *refusals)
{
    const long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
    struct procfs_status status;

    if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)options) == 0) {
        add_thread(f, pid, tid);
        ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
        return true;
    }
    if (errno == ESRCH || !procfs_read_status(tid, &status) || strchr("ZX", status.state))
        return false;
    if (status.tracer == getpid()) { // was born traced; its first stop is on the way
        add_thread(f, pid, tid);
        return true;
    }
    refuse(refusals, pid, "traced", "a debugger is attached to one of its threads");
    return false;
}

/*
 * The main thread comes last, and those that have children. A signal of the process is sent to the
 * first, that a child has ended to who bore it, and while he is traced the kernel throws no such
 * signal away: one that nobody cares for, such as SIGCHLD, would wake a thread that is not traced
 * yet, its call would end with EINTR, and nobody could wind that back. Not for ever: they may make
 * threads all the time.
 */
static bool is_last(pid_t pid, pid_t tid)
{
    g_autoptr(GArray) children = g_array_new(FALSE, FALSE, sizeof(pid_t));

    procfs_append_children(pid, tid, children);
    return tid == pid || children->len > 0;
}

static guint seize_some(AgentFreeze *f, pid_t pid, const GArray *tids, bool last,
                        GPtrArray *refusals)
{
    guint n_new = 0;

    for (guint i = 0; i < tids->len; i++) {
        const pid_t tid = g_array_index(tids, pid_t, i);

        if (!g_hash_table_contains(f->threads, GINT_TO_POINTER(tid)) && is_last(pid, tid) == last)
            n_new += seize(f, pid, tid, refusals);
    }
    return n_new;
}

static guint seize_process(AgentFreeze *f, pid_t pid, const GArray *tids, GPtrArray *refusals)
{
    const bool known = g_hash_table_contains(f->processes, GINT_TO_POINTER(pid));
    const guint n_new = seize_some(f, pid, tids, false, refusals);

    return known || n_new == 0 ? n_new + seize_some(f, pid, tids, true, refusals) : n_new;
}

// One walk over the tree. Returns how many threads were new.
static guint scan(AgentFreeze *f, GPtrArray *refusals)
{
    g_autoptr(GArray) queue = g_array_new(FALSE, FALSE, sizeof(pid_t));
    guint n_new = 0;

    g_array_append_val(queue, f->root);
    for (guint i = 0; i < queue->len && refusals->len == 0; i++) {
        pid_t pid = g_array_index(queue, pid_t, i);
        g_autoptr(GArray) tids = NULL;

        if (!check_process(f, pid, refusals) || refusals->len > 0)
            continue;
        tids = procfs_list_threads(pid);
        n_new += seize_process(f, pid, tids, refusals);
        for (guint j = 0; j < tids->len; j++)
            procfs_append_children(pid, g_array_index(tids, pid_t, j), queue);
    }
    return n_new;
}

static void wind_back(struct thread *t)
{
    if (t->seen)
        return;
    t->seen = true;
    t->wound_back = !agent_wind_handler_waits(t->tid) && agent_wind_back(t->tid);
}

static void handle_stop(AgentFreeze *f, pid_t tid, int status)
{
    struct thread *t = g_hash_table_lookup(f->threads, GINT_TO_POINTER(tid));
    int event = status >> 16, sig = WSTOPSIG(status);
    struct procfs_status proc;

    if (!t) // born traced and quicker than the report of its parent
        t = add_thread(f, procfs_read_status(tid, &proc) ? proc.tgid : tid, tid);
    if (event == PTRACE_EVENT_STOP) {
        t->stopped = true;
        t->in_group_stop = sig != SIGTRAP;
        return;
    }
    if (!event && agent_wind_is_ignored(tid, sig)) {
        agent_wind_back(tid);
        sig = 0;
    }
    // A stop for something else swallowed ours: pass the signal on and ask again.
    agent_wind_past_seccomp(tid);
    ptrace(PTRACE_CONT, tid, NULL, (void *)(long)(event ? 0 : sig));
    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
}

void agent_freeze_reap(AgentFreeze *f)
{
    int status;
    pid_t tid;

    while ((tid = waitpid(-1, &status, __WALL | WNOHANG)) > 0) {
        if (WIFSTOPPED(status))
            handle_stop(f, tid, status);
        else
            g_hash_table_remove(f->threads, GINT_TO_POINTER(tid));
    }
}

static struct thread *find_unstopped(AgentFreeze *f)
{
    GHashTableIter iter;
    void *value;

    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        struct thread *t = value;

        if (!t->stopped)
            return t;
    }
    return NULL;
}

/*
 * vfork() ends when the child has execed or ended, and by nothing else: a child that was stopped
 * before that is let run until its parent goes on.
 */
static bool waits_in_vfork(pid_t tid)
{
    static const int calls[] = {SYS_vfork, SYS_clone, SYS_clone3, 190, 120}; // the last: of i386
    struct procfs_status status;
    const bool sleeps = procfs_read_status(tid, &status) && status.state == 'D';
    const int nr = sleeps ? procfs_read_syscall(tid) : -1;

    for (size_t i = 0; nr >= 0 && i < G_N_ELEMENTS(calls); i++)
        if (nr == calls[i])
            return true;
    return false;
}

static void let_run(AgentFreeze *f, const struct thread *parent)
{
    struct procfs_status status;
    GHashTableIter iter;
    void *value;

    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        struct thread *t = value;

        if (!t->stopped || !procfs_read_status(t->tid, &status) || status.ppid != parent->pid ||
            syscall(SYS_kcmp, t->tid, parent->tid, KCMP_VM, 0, 0) > 0)
            continue;
        t->stopped = false;
        t->let_run = true;
        ptrace(PTRACE_CONT, t->tid, NULL, NULL);
    }
}

static void tend_vforks(AgentFreeze *f)
{
    GHashTableIter iter;
    void *value;
    bool waits = false;

    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const struct thread *t = value;

        if (!t->stopped && waits_in_vfork(t->tid)) {
            waits = true;
            let_run(f, t);
        }
    }
    g_hash_table_iter_init(&iter, f->threads);
    while (!waits && g_hash_table_iter_next(&iter, NULL, &value)) {
        struct thread *t = value;

        if (t->let_run && !t->stopped)
            ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
        t->let_run = false;
    }
}

static void pass_seccomp(struct thread *t)
{
    agent_wind_past_seccomp(t->tid);
}

// A signal that came while the thread was frozen ends the call after all.
static void wind_on(struct thread *t)
{
    if (t->wound_back && agent_wind_handler_waits(t->tid))
        agent_wind_on(t->tid);
}

/*
 * A SIGSTOP that came meanwhile: who was stopped for us before has no part in it, and the process
 * would neither run nor be stopped for as long as it is frozen. Such a thread is let go on, which
 * takes it to its next stop without an instruction. Once: SIGCONT may have come by then.
 */
static bool spread_group_stops(AgentFreeze *f)
{
    g_autoptr(GHashTable) stopping = g_hash_table_new(NULL, NULL);
    GHashTableIter iter;
    void *value;
    bool any = false;

    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const struct thread *t = value;

        if (t->in_group_stop)
            g_hash_table_add(stopping, GINT_TO_POINTER(t->pid));
    }
    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        struct thread *t = value;

        if (t->in_group_stop || t->told ||
            !g_hash_table_contains(stopping, GINT_TO_POINTER(t->pid)))
            continue;
        t->stopped = false;
        t->told = any = true;
        agent_wind_past_seccomp(t->tid);
        ptrace(PTRACE_CONT, t->tid, NULL, NULL);
        ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
    }
    return any;
}

static void step_out_of_vdso(struct thread *t)
{
    if (agent_freeze_leave_vdso(t->pid, t->tid))
        t->stopped = false;
}

static void for_each_stopped(AgentFreeze *f, void (*fn)(struct thread *t))
{
    GHashTableIter iter;
    void *value;

    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        struct thread *t = value;

        if (t->stopped)
            fn(t);
    }
}

static uint64_t count_signals(AgentFreeze *f)
{
    GHashTableIter iter;
    uint64_t n = 0;
    void *tid;

    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, &tid, NULL))
        n += agent_freeze_count_signals(GPOINTER_TO_INT(tid));
    return n;
}

bool agent_freeze_was_signalled(AgentFreeze *f)
{
    return count_signals(f) > f->n_signals;
}

enum agent_freeze_state agent_freeze_step(AgentFreeze *f, GPtrArray *refusals, GError **error)
{
    struct procfs_status status;

    agent_freeze_reap(f);
    if (g_hash_table_size(f->threads) > 0 && find_unstopped(f)) {
        tend_vforks(f);
        return AGENT_FREEZE_AGAIN;
    }
    if (scan(f, refusals) > 0)
        return AGENT_FREEZE_AGAIN;
    if (refusals->len > 0)
        return AGENT_FREEZE_REFUSED;
    if (g_hash_table_size(f->threads) == 0) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_FAILED,
                    procfs_read_status(f->root, &status) ? "pid %d is about to end"
                                                         : "there is no process with pid %d",
                    f->root);
        return AGENT_FREEZE_FAILED;
    }
    if (spread_group_stops(f))
        return AGENT_FREEZE_AGAIN;
    for_each_stopped(f, step_out_of_vdso);
    if (find_unstopped(f))
        return AGENT_FREEZE_AGAIN;
    for_each_stopped(f, wind_back);
    f->n_signals = count_signals(f);
    return AGENT_FREEZE_DONE;
}

void agent_freeze_explain(AgentFreeze *f, GPtrArray *refusals)
{
    struct thread *t = find_unstopped(f);
    struct procfs_status status;

    if (!t || !procfs_read_status(t->tid, &status)) {
        refuse(refusals, f->root, "not-stopping", "it makes new threads or processes all the time");
        return;
    }
    g_autofree char *what = procfs_describe_wait(t->tid);
    g_autofree char *text = g_strdup_printf("thread %d cannot be stopped: state %c%s%s", t->tid,
                                            status.state, what ? ", in " : "", what ? what : "");

    refuse(refusals, t->pid, "not-stopping", text);
}

struct thawing {
    const struct thread *thread;
    guint process; // by age
    bool first;
};

static gint by_turn(gconstpointer a, gconstpointer b)
{
    const struct thawing *x = a, *y = b;

    if (x->process != y->process)
        return x->process < y->process ? -1 : 1;
    return y->first - x->first;
}

// For the same reason those that came last are the first of their process, and parents go on before
// their children, of whose ends they will hear.
static GArray *order_of_thawing(AgentFreeze *f)
{
    GArray *order = g_array_new(FALSE, FALSE, sizeof(struct thawing));
    GHashTableIter iter;
    void *value;

    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const struct thread *t = value;
        const void *process = g_hash_table_lookup(f->processes, GINT_TO_POINTER(t->pid));
        const struct thawing thawing = {t, GPOINTER_TO_UINT(process), is_last(t->pid, t->tid)};

        g_array_append_val(order, thawing);
    }
    g_array_sort(order, by_turn);
    return order;
}

void agent_freeze_thaw(AgentFreeze *f)
{
    agent_freeze_reap(f);
    for_each_stopped(f, wind_back);
    for_each_stopped(f, wind_on);
    for_each_stopped(f, pass_seccomp);

    g_autoptr(GArray) order = order_of_thawing(f);
    // Fails for a thread that never stopped; that one is let go when this process ends.
    for (guint i = 0; i < order->len; i++)
        ptrace(PTRACE_DETACH, g_array_index(order, struct thawing, i).thread->tid, NULL, NULL);
}

void agent_freeze_kill(AgentFreeze *f)
{
    GHashTableIter iter;
    void *value;

    // Every one is traced by us, so none of these pids can have been given to another process.
    g_hash_table_iter_init(&iter, f->threads);
    while (g_hash_table_iter_next(&iter, NULL, &value))
        syscall(SYS_tgkill, ((struct thread *)value)->pid, ((struct thread *)value)->tid, SIGKILL);
}

guint agent_freeze_n_threads(const AgentFreeze *f)
{
    return g_hash_table_size(f->threads);
}

GArray *agent_freeze_pids(const AgentFreeze *f)
{
    GArray *pids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, f->processes);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        uint32_t pid = GPOINTER_TO_UINT(key);

        g_array_append_val(pids, pid);
    }
    return pids;
}
