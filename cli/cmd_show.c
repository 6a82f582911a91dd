// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft show: one process of a guest in detail.
#include "cli/capture.h"
#include "cli/image_text.h"
#include "cli/remote.h"
#include "cli/select.h"
#include "cli/signals.h"
#include "formats/export.h"

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    g_auto(cli_guest) guest = {0};
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    g_autoptr(FmtImage) img = NULL;
    struct intro_capture_options options = {.forensic = true, .records_only = true};
    struct cli_capture_stats stats;
    enum cli_exit exit;

    if (!cli_parse(cli, NULL, argc, argv, &exit))
        return exit;
    if (cli_remote_wanted(cli, cli->operands[0], cli->connect))
        return cli_remote_delegate(cli, NULL, (struct cli_remote_image){-1, -1});
    if (!cli_select_check(cli->operands[1], &error) ||
        !cli_guest_open(cli, cli->operands[0], &guest, &error) ||
        !cli_select(cli, &guest, cli->operands[1], &options.pid, &error))
        return cli_fail(cli, error);
    options.source = guest.target;
    cli_signals_hold(cli);
    img = cli_capture(cli, &guest, &options, 0, CLI_AFTER_RESUME, &stats, reasons, &error);
    if (!img)
        return cli_fail_refused(cli, error, reasons);
    if (cli->json)
        cli_print_json(fmt_export_json(img));
    else
        cli_print_image(img);
    return cli_done(cli);
}

const struct cli_command cli_cmd_show = {
    .name = "show",
    .operands = "TARGET PID",
    .min_operands = 2,
    .max_operands = 2,
    .has_json = true,
    .has_target = true,
    .summary = "Show one process of a guest in detail",
    .about =
        "Its threads, descriptors and mappings, those of its descendants, and what would keep\n"
        "it from being moved. The guest is paused for some milliseconds; needs no agent.",
    .examples = "  vmgraft show qmp:/run/a.sock 1234\n"
                "  vmgraft show --json qmp:/run/a.sock 1234",
    .run = run,
};
