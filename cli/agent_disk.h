// SPDX-License-Identifier: GPL-2.0-or-later
// The agent and its service as files of a guest's disk.
#pragma once

#include "cli/guestdisk.h"

#define CLI_AGENT_PATH "/usr/local/sbin/vmgraft-agent"

typedef struct cli_agent_disk {
    const char *service; // what starts services there: "systemd", "openrc", "sysvinit"
    char *version;       // of the agent that is there; NULL: none is
    bool scripted;       // the service is there
    bool enabled;        // and is started when the guest is
} cli_agent_disk;

// What is there. Nothing is run that the guest has.
bool cli_agent_disk_look(CliDisk *disk, struct cli_agent_disk *ret, GError **error);
void cli_agent_disk_clear(struct cli_agent_disk *state);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(cli_agent_disk, cli_agent_disk_clear)

/*
 * Puts the agent of `file` (of the host) and its service there and has it started with the guest.
 * Each file is replaced as a whole or not at all; what is so already is not written. Files of the
 * same name that others have made are left alone, which is an error. SELinux labels are those that
 * the directory gives. Adds to `notes` (char *) what the user should know. *ret_changed: something
 * was written.
 */
bool cli_agent_disk_install(CliDisk *disk, const char *file, GPtrArray *notes, bool *ret_changed,
                            GError **error);
// Takes it all away again; where there is nothing nothing is done.
bool cli_agent_disk_remove(CliDisk *disk, GPtrArray *notes, bool *ret_changed, GError **error);
