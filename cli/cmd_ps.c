// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft ps: the processes of a guest.
#include <stdio.h>

#include "cli/guest.h"
#include "cli/remote.h"
#include "introspect/process.h"

static struct json_object *process_json(const struct intro_process *p)
{
    struct json_object *obj = json_object_new_object();
    const char state[] = {p->state, 0};

    json_object_object_add(obj, "pid", json_object_new_int64(p->pid));
    json_object_object_add(obj, "ppid", json_object_new_int64(p->ppid));
    json_object_object_add(obj, "uid", json_object_new_int64(p->uid));
    json_object_object_add(obj, "state", json_object_new_string(state));
    json_object_object_add(obj, "threads", json_object_new_int64(p->n_threads));
    json_object_object_add(obj, "rss_bytes", json_object_new_uint64(p->rss_bytes));
    json_object_object_add(obj, "kernel_thread", json_object_new_boolean(p->kernel_thread));
    json_object_object_add(obj, "comm", json_object_new_string(p->comm));
    json_object_object_add(obj, "cmdline", cli_json_text(p->cmdline));
    return obj;
}

static void print_table(const GPtrArray *list, bool all)
{
    printf("%7s %7s %6s %s %4s %10s  %s\n", "PID", "PPID", "UID", "S", "THR", "RSS", "COMMAND");
    for (guint i = 0; i < list->len; i++) {
        const struct intro_process *p = g_ptr_array_index(list, i);
        g_autofree char *name = cli_printable(p->cmdline ? p->cmdline : p->comm);

        if (p->kernel_thread && !all)
            continue;
        printf("%7u %7u %6u %c %4u %8" G_GUINT64_FORMAT " K  %s%s%s\n", p->pid, p->ppid, p->uid,
               p->state, p->n_threads, p->rss_bytes / 1024, p->cmdline ? "" : "[", name,
               p->cmdline ? "" : "]");
    }
}

static void print_json(const GPtrArray *list, bool all)
{
    struct json_object *array = json_object_new_array();

    for (guint i = 0; i < list->len; i++) {
        const struct intro_process *p = g_ptr_array_index(list, i);

        if (!p->kernel_thread || all)
            json_object_array_add(array, process_json(p));
    }
    cli_print_json(array);
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    gboolean all = FALSE;
    const GOptionEntry entries[] = {
        {"all", 'a', 0, G_OPTION_ARG_NONE, &all, "Kernel threads too", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_auto(cli_guest) guest = {0};
    g_autoptr(GPtrArray) list = NULL;
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (!cli_parse(cli, entries, argc, argv, &exit))
        return exit;
    if (cli_remote_wanted(cli, cli->operands[0], cli->connect))
        return cli_remote_delegate(cli, NULL, (struct cli_remote_image){-1, -1});
    if (!cli_guest_open(cli, cli->operands[0], &guest, &error) || !cli_guest_pause(&guest, &error))
        return cli_fail(cli, error);
    list = intro_list_processes(guest.kernel, true, &error);
    if (!vmm_machine_resume(guest.vm, list ? &error : NULL) || !list)
        return cli_fail(cli, error);
    cli_debug(cli, "%s: paused for %.1f ms", guest.target,
              (double)vmm_machine_pause_ns(guest.vm) / 1e6);
    if (cli->json)
        print_json(list, all);
    else
        print_table(list, all);
    return cli_done(cli);
}

const struct cli_command cli_cmd_ps = {
    .name = "ps",
    .operands = "TARGET",
    .min_operands = 1,
    .max_operands = 1,
    .has_json = true,
    .has_target = true,
    .summary = "List the processes of a guest",
    .about = "Reads them from the memory of the guest, which is paused for some milliseconds\n"
             "and needs no agent. A guest that was paused already stays so.",
    .examples = "  vmgraft ps qmp:/run/a.sock\n"
                "  vmgraft ps --json qmp:/run/a.sock | jq '.[] | select(.comm == \"python3\")'",
    .run = run,
};
