// SPDX-License-Identifier: GPL-2.0-or-later
// Plans the births of a tree: who clones whom, and when, so that all relations come out right.
//
// A task has by birth: its parent (or, with CLONE_PARENT, the parent of who clones it), the session
// and the terminal of who clones it, and what it shares with that one. Sessions can be left but not
// entered. So the planner plays the births through: each task is cloned by one that is in the right
// session at that moment and has what is to be shared; that is
//
//   its parent, before its setsid or after it,
//   or a sibling, with CLONE_PARENT,
//   or some descendant of its parent, through a process that ends at once: the orphan falls to the
//   parent, which is made a subreaper for that moment.
//
// A session or group whose leader has ended gets a temporary leader under its number; it ends when
// all are born and in their groups.

#include "guestagent/lineage.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>

#include "guestagent/tty.h"

#define MAX_DEPTH  2000 // generations
#define NO_SESSION 0    // none in particular

struct lineage {
    AgentRestore *r;
    GHashTable *shared; // objrefs of what some task that is born has
    GHashTable *by_pid; // pid -> AgentProc, temporary ones included
    GHashTable *tids;   // set of all tids of the image
    uint64_t next_temp;
};

/* ---- what is shared ---- */

static uint64_t ref_mm(const AgentTask *t)
{
    return t->proc->rec->mm;
}

static uint64_t ref_sighand(const AgentTask *t)
{
    return t->proc->rec->sighand;
}

static const struct shared {
    uint64_t flag;
    uint64_t (*ref)(const AgentTask *t);
    const char *kind, *what;
} shared[] = {
    {CLONE_VM, ref_mm, "shared-mm", "memory"},
    {CLONE_SIGHAND, ref_sighand, "shared-sighand", "signal actions"},
    {CLONE_FILES, agent_task_files, "shared-files", "a descriptor table"},
    {CLONE_FS, agent_task_fs, "shared-fs", "a working directory"},
};

// What `by` lacks to be the one that clones `t`; NULL: nothing, and *ret_flags says what they
// share.
static const struct shared *misfit(const struct lineage *l, const AgentTask *t, const AgentTask *by,
                                   uint64_t *ret_flags)
{
    uint64_t flags = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(shared); i++) {
        const uint64_t ref = shared[i].ref(t);

        if (by && ref && shared[i].ref(by) == ref)
            flags |= shared[i].flag;
        else if (ref && g_hash_table_contains(l->shared, &ref))
            return &shared[i];
    }
    if (flags & CLONE_SIGHAND && !(flags & CLONE_VM))
        return &shared[1];
    *ret_flags = flags;
    return NULL;
}

/* ---- steps ---- */

static struct agent_step *add_step(struct lineage *l, enum agent_step_kind kind, AgentTask *task,
                                   AgentTask *by)
{
    const struct agent_step step = {.kind = kind, .task = task, .by = by};

    g_array_append_val(l->r->steps, step);
    return &g_array_index(l->r->steps, struct agent_step, l->r->steps->len - 1);
}

static void add_birth(struct lineage *l, AgentTask *t, AgentTask *by, uint64_t flags)
{
    add_step(l, AGENT_STEP_BIRTH, t, by)->flags = flags;
    t->born = true;
    if (!(flags & CLONE_THREAD))
        t->proc->session = by ? by->proc->session : NO_SESSION;
    for (size_t i = 0; i < G_N_ELEMENTS(shared); i++) {
        const uint64_t ref = shared[i].ref(t);

        if (ref)
            g_hash_table_add(l->shared, g_memdup2(&ref, sizeof ref));
    }
}

static AgentProc *find_proc(const struct lineage *l, uint64_t pid)
{
    return g_hash_table_lookup(l->by_pid, &pid);
}

// A process that nobody will see; `parent` NULL: beside the root.
static AgentProc *add_temp(struct lineage *l, uint64_t pid, AgentTask *parent, uint64_t exit_signal)
{
    AgentProc *p = agent_proc_new_temp(l->r, pid, exit_signal);

    p->parent_task = parent;
    p->parent = parent ? parent->proc : NULL;
    if (parent)
        g_ptr_array_insert(parent->proc->children, 0, p); // before those that need it
    g_ptr_array_add(l->r->temps, p);
    g_hash_table_insert(l->by_pid, (void *)&p->rec->pid, p);
    return p;
}

