// SPDX-License-Identifier: GPL-2.0-or-later
// Finds a process by what it is known by.
#include "cli/select.h"

#include <stdlib.h>
#include <string.h>

#include "introspect/process.h"

#define COMM_BYTES 15 // TASK_COMM_LEN less its NUL: the kernel cuts longer names
#define MAX_LOOKS  20 // a list may be in the middle of a change when the guest is paused

static bool is_any(const char *value)
{
    return *value != '\0';
}

static bool is_path(const char *value)
{
    return *value == '/';
}

static bool is_port(const char *value)
{
    return g_ascii_string_to_unsigned(value, 10, 1, G_MAXUINT16, NULL, NULL);
}

static bool has_name(IntroKernel *k, const struct intro_process *p, const char *value, bool *ret,
                     GError **error)
{
    *ret = strncmp(p->comm, value, COMM_BYTES) == 0;
    return true;
}

static bool in_cgroup(IntroKernel *k, const struct intro_process *p, const char *value, bool *ret,
                      GError **error)
{
    g_autofree char *path = intro_process_cgroup(k, p->task, error);
    size_t len = strlen(value);

    if (!path)
        return false;
    while (len > 0 && value[len - 1] == '/')
        len--;
    *ret = strncmp(path, value, len) == 0 && (path[len] == '\0' || path[len] == '/');
    return true;
}

static bool serves_port(IntroKernel *k, const struct intro_process *p, const char *value, bool *ret,
                        GError **error)
{
    return intro_process_serves_port(k, p->task, (uint16_t)atoi(value), ret, error);
}

static const struct way {
    const char *prefix;
    const char *value, *what; // for messages
    bool (*makes_sense)(const char *value);
    bool (*fits)(IntroKernel *k, const struct intro_process *p, const char *value, bool *ret,
                 GError **error);
} ways[] = {
    {"name:", "COMMAND", "is named", is_any, has_name},
    {"cgroup:", "/PATH", "is in cgroup", is_path, in_cgroup},
    {"port:", "NUMBER", "serves port", is_port, serves_port},
};

static const struct way *find_way(const char *text)
{
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        if (g_str_has_prefix(text, ways[i].prefix) &&
            ways[i].makes_sense(text + strlen(ways[i].prefix)))
            return &ways[i];
    }
    return NULL;
}

bool cli_select_check(const char *text, GError **error)
{
    g_autoptr(GString) forms = NULL;
    uint32_t pid;

    if (find_way(text) || cli_parse_pid(text, &pid, NULL))
        return true;
    forms = g_string_new(NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++)
        g_string_append_printf(forms, "%s%s%s", i ? ", " : "", ways[i].prefix, ways[i].value);
    g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "'%s' is no pid (1 or more), nor one of %s",
                text, forms->str);
    return false;
}

// Removes from `fitting` (pid -> struct intro_process) whoever descends from another one in it.
static GPtrArray *find_tops(const GPtrArray *all, GHashTable *fitting)
{
    g_autoptr(GHashTable) by_pid = g_hash_table_new(NULL, NULL);
    GPtrArray *tops = g_ptr_array_new();

    for (guint i = 0; i < all->len; i++) {
        const struct intro_process *p = all->pdata[i];

        g_hash_table_insert(by_pid, GUINT_TO_POINTER(p->pid), (gpointer)p);
    }
    for (guint i = 0; i < all->len; i++) {
        const struct intro_process *p = all->pdata[i], *up = p;
        bool below = false;

        if (!g_hash_table_contains(fitting, GUINT_TO_POINTER(p->pid)))
            continue;
        // A guest may claim that somebody is his own ancestor.
        for (guint steps = 0; steps < all->len && !below && up; steps++) {
            up = g_hash_table_lookup(by_pid, GUINT_TO_POINTER(up->ppid));
            below = up && g_hash_table_contains(fitting, GUINT_TO_POINTER(up->pid));
        }
        if (!below)
            g_ptr_array_add(tops, (gpointer)p);
    }
    return tops;
}

static bool choose(const GPtrArray *all, GHashTable *fitting, const struct way *way,
                   const char *value, uint32_t *ret, GError **error)
{
    g_autoptr(GPtrArray) tops = find_tops(all, fitting);
    g_autoptr(GString) pids = g_string_new(NULL);

    if (tops->len == 1) {
        *ret = ((const struct intro_process *)tops->pdata[0])->pid;
        return true;
    }
    for (guint i = 0; i < tops->len; i++)
        g_string_append_printf(pids, "%s%u", i ? ", " : "",
                               ((const struct intro_process *)tops->pdata[i])->pid);
    if (tops->len == 0)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "no process %s %s", way->what, value);
    else
        g_set_error(
            error, CLI_ERROR, CLI_ERROR_FAILED,
            "of several processes it cannot be said which one %s %s: give one of the pids %s",
            way->what, value, pids->str);
    return false;
}

static bool has_ended(const struct intro_process *p)
{
    return p->state == 'Z' || p->state == 'X';
}

// All processes of the paused guest, and by pid those that fit.
static GPtrArray *find_fitting(IntroKernel *k, const struct way *way, const char *value,
                               GHashTable *fitting, GError **error)
{
    g_autoptr(GPtrArray) all = intro_list_processes(k, false, error);

    for (guint i = 0; all && i < all->len; i++) {
        const struct intro_process *p = all->pdata[i];
        bool fits;

        if (p->kernel_thread || has_ended(p))
            continue;
        if (!way->fits(k, p, value, &fits, error)) {
            g_prefix_error(error, "process %u: ", p->pid);
            return NULL;
        }
        if (fits)
            g_hash_table_add(fitting, GUINT_TO_POINTER(p->pid));
    }
    return g_steal_pointer(&all);
}

static bool look(struct cli_guest *guest, const struct way *way, const char *value,
                 uint32_t *ret_pid, GError **error)
{
    g_autoptr(GHashTable) fitting = g_hash_table_new(NULL, NULL);
    g_autoptr(GPtrArray) all = NULL;

    if (!cli_guest_pause(guest, error))
        return false;
    all = find_fitting(guest->kernel, way, value, fitting, error);
    return vmm_machine_resume(guest->vm, all ? error : NULL) && all &&
           choose(all, fitting, way, value, ret_pid, error);
}

static bool may_pass(const GError *error)
{
    return g_error_matches(error, INTRO_ERROR, INTRO_ERROR_CORRUPT) ||
           g_error_matches(error, INTRO_ERROR, INTRO_ERROR_FAULT) ||
           g_error_matches(error, INTRO_ERROR, INTRO_ERROR_BUSY);
}

bool cli_select(struct cli *cli, struct cli_guest *guest, const char *text, uint32_t *ret_pid,
                GError **error)
{
    const struct way *way = find_way(text);
    g_autoptr(GError) why = NULL;

    if (!way)
        return cli_parse_pid(text, ret_pid, error);
    for (int n = 1; !look(guest, way, text + strlen(way->prefix), ret_pid, &why); n++) {
        if (n == MAX_LOOKS || !may_pass(why) || vmm_machine_was_paused_before(guest->vm)) {
            g_propagate_prefixed_error(error, g_steal_pointer(&why), "%s: ", guest->target);
            return false;
        }
        g_clear_error(&why);
        g_usleep(1000);
    }
    cli_debug(cli, "%s: %s is pid %u", guest->target, text, *ret_pid);
    return true;
}
