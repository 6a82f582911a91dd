// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft capture: a process tree of a guest becomes an image.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "cli/capture.h"
#include "cli/diskread.h"
#include "cli/output.h"
#include "cli/refusal.h"
#include "cli/remote.h"
#include "cli/select.h"
#include "cli/signals.h"
#include "formats/stream.h"

struct options {
    char *output;
    char **allow;
    GPtrArray *kinds; // of allow; borrowed
    struct cli_carry carry;
    uint64_t carry_bytes;
    gboolean disks, forensic, leave_paused, let_run;
    double deadline;
    uint32_t pid;
    int64_t deadline_ms;
};

static bool check(struct cli *cli, struct options *o, GError **error)
{
    if (!o->output) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE,
                    "where to? -o FILE, or -o - for standard output");
        return false;
    }
    if (cli->json && strcmp(o->output, "-") == 0) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "--json and -o - both want standard output");
        return false;
    }
    return cli_parse_allow(o->allow, o->kinds, error) &&
           cli_parse_carry(&o->carry, &o->carry_bytes, error) &&
           cli_select_check(cli->operands[1], error) &&
           cli_check_seconds(o->deadline, "--deadline", &o->deadline_ms, error);
}

static void report(struct cli *cli, const struct options *o, const struct cli_capture_stats *stats,
                   const FmtImage *img)
{
    uint64_t bytes = fmt_encoded_size(img);
    g_autofree char *size = cli_format_bytes(bytes);

    if (cli->json) {
        struct json_object *obj = json_object_new_object();

        json_object_object_add(obj, "result", json_object_new_string("captured"));
        json_object_object_add(obj, "pid", json_object_new_int64(o->pid));
        json_object_object_add(obj, "file", cli_json_text(o->output));
        json_object_object_add(obj, "bytes", json_object_new_uint64(bytes));
        cli_capture_add_json(stats, obj);
        cli_print_json(obj);
        return;
    }
    if (stats->pause_ns > 0)
        cli_note(cli, "pid %u: paused %.1f ms, %" G_GUINT64_FORMAT " pages, %s to %s", o->pid,
                 (double)stats->pause_ns / 1e6, stats->n_pages, size, o->output);
    else
        cli_note(cli, "pid %u: guest stays paused, %" G_GUINT64_FORMAT " pages, %s to %s", o->pid,
                 stats->n_pages, size, o->output);
}

static void report_losses(const FmtImage *img)
{
    struct fmt_note *note;

    for (size_t i = 0; FMT_NEXT(img, NOTE, i, note); i++) {
        g_autofree char *text = cli_reason(note->pid, note->fd, note->kind, note->text);

        if (note->level != FMT_NOTE_INFO)
            cli_warn("%s", text);
    }
}

// On the host of the domain; the image comes here.
static enum cli_exit capture_there(struct cli *cli, const struct options *o)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CliOutput) out = cli_output_open(o->output, &error);
    enum cli_exit exit;

    if (!out)
        return cli_fail(cli, error);
    exit = cli_remote_delegate(
        cli, NULL, (struct cli_remote_image){-1, fcntl(cli_output_fd(out), F_DUPFD_CLOEXEC, 3)});
    if (exit == CLI_EXIT_DONE && !cli_output_commit(out, &error))
        return cli_fail(cli, error);
    return exit;
}