static void end_temp(struct lineage *l, AgentProc *p)
{
    if (agent_leader(p)->born)
        add_step(l, AGENT_STEP_END, agent_leader(p), p->parent_task);
}

// A number for a process that nobody will see: none that the image needs or anybody has.
static uint64_t spare_pid(struct lineage *l)
{
    while (l->next_temp > 1000) {
        const uint64_t pid = --l->next_temp;

        if (!g_hash_table_contains(l->tids, &pid) && !find_proc(l, pid) &&
            (l->r->opt.new_pid_namespace || !agent_number_is_taken(pid)))
            return pid;
    }
    return 0;
}

/* ---- births ---- */

static bool is_leader(const AgentProc *p)
{
    return p->sid == p->rec->pid;
}

static bool is_ancestral(const AgentProc *p, uint64_t sid)
{
    for (const AgentProc *a = p->parent; a; a = a->parent)
        if (a->sid == sid || a->birth_session == sid)
            return true;
    return false;
}

// Session leaders may have been born in any session, and their older children may still be in it:
// then that is where they are to be born. From the leaves to the root.
static void plan_birth_sessions(struct lineage *l)
{
    const GPtrArray *procs = l->r->procs;

    for (guint i = 0; i < procs->len; i++) {
        AgentProc *p = g_ptr_array_index(procs, i);
        p->birth_session = is_leader(p) ? NO_SESSION : p->sid;
    }
    for (guint i = procs->len; i-- > 0;) {
        AgentProc *p = g_ptr_array_index(procs, i), *parent = p->parent;

        if (parent && p->birth_session && is_leader(parent) && p->birth_session != parent->sid &&
            !parent->birth_session && is_ancestral(parent, p->birth_session))
            parent->birth_session = p->birth_session;
    }
}

static bool has_session(const AgentProc *p, const AgentTask *by)
{
    return p->birth_session == NO_SESSION || (by && by->proc->session == p->birth_session);
}

// A sibling that may clone the process in its parent's name.
static AgentTask *find_sibling(const struct lineage *l, const AgentProc *p, uint64_t *ret_flags)
{
    for (guint i = 0; i < p->parent->children->len; i++) {
        const AgentProc *s = g_ptr_array_index(p->parent->children, i);

        if (s == p || s->parent_task != p->parent_task || !has_session(p, agent_leader(s)) ||
            s->rec->exit_signal != p->rec->exit_signal)
            continue;
        for (guint j = 0; j < s->tasks->len; j++) {
            AgentTask *by = g_ptr_array_index(s->tasks, j);

            if (by->born && !misfit(l, agent_leader(p), by, ret_flags))
                return by;
        }
    }
    return NULL;
}

// Has a child be born where it can be, by parent or sibling.
static bool bear(struct lineage *l, AgentProc *p)
{
    AgentTask *parent = p->parent_task, *leader = agent_leader(p), *sibling;
    uint64_t flags;

    if (has_session(p, parent) && !misfit(l, leader, parent, &flags)) {
        add_birth(l, leader, parent, flags);
        return true;
    }
    sibling = find_sibling(l, p, &flags);
    if (!sibling)
        return false;
    add_birth(l, leader, sibling, flags | CLONE_PARENT);
    return true;
}

static void bear_threads(struct lineage *l, AgentProc *p)
{
    for (guint i = 1; i < p->tasks->len; i++) {
        AgentTask *t = g_ptr_array_index(p->tasks, i);
        const struct shared *wrong = NULL;
        uint64_t flags;

        for (guint j = 0; j < p->tasks->len && !t->born; j++) {
            AgentTask *by = g_ptr_array_index(p->tasks, j);
            const struct shared *misses = by->born ? misfit(l, t, by, &flags) : NULL;

            if (by->born && !misses)
                add_birth(l, t, by,
                          flags | CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM);
            else if (misses && !wrong)
                wrong = misses;
        }
        if (!t->born)
            agent_refuse(l->r, wrong->kind, p->rec->pid, -1,
                         "thread %" G_GUINT64_FORMAT
                         " shares %s with another process in a way that cannot be made again",
                         t->rec->tid, wrong->what);
    }
}

