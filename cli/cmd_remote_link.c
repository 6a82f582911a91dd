// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft remote-link: the near end of a connection as a process of its own, for descriptor 3.
#include <fcntl.h>
#include <unistd.h>

#include "cli/channel.h"

static enum cli_exit link_up(struct cli *cli, GError **error)
{
    g_auto(cli_remote) remote = {0};
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    const struct cli_remote_streams streams = {
        .in = -1,
        .out = -1,
        .err = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, CLI_STREAM_FD + 1),
        .image = {fcntl(CLI_STREAM_FD, F_DUPFD_CLOEXEC, CLI_STREAM_FD + 1),
                  fcntl(CLI_STREAM_FD, F_DUPFD_CLOEXEC, CLI_STREAM_FD + 1)},
        .deaf = true,
    };
    enum cli_exit exit;

    if (!cli_remote_parse(cli->words[1], &remote, error))
        return CLI_EXIT_FAILED;
    g_ptr_array_add(words, g_strdup(cli->words[2]));
    g_ptr_array_add(words, g_strconcat("--connect-here=", remote.local_uri, NULL));
    for (char **word = cli->words + 3; *word; word++)
        g_ptr_array_add(words, g_strdup(*word));
    g_ptr_array_add(words, NULL);
    if (!cli_remote_run(cli, &remote, (char **)words->pdata, streams, &exit, error))
        return CLI_EXIT_FAILED;
    return exit;
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (argc < 3)
        return CLI_EXIT_USAGE;
    exit = link_up(cli, &error);
    if (error && !cli_channel_answer(error->message)) // as remote-channel would
        cli_warn("%s", error->message);
    return exit;
}

const struct cli_command cli_cmd_remote_link = {
    .name = "remote-link",
    .operands = "URI COMMAND [WORD...]",
    .summary = "Run a command of vmgraft on another host, with descriptor 3",
    .about = "vmgraft runs this itself, to move processes between hosts.",
    .examples = "",
    .run = run,
};
