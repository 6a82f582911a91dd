// SPDX-License-Identifier: GPL-2.0-or-later
// Reads a guest's swap areas from its disks, which libguestfs shows.
#pragma once

#include "cli/guestdisk.h"
#include "introspect/capture.h"

// Whether it is this device, or the one with the file system of the file, that is meant. What the
// appliance has in its memory of that device is dropped before.
bool cli_disk_swap_is(CliDisk *disk, const char *device, const struct intro_disk_swap *swap);

// Reads the pages from the device, which is the one that is meant.
bool cli_disk_swap_read(CliDisk *disk, const char *device, const struct intro_disk_swap *swap,
                        GError **error);
