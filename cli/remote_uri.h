// SPDX-License-Identifier: GPL-2.0-or-later
// A libvirt of another host, as qemu+ssh://[user@]host[:port]/system names it.
#pragma once

#include "cli/cli.h"

/*
 * Of the parameters that libvirt knows these mean the same here: command (in place of ssh),
 * keyfile, no_verify, no_tty, and socket. Those for libvirt's own way through (mode, netcat, proxy)
 * mean nothing, as vmgraft runs itself there. One is vmgraft's own: vmgraft=COMMAND, how the shell
 * there calls it.
 */
typedef struct cli_remote {
    char *uri;  // as it was given
    char *host; // for messages too
    char *user; // NULL: whom ssh takes
    int port;   // -1: what ssh takes
    char *command, *keyfile, *vmgraft;
    bool no_verify, no_tty;
    char *local_uri; // how that libvirt is called on its own host
} cli_remote;

// Whether uri (NULL: as virsh has it by itself) is one that is reached through ssh.
bool cli_remote_is(const char *uri);
// CLI_ERROR_USAGE where it makes no sense.
bool cli_remote_parse(const char *uri, cli_remote *ret, GError **error);
void cli_remote_clear(cli_remote *remote);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(cli_remote, cli_remote_clear)

// The command line of ssh that runs vmgraft's far end; free with g_strfreev.
char **cli_remote_ssh(const cli_remote *remote);
