// SPDX-License-Identifier: GPL-2.0-or-later
// Reads files and swap areas on the disks of a guest that is there, running or paused: --disks.
#pragma once

#include "cli/guest.h"
#include "introspect/capture.h"

/*
 *   open    guest running: its QEMU serves its disks, read-only; libguestfs' appliance boots (some
 *           seconds) on top of them and says which file systems there are. Nothing is mounted
 *   read    guest PAUSED: what the appliance had in its memory is dropped, the file system is
 * mounted, the file compared with what the guest's kernel knows of it, and read free    the
 * appliance ends, and so does QEMU's serving
 *
 * Swap areas are read as they are, at any time while the guest is paused.
 *
 * The appliance has a layer of its own to write to, which nobody keeps: mounting replays the
 * journal into that, so that it shows the guest's last commit, whole, and the guest's disk is not
 * touched. That layer is of one moment: a reader is for one pause.
 */
typedef struct CliDiskReader CliDiskReader;

#define CLI_DISKS_OPTION(disks)                                                                    \
    {                                                                                              \
        "disks", 0, 0, G_OPTION_ARG_NONE, disks,                                                   \
            "Read from the guest's disks what memory does not hold: swapped pages, the rest of "   \
            "carried files and, for capture, of mapped programs (a longer pause)",                 \
            NULL                                                                                   \
    }

CliDiskReader *cli_disk_reader_open(struct cli *cli, const struct cli_guest *guest, GError **error);
void cli_disk_reader_free(CliDiskReader *reader); // NULL-safe; before the guest is cleared
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliDiskReader, cli_disk_reader_free)

// Borrowed: for intro_capture_options.
const struct intro_disks *cli_disk_reader(CliDiskReader *reader);
