// SPDX-License-Identifier: GPL-2.0-or-later
// The processes of a guest: the task list, and what ps shows of each.
#include "introspect/process.h"

#include <string.h>

#include "introspect/context.h"
#include "introspect/mm.h"
#include "introspect/reader.h"
#include "introspect/task.h"

// More than PID_MAX_LIMIT (4 Mi) tasks are a loop that was not recognised.
#define MAX_TASKS (4u << 20)

#define PF_KTHREAD        0x00200000 // include/linux/sched.h, that value since 2.6.27
#define SIGNAL_GROUP_EXIT 4          // include/linux/sched/signal.h

static void process_free(gpointer data)
{
    struct intro_process *p = data;

    g_free(p->comm);
    g_free(p->cmdline);
    g_free(p);
}

char intro_state_char(uint64_t state, uint64_t exit_state)
{
    // include/linux/sched.h, fs/proc/array.c: TASK_REPORT and the letters of its bits.
    static const char letters[] = "RSDTtXZP";
    uint64_t report = (state | exit_state) & 0x7f;

    if ((state & 0x402) == 0x402)
        return 'I'; // TASK_IDLE: uninterruptible, but no load
    if (state & 0x1000)
        return 'D'; // TASK_RTLOCK_WAIT
    return letters[report ? g_bit_nth_msf(report, -1) + 1 : 0];
}

// Arguments as one line: NULs become spaces, what a terminal could take for a command a '?'.
char *intro_cmdline(IntroKernel *k, struct gva mm)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva pgd = rd_ptr(&r, mm, M_mm_pgd);
    uint64_t start = rd(&r, mm, M_mm_arg_start), end = rd(&r, mm, M_mm_arg_end);
    char buf[4096];

    if (r.error || end <= start)
        return NULL;
    size_t len = MIN(end - start, sizeof(buf));
    // Arguments of a process that was swapped out are not an error for a list: the name has to do.
    if (!intro_read_user(k, pgd, GVA(start), buf, len, NULL))
        return NULL;
    while (len > 0 && buf[len - 1] == '\0')
        len--;
    for (size_t i = 0; i < len; i++)
        if (buf[i] == '\0')
            buf[i] = ' ';
        else if (g_ascii_iscntrl(buf[i]))
            buf[i] = '?';
    return len ? g_utf8_make_valid(buf, len) : NULL;
}

static struct intro_process *read_process(IntroKernel *k, struct gva task, bool with_cmdline,
                                          GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    char comm[17] = "";
    struct gva signal = rd_ptr(&r, task, M_task_signal);
    struct gva cred = rd_ptr(&r, task, M_task_real_cred);
    struct gva parent = rd_ptr(&r, task, M_task_real_parent);
    struct gva mm = rd_ptr(&r, task, M_task_mm);

    rd_bytes(&r, task, M_task_comm, comm, 16);
    struct intro_process *p = g_new0(struct intro_process, 1);
    p->task = task;
    p->pid = rd(&r, task, M_task_tgid);
    p->ppid = rd(&r, parent, M_task_tgid);
    p->uid = rd(&r, cred, M_cred_euid);
    p->n_threads = rd(&r, signal, M_signal_nr_threads);
    p->kernel_thread = rd(&r, task, M_task_flags) & PF_KTHREAD;
    p->is_dying = signal.addr && rd(&r, signal, M_signal_flags) & SIGNAL_GROUP_EXIT;
    p->state = intro_state_char(rd(&r, task, M_task_state), rd(&r, task, M_task_exit_state));
    p->comm = g_utf8_make_valid(comm, -1);
    if (mm.addr && !p->kernel_thread) {
        p->rss_bytes = intro_mm_rss_bytes(&r, mm);
        if (with_cmdline && !r.error)
            p->cmdline = intro_cmdline(k, mm);
    }
    if (!rd_done(&r, error)) {
        g_prefix_error(error, "task_struct at %" G_GINT64_MODIFIER "x: ", task.addr);
        process_free(p);
        return NULL;
    }
    return p;
}

struct list_walk {
    IntroKernel *k;
    GPtrArray *processes;
    bool with_cmdline;
};

static bool list_one(struct gva node, void *user, GError **error)
{
    struct list_walk *w = user;
    struct intro_process *p =
        read_process(w->k, intro_container(w->k, node, M_task_tasks), w->with_cmdline, error);

    if (!p)
        return false;
    g_ptr_array_add(w->processes, p);
    return true;
}

static bool walk_leaders(IntroKernel *k, intro_node_fn fn, void *user, GError **error)
{
    struct gva init_task;

    return intro_symbol(k, "init_task", &init_task, error) &&
           intro_walk_list(k, intro_member_addr(k, init_task, M_task_tasks), MAX_TASKS, fn, user,
                           error);
}

GPtrArray *intro_list_processes(IntroKernel *k, bool with_cmdline, GError **error)
{
    g_autoptr(GPtrArray) processes = g_ptr_array_new_with_free_func(process_free);
    struct list_walk walk = {k, processes, with_cmdline};

    if (!walk_leaders(k, list_one, &walk, error)) {
        g_prefix_error(error, "list of tasks: ");
        return NULL;
    }
    return g_steal_pointer(&processes);
}

struct find_walk {
    IntroKernel *k;
    uint32_t pid;
    struct gva found;        // leader with this tgid
    struct gva found_thread; // a thread with this pid
    uint32_t thread_of;
};

static bool find_thread(struct gva thread, void *user, GError **error)
{
    struct find_walk *w = user;
    uint64_t pid;

    if (!intro_get(w->k, thread, M_task_pid, &pid, error))
        return false;
    if (pid == w->pid)
        w->found_thread = thread;
    return true;
}

static bool find_one(struct gva node, void *user, GError **error)
{
    struct find_walk *w = user;
    struct gva task = intro_container(w->k, node, M_task_tasks);
    uint64_t tgid;

    if (w->found.addr || w->found_thread.addr)
        return true;
    if (!intro_get(w->k, task, M_task_tgid, &tgid, error))
        return false;
    if (tgid == w->pid) {
        w->found = task;
        return true;
    }
    w->thread_of = tgid;
    return intro_walk_threads(w->k, task, find_thread, w, error);
}

bool intro_find_process(IntroKernel *k, uint32_t pid, struct gva *ret_task, GError **error)
{
    struct find_walk walk = {.k = k, .pid = pid};

    if (!walk_leaders(k, find_one, &walk, error))
        return false;
    if (walk.found.addr) {
        *ret_task = walk.found;
        return true;
    }
    if (walk.found_thread.addr)
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_NOT_FOUND,
                    "%u is a thread of process %u: name the process", pid, walk.thread_of);
    else
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_NOT_FOUND, "no process %u in the guest", pid);
    return false;
}
