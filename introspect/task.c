// SPDX-License-Identifier: GPL-2.0-or-later
// Process trees: threads, children, and how pids are numbered.
#include "introspect/task.h"

#include "introspect/reader.h"

#define MAX_THREADS   (1u << 20)
#define MAX_CHILDREN  (1u << 20)
#define MAX_PROCESSES (1u << 16) // in one captured tree
#define MAX_PID_LEVEL 32         // MAX_PID_NS_LEVEL

struct thread_walk {
    IntroKernel *k;
    struct gva leader;
    bool leader_only;
    intro_task_fn fn;
    void *user;
};

static bool visit_thread(struct gva node, void *user, GError **error)
{
    struct thread_walk *w = user;
    struct gva task = intro_container(w->k, node, M_task_thread_node);

    return task.addr == w->leader.addr || w->fn(task, w->user, error);
}

bool intro_walk_threads(IntroKernel *k, struct gva leader, intro_task_fn fn, void *user,
                        GError **error)
{
    struct thread_walk walk = {.k = k, .leader = leader, .fn = fn, .user = user};
    struct gva signal;

    return fn(leader, user, error) && intro_get_ptr(k, leader, M_task_signal, &signal, error) &&
           intro_walk_list(k, intro_member_addr(k, signal, M_signal_thread_head), MAX_THREADS,
                           visit_thread, &walk, error);
}

static bool visit_child(struct gva node, void *user, GError **error)
{
    struct thread_walk *w = user;

    return w->fn(intro_container(w->k, node, M_task_sibling), w->user, error);
}

static bool children_of_thread(struct gva task, void *user, GError **error)
{
    struct thread_walk *w = user;

    return intro_walk_list(w->k, intro_member_addr(w->k, task, M_task_children), MAX_CHILDREN,
                           visit_child, w, error);
}

bool intro_walk_children(IntroKernel *k, struct gva leader, intro_task_fn fn, void *user,
                         GError **error)
{
    struct thread_walk walk = {.k = k, .fn = fn, .user = user};

    return intro_walk_threads(k, leader, children_of_thread, &walk, error);
}

static bool add_task(struct gva task, void *user, GError **error)
{
    GArray *tasks = user;

    if (tasks->len >= MAX_PROCESSES) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "more than %u processes in one tree: a loop, or nothing to be captured",
                    MAX_PROCESSES);
        return false;
    }
    g_array_append_val(tasks, task);
    return true;
}

GArray *intro_tree(IntroKernel *k, struct gva root, GError **error)
{
    g_autoptr(GArray) tree = g_array_new(FALSE, FALSE, sizeof(struct gva));

    g_array_append_val(tree, root);
    for (guint i = 0; i < tree->len; i++)
        if (!intro_walk_children(k, g_array_index(tree, struct gva, i), add_task, tree, error))
            return NULL;
    return g_steal_pointer(&tree);
}

uint64_t intro_pid_level(IntroReader *r, struct gva task)
{
    return MIN(rd(r, rd_ptr(r, task, M_task_thread_pid), M_pid_level), MAX_PID_LEVEL);
}

uint64_t intro_pid_nr(IntroReader *r, struct gva pid, uint64_t level)
{
    if (!pid.addr || r->error || rd(r, pid, M_pid_level) < level)
        return 0;
    return rd(r, rd_elem(r, pid, M_pid_numbers, level, intro_sizeof(r->k, T_upid)), M_upid_nr);
}

uint64_t intro_task_nr(IntroReader *r, struct gva task, uint64_t level)
{
    return intro_pid_nr(r, rd_ptr(r, task, M_task_thread_pid), level);
}