static bool is_below(const AgentProc *p, const AgentProc *above)
{
    for (; p; p = p->parent)
        if (p == above)
            return true;
    return false;
}

// Somebody in the right session, below the parent.
static AgentProc *find_descendant(const struct lineage *l, const AgentProc *p)
{
    const GPtrArray *lists[] = {l->r->procs, l->r->temps};

    for (guint i = 0; i < G_N_ELEMENTS(lists); i++)
        for (guint j = 0; j < lists[i]->len; j++) {
            AgentProc *d = g_ptr_array_index(lists[i], j);

            if (agent_leader(d)->born && d->session == p->birth_session && d != p->parent &&
                is_below(d, p->parent))
                return d;
        }
    return NULL;
}

static bool bear_orphan(struct lineage *l, AgentProc *p)
{
    AgentProc *from = find_descendant(l, p), *between;
    const uint64_t pid = from ? spare_pid(l) : 0;
    uint64_t flags;

    // An orphan falls to the first thread, and will tell it by SIGCHLD.
    if (!pid || p->parent_task != agent_leader(p->parent) || p->rec->exit_signal != SIGCHLD ||
        misfit(l, agent_leader(p), NULL, &flags))
        return false;
    between = add_temp(l, pid, agent_leader(from), SIGCHLD);
    between->grown = true;
    add_step(l, AGENT_STEP_ADOPT, p->parent_task, NULL);
    add_birth(l, agent_leader(between), agent_leader(from), 0);
    add_birth(l, agent_leader(p), agent_leader(between), 0);
    end_temp(l, between);
    agent_leader(between)->born = false; // is no more
    add_step(l, AGENT_STEP_DISOWN, p->parent_task, NULL);
    return true;
}

static void family(struct lineage *l, AgentProc *p, unsigned depth)
{
    bool progress = true;

    if (depth > MAX_DEPTH) {
        agent_refuse(l->r, "tree", p->rec->pid, -1, "it is deeper in the tree than %d generations",
                     MAX_DEPTH);
        return;
    }
    bear_threads(l, p);
    for (guint i = 0; i < p->children->len && is_leader(p); i++) {
        AgentProc *c = g_ptr_array_index(p->children, i);

        if (c->birth_session && c->birth_session != p->sid && !agent_leader(c)->born)
            bear(l, c);
    }
    if (is_leader(p)) {
        add_step(l, AGENT_STEP_SESSION, agent_leader(p), NULL);
        p->session = p->sid;
    }
    while (progress) {
        progress = false;
        // More may come while we go: temporary ones.
        for (guint i = 0; i < p->children->len; i++) {
            AgentProc *c = g_ptr_array_index(p->children, i);

            // In their order, which wait() goes by, as far as that can be.
            if (c->grown || (!agent_leader(c)->born && !bear(l, c) && !bear_orphan(l, c)))
                continue;
            c->grown = progress = true;
            family(l, c, depth + 1);
        }
    }
}

static void bear_all(struct lineage *l)
{
    AgentProc *root = g_ptr_array_index(l->r->procs, 0);
    AgentProc *outside = find_proc(l, root->birth_session);

    if (root->birth_session && outside) {
        // Beside the root; it clones the root in its own parent's name.
        add_birth(l, agent_leader(outside), NULL, 0);
        outside->grown = true;
        family(l, outside, 0);
        add_birth(l, agent_leader(root), agent_leader(outside), CLONE_PARENT);
    } else {
        add_birth(l, agent_leader(root), NULL, 0);
    }
    root->grown = true;
    family(l, root, 0);
}

static void refuse_unborn(struct lineage *l)
{
    for (guint i = 0; i < l->r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(l->r->procs, i);
        const AgentTask *leader = agent_leader(p);
        uint64_t flags;

        if (leader->born || (p->parent && !agent_leader(p->parent)->born))
            continue;
        const struct shared *wrong = misfit(l, leader, p->parent_task, &flags);

        if (wrong)
            agent_refuse(l->r, wrong->kind, p->rec->pid, -1,
                         "it shares %s with other processes in a way that cannot be made again",
                         wrong->what);
        else
            agent_refuse(l->r, "session", p->rec->pid, -1,
                         "nobody in its session %" G_GUINT64_FORMAT " can be its parent's child",
                         p->sid);
    }
}

