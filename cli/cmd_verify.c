// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft verify: is an image whole and unaltered?
#include <stdio.h>

#include "cli/input.h"

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FmtImage) img = NULL;
    enum cli_exit exit;

    if (!cli_parse(cli, NULL, argc, argv, &exit))
        return exit;
    img = cli_load_image(cli->operands[0], &error);
    if (!img)
        return cli_fail(cli, error);
    cli_note(cli,
             "%s: whole and unaltered: %zu processes, %zu threads, %" G_GUINT64_FORMAT " pages",
             cli->operands[0], fmt_image_count(img, FMT_PROC), fmt_image_count(img, FMT_TASK),
             fmt_image_head(img)->n_pages);
    return cli_done(cli);
}

const struct cli_command cli_cmd_verify = {
    .name = "verify",
    .operands = "FILE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "Check that an image is whole and unaltered",
    .about = "Checks its structure, every reference and every checksum. FILE may be - for\n"
             "standard input. Touches no guest.",
    .examples = "  vmgraft verify job.vmg && vmgraft restore job.vmg qmp:/run/b.sock",
    .run = run,
};
