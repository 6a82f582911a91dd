// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft inspect: what an image holds.
#include "cli/image_text.h"
#include "cli/input.h"
#include "formats/export.h"

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
    if (cli->json)
        cli_print_json(fmt_export_json(img));
    else
        cli_print_image(img);
    return cli_done(cli);
}

const struct cli_command cli_cmd_inspect = {
    .name = "inspect",
    .operands = "FILE",
    .min_operands = 1,
    .max_operands = 1,
    .has_json = true,
    .summary = "Show what an image holds",
    .about = "Checks the whole image first. With --json every record is printed, but not the\n"
             "contents of pages. FILE may be - for standard input. Touches no guest.",
    .examples = "  vmgraft inspect job.vmg\n"
                "  vmgraft inspect --json job.vmg | jq .",
    .run = run,
};
