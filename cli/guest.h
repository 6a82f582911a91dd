// SPDX-License-Identifier: GPL-2.0-or-later
// A target with the kernel that runs in it.
#pragma once

#include "cli/cli.h"
#include "introspect/kernel.h"
#include "vmm/machine.h"

// Machine and kernel of one target. The pointers are owned.
typedef struct cli_guest {
    const char *target; // borrowed from the command line
    VmmMachine *vm;
    IntroKernel *kernel;
} cli_guest;

// Opens the machine and finds its kernel; the guest goes on running.
bool cli_guest_open(struct cli *cli, const char *target, struct cli_guest *ret, GError **error);
// The same for a guest that need not be understood: kernel is NULL where it is not. uri: in place
// of cli->connect.
bool cli_guest_open_target(struct cli *cli, const char *target, const char *uri, bool find_kernel,
                           struct cli_guest *ret, GError **error);
void cli_guest_clear(struct cli_guest *guest); // resumes what we paused
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(cli_guest, cli_guest_clear)

// Pauses; everything that was read before is forgotten.
bool cli_guest_pause(struct cli_guest *guest, GError **error);