/* ---- numbers of sessions and groups ---- */

static bool is_obtainable(const struct lineage *l, uint64_t number)
{
    return number > 1 && number < agent_pid_max() && !g_hash_table_contains(l->tids, &number) &&
           (l->r->opt.new_pid_namespace || !agent_number_is_taken(number));
}

// The session that the tree has been started in, where its number cannot be had: the root's own.
static void replace_outside_session(struct lineage *l)
{
    const AgentProc *root = g_ptr_array_index(l->r->procs, 0);
    const uint64_t sid = root->sid;

    agent_note(l->r, "session", root->rec->pid, -1,
               "session %" G_GUINT64_FORMAT " has its leader outside of the tree; the process "
               "becomes the leader of a new one",
               sid);
    for (guint i = 0; i < l->r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(l->r->procs, i);

        if (p->sid == sid)
            p->sid = root->rec->pid;
        if (p == root)
            p->pgid = root->rec->pid;
    }
}

static void plan_session_leader(struct lineage *l, AgentProc *p)
{
    const AgentProc *leader = find_proc(l, p->sid);

    if (leader && leader->sid != leader->rec->pid)
        agent_refuse(l->r, "session", p->rec->pid, -1,
                     "its session's number %" G_GUINT64_FORMAT " is a process of another session",
                     p->sid);
    if (leader)
        return;
    if (!is_obtainable(l, p->sid)) {
        agent_refuse(l->r, "pid-taken", p->rec->pid, -1,
                     "the number of its session, %" G_GUINT64_FORMAT ", is in use on this machine",
                     p->sid);
        return;
    }
    // As deep in the tree as a member is whose parent was never in the session.
    AgentTask *parent = p->parent_task;

    for (guint i = 0; i < l->r->procs->len; i++) {
        const AgentProc *m = g_ptr_array_index(l->r->procs, i);

        if (m->sid == p->sid && m->parent && m->parent->sid != p->sid &&
            m->parent->birth_session != p->sid && (!parent || is_below(m->parent, parent->proc)))
            parent = p->parent ? m->parent_task : parent;
    }
    AgentProc *temp = add_temp(l, p->sid, parent, p->rec->exit_signal);

    temp->sid = temp->pgid = p->sid;
}

static void plan_sessions(struct lineage *l)
{
    const AgentProc *root = g_ptr_array_index(l->r->procs, 0);

    if (!find_proc(l, root->sid) && !is_obtainable(l, root->sid))
        replace_outside_session(l);
    plan_birth_sessions(l);
    for (guint i = 0; i < l->r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(l->r->procs, i);

        plan_session_leader(l, p);
        p->tty_pgid = agent_tty_pgid(p);
    }
}

// A member of the session that can be the parent of a group's temporary leader.
static void plan_group(struct lineage *l, AgentProc *member, uint64_t pgid)
{
    if (find_proc(l, pgid))
        return;
    AgentTask *by = agent_leader(member);
    AgentProc *temp = add_temp(l, pgid, by, SIGCHLD);

    temp->sid = member->sid;
    temp->pgid = pgid;
    temp->grown = true;
    add_birth(l, agent_leader(temp), by, 0);
}

// A group from outside whose number cannot be had: the root's.
static void plan_group_number(struct lineage *l, AgentProc *p)
{
    const AgentProc *root = g_ptr_array_index(l->r->procs, 0);

    if (find_proc(l, p->pgid) || is_obtainable(l, p->pgid))
        return;
    agent_note(l->r, "process-group", p->rec->pid, -1,
               "process group %" G_GUINT64_FORMAT
               " has its leader outside of the tree, and its number is in use on this machine",
               p->pgid);
    p->pgid = p->sid == root->sid ? root->rec->pid : p->sid;
}

