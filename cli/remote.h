// SPDX-License-Identifier: GPL-2.0-or-later
// Commands on domains of another host: vmgraft there does the work, and what it says comes here.
#pragma once

#include "cli/remote_uri.h"

// Whether the domain that this operand names is to be looked for on another host. uri: as in
// struct cli.
bool cli_remote_wanted(const struct cli *cli, const char *operand, const char *uri);

// How the domain is called in messages ("web on host"), and in a command line ("-c URI web"); free
// with g_free.
char *cli_remote_shown(const struct cli *cli, const char *operand, const char *uri);
char *cli_remote_words(const struct cli *cli, const char *operand, const char *uri);

// The image of a capture or a restore, and a channel, as descriptors of this side; -1: none.
struct cli_remote_image {
    int from, to;
};

// Runs the command that this process is on the host of cli->connect: its output, its exit code, and
// signals, which it gets. extra: options to be added, NULL or NULL-terminated. Errors were said.
enum cli_exit cli_remote_delegate(struct cli *cli, const char *const *extra,
                                  struct cli_remote_image image);

// Runs the words (NULL-terminated) as a command there. The descriptors are closed. What it says on
// its own comes out here. Fails where it could not be run, or the connection was lost.
struct cli_remote_streams {
    int in, out, err;
    struct cli_remote_image image;
    bool deaf; // signals are left to whoever started us
};
bool cli_remote_run(struct cli *cli, const cli_remote *remote, char **words,
                    struct cli_remote_streams streams, enum cli_exit *ret, GError **error);

// A child with these descriptors as 0, 1, 2 and 3 (-1: /dev/null; no 3), which stay the caller's.
// No signal from a terminal ends it; our end does.
bool cli_remote_spawn(char **argv, const int fds[4], GPid *ret, GError **error);

extern const struct cli_command cli_cmd_remote_helper, cli_cmd_remote_link, cli_cmd_remote_channel;
