// SPDX-License-Identifier: GPL-2.0-or-later
// Numbers of processes, threads, groups and sessions: which are in use on this machine.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "guestagent/engine.h"

// Parents that wait for their children at all do so by then; busybox init looks once a second.
#define LEAVING_US (3 * G_USEC_PER_SEC)
#define LOOK_US    (10 * 1000)

#define PF_EXITING 0x4 // include/linux/sched.h, as /proc/PID/stat shows it

struct holder {
    char name[64], state; // valid UTF-8
    int parent, group, session;
    unsigned flags;
};

bool agent_number_is_taken(uint64_t pid)
{
    // A number is also in use while a process group is named by it.
    return kill((pid_t)pid, 0) == 0 || errno != ESRCH || kill(-(pid_t)pid, 0) == 0 ||
           errno != ESRCH;
}

uint64_t agent_pid_max(void)
{
    g_autofree char *text = NULL;

    return g_file_get_contents("/proc/sys/kernel/pid_max", &text, NULL, NULL)
               ? g_ascii_strtoull(text, NULL, 10)
               : 32768;
}

// False where there is none. Finds threads, too.
static bool look_at(uint64_t pid, struct holder *h)
{
    g_autofree char *path = g_strdup_printf("/proc/%" G_GUINT64_FORMAT "/stat", pid), *text = NULL;
    char *name, *end;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !(name = strchr(text, '(')) ||
        !(end = strrchr(text, ')')) || end < name)
        return false;
    *end = '\0';
    g_autofree char *valid = g_utf8_make_valid(name + 1, -1);

    g_strlcpy(h->name, valid, sizeof h->name);
    return sscanf(end + 1, " %c %d %d %d %*d %*d %u", &h->state, &h->parent, &h->group, &h->session,
                  &h->flags) == 5;
}

// Whether something is about to go that has one of the numbers.
static bool one_is_leaving(GHashTable *numbers)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *entry;
    struct holder h;
    GHashTableIter i;
    void *tid;

    while (proc && (entry = g_dir_read_name(proc))) {
        if (!g_ascii_isdigit(entry[0]) || !look_at(g_ascii_strtoull(entry, NULL, 10), &h))
            continue;
        const uint64_t group = (uint64_t)h.group, session = (uint64_t)h.session;

        if ((h.flags & PF_EXITING) &&
            (g_hash_table_contains(numbers, &group) || g_hash_table_contains(numbers, &session)))
            return true;
    }
    g_hash_table_iter_init(&i, numbers);
    while (g_hash_table_iter_next(&i, &tid, NULL))
        if (look_at(*(uint64_t *)tid, &h) && (h.flags & PF_EXITING))
            return true;
    return false;
}

static bool one_is_taken(GHashTable *numbers)
{
    GHashTableIter i;
    void *number;

    g_hash_table_iter_init(&i, numbers);
    while (g_hash_table_iter_next(&i, &number, NULL))
        if (agent_number_is_taken(*(uint64_t *)number))
            return true;
    return false;
}

static void add(GHashTable *numbers, const uint64_t *number)
{
    if (*number > 1 && *number <= G_MAXINT)
        g_hash_table_add(numbers, (void *)number);
}

void agent_number_await(AgentRestore *r)
{
    g_autoptr(GHashTable) numbers = g_hash_table_new(g_int64_hash, g_int64_equal);
    const gint64 deadline = g_get_monotonic_time() + LEAVING_US;

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            add(numbers, &t->rec->tid);
        }
        add(numbers, &p->rec->pgid);
        add(numbers, &p->rec->sid);
    }
    while (one_is_taken(numbers) && one_is_leaving(numbers) && g_get_monotonic_time() < deadline)
        g_usleep(LOOK_US);
}

char *agent_number_holder(uint64_t pid)
{
    struct holder h, parent;

    if (!look_at(pid, &h))
        return g_strdup("");
    if (h.state != 'Z')
        return g_strdup_printf(", by %s", h.name);
    if (!look_at((uint64_t)h.parent, &parent))
        return g_strdup_printf(", by %s, which has ended", h.name);
    return g_strdup_printf(", by %s, which has ended and which %s (pid %d) has not waited for",
                           h.name, parent.name, h.parent);
}