// A number whose group has ended may belong to somebody else since.
static void plan_foreground(struct lineage *l, AgentProc *leader)
{
    const AgentProc *p = find_proc(l, leader->tty_pgid);

    if (p ? p->sid != leader->sid : !is_obtainable(l, leader->tty_pgid)) {
        agent_note(l->r, "process-group", leader->rec->pid, -1,
                   "the foreground group %" G_GUINT64_FORMAT
                   " of its terminal has ended, and the number is in use",
                   leader->tty_pgid);
        leader->tty_pgid = leader->rec->pid;
    }
    plan_group(l, leader, leader->tty_pgid);
}

static void plan_groups(struct lineage *l)
{
    g_autoptr(GHashTable) used = g_hash_table_new(g_int64_hash, g_int64_equal);
    const guint n = l->r->procs->len;

    for (guint i = 0; i < n; i++) {
        AgentProc *p = g_ptr_array_index(l->r->procs, i);

        if (is_leader(p))
            p->pgid = p->rec->pid; // has no choice
        plan_group(l, p, p->pgid);
        if (is_leader(p) && p->tty_pgid)
            plan_foreground(l, p);
        g_hash_table_add(used, &p->pgid);
    }
    for (guint i = 0; i < l->r->temps->len; i++) {
        AgentProc *p = g_ptr_array_index(l->r->temps, i);

        if (agent_leader(p)->born && !is_leader(p))
            add_step(l, AGENT_STEP_GROUP, agent_leader(p), NULL)->number = p->pgid;
    }
    // A group begins with the process that it is named after, which may have left it since.
    enum { FOUND, JOIN, MOVE_ON, N_PASSES };
    for (unsigned pass = FOUND; pass < N_PASSES; pass++) {
        for (guint i = 0; i < n; i++) {
            AgentProc *p = g_ptr_array_index(l->r->procs, i);
            const bool founds = g_hash_table_contains(used, &p->rec->pid);
            const bool now = pass == FOUND  ? founds
                             : pass == JOIN ? !founds
                                            : founds && p->pgid != p->rec->pid;

            if (now && !is_leader(p))
                add_step(l, AGENT_STEP_GROUP, agent_leader(p), NULL)->number =
                    pass == FOUND ? p->rec->pid : p->pgid;
        }
    }
}

static void index_all(struct lineage *l)
{
    for (guint i = 0; i < l->r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(l->r->procs, i);

        p->sid = p->rec->sid;
        p->pgid = p->rec->pgid;
        g_hash_table_insert(l->by_pid, (void *)&p->rec->pid, p);
        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            g_hash_table_add(l->tids, (void *)&t->rec->tid);
        }
    }
}

void agent_lineage_plan(AgentRestore *r)
{
    struct lineage l = {
        .r = r,
        .shared = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL),
        .by_pid = g_hash_table_new(g_int64_hash, g_int64_equal),
        .tids = g_hash_table_new(g_int64_hash, g_int64_equal),
        .next_temp = agent_pid_max(),
    };

    index_all(&l);
    plan_sessions(&l);
    for (guint i = 0; i < r->procs->len; i++)
        plan_group_number(&l, g_ptr_array_index(r->procs, i));
    bear_all(&l);
    refuse_unborn(&l);
    plan_groups(&l);
    for (guint i = 0; i < r->procs->len; i++) {
        AgentProc *p = g_ptr_array_index(r->procs, i);

        const AgentProc *leader = find_proc(&l, p->sid);

        if (agent_tty_is_lost(p))
            agent_note(r, "terminal", p->rec->pid, -1,
                       "its controlling terminal does not go along");

        if (is_leader(p) && p->tty_pgid)
            add_step(&l, AGENT_STEP_FOREGROUND, agent_leader(p), NULL)->number = p->tty_pgid;
        // Who was there before its session had a terminal has none.
        if (!is_leader(p) && leader && leader->rec->terminal && !p->rec->terminal &&
            p->rec->state != FMT_PROC_ZOMBIE)
            add_step(&l, AGENT_STEP_NO_TERMINAL, agent_leader(p), agent_leader(leader));
    }
    for (guint i = r->temps->len; i-- > 0;)
        end_temp(&l, g_ptr_array_index(r->temps, i));
    g_hash_table_unref(l.shared);
    g_hash_table_unref(l.by_pid);
    g_hash_table_unref(l.tids);
}
