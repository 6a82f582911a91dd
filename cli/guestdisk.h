// SPDX-License-Identifier: GPL-2.0-or-later
// The disks of a guest, through libguestfs; of one that does not run its Linux is found and
// mounted.
#pragma once

#include <glib.h>
#include <guestfs.h>
#include <stdbool.h>

struct cli;

struct cli_disk_source {
    const char *what;         // for messages: the domain's name, the disk's path
    const char *domain, *uri; // its UUID, and libvirt's URI; NULL: the disks of `paths`
    char *const *paths;       // NULL-terminated
    const char *format;       // of `paths`; NULL: as the image says of itself
    const char *nbd_socket;   // not NULL: NBD exports "0", "1", ... there, and only read-only
    unsigned n_nbd;
};

typedef struct CliDisk CliDisk;

// Boots libguestfs' appliance (some seconds) beside the disks; nothing is looked at or mounted.
CliDisk *cli_disk_launch(struct cli *cli, const struct cli_disk_source *src, bool writable,
                         GError **error);

/*
 * The same, then finds the one Linux for x86-64 that
 * is on them, and mounts its file systems. Writable: QEMU's image locks keep out whoever runs from
 * these disks, and are kept until cli_disk_free. Read-only: nothing reaches the disks. Errors:
 * CLI_ERROR_FAILED, in one sentence (disk in use, no operating system, more than one, encrypted,
 * hibernated, another machine's).
 */
CliDisk *cli_disk_open(struct cli *cli, const struct cli_disk_source *src, bool writable,
                       GError **error);
// Unmounts; what was written is in the images when this succeeds.
bool cli_disk_close(CliDisk *disk, GError **error);
void cli_disk_free(CliDisk *disk); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliDisk, cli_disk_free)

guestfs_h *cli_disk_handle(CliDisk *disk);        // borrowed; paths are the guest's
const char *cli_disk_system(const CliDisk *disk); // "Debian GNU/Linux 12 (bookworm)"
const char *cli_disk_root(const CliDisk *disk);   // "/dev/debian/root"

// Sets an error from what libguestfs said last: "GUEST: WHAT: its words". Returns false.
bool cli_disk_fail(CliDisk *disk, const char *what, GError **error);

// A list as libguestfs gives it: NULL-terminated, malloc'ed, all of it.
typedef char *CliDiskList;
void cli_disk_list_free(CliDiskList *list); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliDiskList, cli_disk_list_free)