static bool capture(struct cli *cli, struct options *o, GPtrArray *reasons, GError **error)
{
    g_auto(cli_guest) guest = {0};
    g_autoptr(CliOutput) out = cli->here ? cli_output_here() : cli_output_open(o->output, error);
    g_autoptr(CliDiskReader) disks = NULL;
    g_autoptr(FmtImage) img = NULL;
    struct cli_capture_stats stats;

    if (!out || !cli_guest_open(cli, cli->operands[0], &guest, error) ||
        !cli_select(cli, &guest, cli->operands[1], &o->pid, error))
        return false;
    if (o->let_run && vmm_machine_is_paused(guest.vm)) {
        vmm_machine_adopt_pause(guest.vm);
        o->leave_paused = TRUE;
    }

    cli_signals_hold(cli);
    if (o->disks &&
        (!(disks = cli_disk_reader_open(cli, &guest, error)) || cli_signals_check(cli, error)))
        return false;

    struct intro_capture_options options = {
        .pid = o->pid,
        .forensic = o->forensic,
        .allow = o->kinds,
        .carry_bytes = o->carry_bytes,
        .disks = disks ? cli_disk_reader(disks) : NULL,
        .programs = true,
        .source = guest.target,
    };

    img = cli_capture(cli, &guest, &options, o->deadline_ms,
                      o->leave_paused ? CLI_AFTER_LEAVE_PAUSED : CLI_AFTER_RESUME, &stats, reasons,
                      error);
    if (!img || !cli_output_write(out, cli, img, error))
        return false;
    report(cli, o, &stats, img);
    report_losses(img);
    return true;
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    g_autoptr(GPtrArray) kinds = g_ptr_array_new();
    struct options o = {.deadline = CLI_CAPTURE_DEADLINE_S, .kinds = kinds};
    const GOptionEntry entries[] = {
        {"output", 'o', 0, G_OPTION_ARG_FILENAME, &o.output, "The image; - is standard output",
         "FILE"},
        {"forensic", 0, 0, G_OPTION_ARG_NONE, &o.forensic,
         "Refuse nothing, record all as found (cannot be restored)", NULL},
        {"leave-paused", 0, 0, G_OPTION_ARG_NONE, &o.leave_paused, "Do not let the guest go on",
         NULL},
        {"let-run", 0, 0, G_OPTION_ARG_NONE, &o.let_run,
         "A guest that was paused may run for some ms, if that is needed to take it", NULL},
        {"allow", 0, 0, G_OPTION_ARG_STRING_ARRAY, &o.allow,
         "Accept to lose what is refused by this name (more below)", "KIND[,KIND]"},
        CLI_CARRY_OPTIONS(&o.carry),
        CLI_DISKS_OPTION(&o.disks),
        {"deadline", 0, 0, G_OPTION_ARG_DOUBLE, &o.deadline,
         "Give up when no moment within this time was safe (default 10)", "SECONDS"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (cli_parse(cli, entries, argc, argv, &exit)) {
        const bool checked = check(cli, &o, &error);

        if (checked && cli_remote_wanted(cli, cli->operands[0], cli->connect))
            exit = capture_there(cli, &o);
        else if (checked && capture(cli, &o, reasons, &error))
            exit = cli_done(cli);
        else
            exit = cli_fail_refused(cli, error, reasons);
    }
    g_free(o.output);
    g_strfreev(o.allow);
    cli_carry_clear(&o.carry);
    return exit;
}

const struct cli_command cli_cmd_capture = {
    .name = "capture",
    .operands = "TARGET PID -o FILE",
    .min_operands = 2,
    .max_operands = 2,
    .has_json = true,
    .has_target = true,
    .has_allow = true,
    .summary = "Take an image of a process and its descendants",
    .about =
        "The guest is paused for some milliseconds, at a moment at which every thread is where\n"
        "it can be taken; then it and the process go on. Needs no agent. What reaches outside\n"
        "of the process tree is refused, unless --allow names its kind. FILE appears when it\n"
        "is complete, or not at all.",
    .examples = "  vmgraft capture qmp:/run/a.sock 1234 -o job.vmg\n"
                "  vmgraft capture qmp:/run/a.sock 1234 -o - | zstd > job.vmg.zst\n"
                "  vmgraft capture qmp:/run/a.sock 1234 --allow external-pipe -o job.vmg\n"
                "  vmgraft capture qmp:/run/a.sock 1234 --forensic -o suspect.vmg",
    .run = run,
};
