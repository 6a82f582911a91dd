// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft convert: an image in a format of others.
#include <string.h>

#include "cli/input.h"
#include "formats/export.h"

static const struct {
    const char *name;
    bool (*export)(const FmtImage *img, uint64_t pid, const char *path, GError **error);
} formats[] = {
    {"core", fmt_export_core},
};

static bool convert(struct cli *cli, const char *to, const char *output, const char *pid_text,
                    GError **error)
{
    g_autoptr(FmtImage) img = NULL;
    uint32_t pid = 0;
    size_t i = 0;

    while (to && i < G_N_ELEMENTS(formats) && strcmp(formats[i].name, to) != 0)
        i++;
    if (!to || i == G_N_ELEMENTS(formats)) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "--to takes one of: core");
        return false;
    }
    if (!output || strcmp(output, "-") == 0) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE, "where to? -o FILE");
        return false;
    }
    if (pid_text && !cli_parse_pid(pid_text, &pid, error))
        return false;
    img = cli_load_image(cli->operands[0], error);
    if (!img || !formats[i].export(img, pid, output, error))
        return false;
    cli_note(cli, "%s: %s of pid %" G_GUINT64_FORMAT, output, to,
             pid > 0 ? pid : fmt_image_head(img)->root_pid);
    return true;
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    g_autofree char *to = NULL, *output = NULL, *pid = NULL;
    const GOptionEntry entries[] = {
        {"to", 't', 0, G_OPTION_ARG_STRING, &to, "core: an ELF core for gdb", "FORMAT"},
        {"output", 'o', 0, G_OPTION_ARG_FILENAME, &output, "Where to write", "FILE"},
        {"pid", 'p', 0, G_OPTION_ARG_STRING, &pid, "Which process (default: the root of the tree)",
         "PID"},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (!cli_parse(cli, entries, argc, argv, &exit))
        return exit;
    if (!convert(cli, to, output, pid, &error))
        return cli_fail(cli, error);
    return cli_done(cli);
}

const struct cli_command cli_cmd_convert = {
    .name = "convert",
    .operands = "FILE --to core -o CORE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "Write an image in a format that other tools read",
    .about = "An ELF core has all threads with their vector registers, the mappings with their\n"
             "files, and all memory that the image has. Touches no guest.",
    .examples = "  vmgraft convert job.vmg --to core -o job.core && gdb /usr/bin/job job.core\n"
                "  vmgraft convert job.vmg --to core --pid 1240 -o child.core",
    .run = run,
};
