// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft agent install, remove, and status of a guest that is shut down.
#pragma once

#include "cli/cli.h"

struct cli_agent_place {
    char *const *operands; // a domain, or disks; NULL-terminated
    const char *agent;     // install: the agent's file, NULL: the one that came with this vmgraft
    const char *format;    // of disks, NULL: as they say of themselves
};

// Whether an operand is the path of a disk: libvirt allows no slash in a domain's name.
bool cli_agent_is_disk(const char *operand);

// *ret: whether the operand is a domain that does not run. false where it is no domain at all.
bool cli_agent_is_off(struct cli *cli, const char *operand, bool *ret, GError **error);

// Each does the whole command, and prints what it has done.
bool cli_agent_install(struct cli *cli, const struct cli_agent_place *place, GError **error);
bool cli_agent_remove(struct cli *cli, const struct cli_agent_place *place, GError **error);
bool cli_agent_look(struct cli *cli, const struct cli_agent_place *place, GError **error);
