// SPDX-License-Identifier: GPL-2.0-or-later
// Opens a guest's disks in libguestfs' appliance and mounts what is on them.
#include "cli/guestdisk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

// Of what QEMU and the appliance say while they start; more is not kept.
#define MAX_LOG_BYTES (256u << 10)

struct CliDisk {
    guestfs_h *g;
    GString *log;
    char *what, *system, *root;
};

void cli_disk_list_free(CliDiskList *list)
{
    for (CliDiskList *at = list; at && *at; at++)
        free(*at);
    free(list);
}

bool cli_disk_fail(CliDisk *disk, const char *what, GError **error)
{
    const char *why = guestfs_last_error(disk->g);

    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: %s: %s", disk->what, what,
                why ? why : "libguestfs gives no reason");
    return false;
}

static bool refuse(CliDisk *disk, GError **error, const char *format, ...) G_GNUC_PRINTF(3, 4);
static bool refuse(CliDisk *disk, GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: %s", disk->what, text);
    return false;
}

static void keep_message(guestfs_h *g, void *user, uint64_t event, int handle, int flags,
                         const char *text, size_t len, const uint64_t *array, size_t array_len)
{
    CliDisk *disk = user;

    if (disk->log->len + len <= MAX_LOG_BYTES)
        g_string_append_len(disk->log, text, (gssize)len);
}

// Many machines have a /dev/kvm without a CPU that could run an ordinary kernel in it.
static bool cpu_virtualizes(void)
{
    g_autofree char *info = NULL;

    return g_file_get_contents("/proc/cpuinfo", &info, NULL, NULL) &&
           (strstr(info, " vmx") || strstr(info, " svm"));
}

static bool add_exports(CliDisk *disk, const struct cli_disk_source *src, GError **error)
{
    g_autofree char *server = g_strconcat("unix:", src->nbd_socket, NULL);
    char *servers[] = {server, NULL};

    for (unsigned i = 0; i < src->n_nbd; i++) {
        g_autofree char *name = g_strdup_printf("%u", i);
        const struct guestfs_add_drive_opts_argv options = {
            .bitmask =
                GUESTFS_ADD_DRIVE_OPTS_READONLY_BITMASK | GUESTFS_ADD_DRIVE_OPTS_FORMAT_BITMASK |
                GUESTFS_ADD_DRIVE_OPTS_PROTOCOL_BITMASK | GUESTFS_ADD_DRIVE_OPTS_SERVER_BITMASK,
            .readonly = 1,
            .format = "raw",
            .protocol = "nbd",
            .server = servers,
        };

        if (guestfs_add_drive_opts_argv(disk->g, name, &options) < 0)
            return cli_disk_fail(disk, "cannot add its disks", error);
    }
    return true;
}

static bool add_disks(CliDisk *disk, const struct cli_disk_source *src, bool writable,
                      GError **error)
{
    if (src->nbd_socket)
        return add_exports(disk, src, error);
    if (src->domain) {
        if (guestfs_add_domain(disk->g, src->domain, GUESTFS_ADD_DOMAIN_LIBVIRTURI, src->uri,
                               GUESTFS_ADD_DOMAIN_READONLY, !writable, GUESTFS_ADD_DOMAIN_ALLOWUUID,
                               1, -1) < 0)
            return cli_disk_fail(disk, "cannot add its disks", error);
        return true;
    }
    for (char *const *path = src->paths; *path; path++) {
        struct guestfs_add_drive_opts_argv options = {
            .bitmask = GUESTFS_ADD_DRIVE_OPTS_READONLY_BITMASK |
                       (src->format ? GUESTFS_ADD_DRIVE_OPTS_FORMAT_BITMASK : 0),
            .readonly = !writable,
            .format = src->format,
        };

        if (guestfs_add_drive_opts_argv(disk->g, *path, &options) < 0)
            return cli_disk_fail(disk, "cannot add this disk", error);
    }
    return true;
}

// QEMU's words where another QEMU has the image open in a way that shuts us out.
static bool is_locked(const char *words)
{
    return words && strstr(words, "Failed to get ") && strstr(words, "lock");
}

static bool launch(CliDisk *disk, GError **error)
{
    if (guestfs_launch(disk->g) == 0)
        return true;
    if (is_locked(disk->log->str) || is_locked(guestfs_last_error(disk->g)))
        return refuse(disk, error,
                      "a disk is in use by a guest that runs: shut that guest down first");
    return cli_disk_fail(disk, "libguestfs does not start (libguestfs-test-tool tells more)",
                         error);
}

// The list of file systems leaves out what is encrypted.
static bool check_encrypted(CliDisk *disk, char **devices, GError **error)
{
    g_autoptr(CliDiskList) list = devices;

    for (CliDiskList *at = list; at && *at; at++) {
        char *type = guestfs_vfs_type(disk->g, *at);
        const bool encrypted =
            g_strcmp0(type, "crypto_LUKS") == 0 || g_strcmp0(type, "BitLocker") == 0;

        free(type);
        if (encrypted)
            return refuse(disk, error,
                          "its system is encrypted (%s): put the agent there from "
                          "inside the guest",
                          *at);
    }
    return true;
}

static bool check_hibernated(CliDisk *disk, GError **error)
{
    g_autoptr(CliDiskList) list = guestfs_list_filesystems(disk->g);

    if (!list)
        return cli_disk_fail(disk, "cannot list its file systems", error);
    for (CliDiskList *at = list; at[0] && at[1]; at += 2) {
        if (strcmp(at[1], "swsuspend") == 0)
            return refuse(disk, error,
                          "the guest is hibernated (%s), with a memory that knows its disk as it "
                          "is now: start it and shut it down first",
                          at[0]);
    }
    return true;
}

static char *list_systems(CliDisk *disk, CliDiskList *roots)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (CliDiskList *at = roots; *at; at++) {
        char *name = guestfs_inspect_get_product_name(disk->g, *at);

        g_string_append_printf(text, "%s%s on %s", at == roots ? "" : ", ", name ? name : "unknown",
                               *at);
        free(name);
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static bool is_our_kind(CliDisk *disk, GError **error)
{
    char *type = guestfs_inspect_get_type(disk->g, disk->root);
    char *machine = guestfs_inspect_get_arch(disk->g, disk->root);
    bool good = false;

    if (g_strcmp0(type, "linux") != 0)
        refuse(disk, error, "there is %s on it (%s), and the agent needs a Linux",
               type ? type : "something unknown", disk->system);
    else if (g_strcmp0(machine, "x86_64") != 0)
        refuse(disk, error, "its Linux (%s) is for %s, the agent for x86_64", disk->system,
               machine ? machine : "an unknown machine");
    else
        good = true;
    free(type);
    free(machine);
    return good;
}

static bool find_system(CliDisk *disk, GError **error)
{
    g_autoptr(CliDiskList) roots = guestfs_inspect_os(disk->g);
    char *name;

    if (!roots)
        return cli_disk_fail(disk, "cannot look for an operating system", error);
    if (!check_hibernated(disk, error))
        return false;
    if (!roots[0])
        return check_encrypted(disk, guestfs_list_devices(disk->g), error) &&
               check_encrypted(disk, guestfs_list_partitions(disk->g), error) &&
               check_encrypted(disk, guestfs_lvs(disk->g), error) &&
               refuse(disk, error, "no operating system is found on it");
    if (roots[1]) {
        g_autofree char *systems = list_systems(disk, roots);

        return refuse(disk, error,
                      "more than one operating system is on it, and which one is meant cannot be "
                      "said (%s)",
                      systems);
    }
    disk->root = g_strdup(roots[0]);
    name = guestfs_inspect_get_product_name(disk->g, disk->root);
    disk->system = g_strdup(name ? name : "unknown");
    free(name);
    return is_our_kind(disk, error);
}

struct mount {
    const char *point, *device;
};

static gint by_length(gconstpointer a, gconstpointer b)
{
    const struct mount *x = a, *y = b;

    return (gint)strlen(x->point) - (gint)strlen(y->point);
}

// Whether the agent's files, or what tells how services are started, are below it.
static bool is_needed(const char *point)
{
    static const char *const needed[] = {"/", "/usr", "/usr/local", "/usr/local/sbin", "/etc"};

    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++) {
        if (strcmp(point, needed[i]) == 0)
            return true;
    }
    return false;
}

static bool mount_all(struct cli *cli, CliDisk *disk, bool writable, GError **error)
{
    g_autoptr(CliDiskList) list = guestfs_inspect_get_mountpoints(disk->g, disk->root);
    g_autoptr(GArray) mounts = g_array_new(FALSE, FALSE, sizeof(struct mount));

    if (!list)
        return cli_disk_fail(disk, "cannot tell its mount points", error);
    for (CliDiskList *at = list; at[0] && at[1]; at += 2) {
        struct mount mount = {at[0], at[1]};

        g_array_append_val(mounts, mount);
    }
    g_array_sort(mounts, by_length);
    for (guint i = 0; i < mounts->len; i++) {
        const struct mount *m = &g_array_index(mounts, struct mount, i);
        int done = writable ? guestfs_mount(disk->g, m->device, m->point)
                            : guestfs_mount_ro(disk->g, m->device, m->point);

        if (done == 0)
            continue;
        g_autofree char *what = g_strdup_printf("cannot mount %s at %s", m->device, m->point);
        if (is_needed(m->point))
            return cli_disk_fail(disk, what, error);
        cli_debug(cli, "%s: %s: %s", disk->what, what, guestfs_last_error(disk->g));
    }
    return true;
}

CliDisk *cli_disk_launch(struct cli *cli, const struct cli_disk_source *src, bool writable,
                         GError **error)
{
    g_autoptr(CliDisk) disk = g_new0(CliDisk, 1);
    int64_t start = cli_now_ns();

    disk->what = g_strdup(src->what);
    disk->log = g_string_new(NULL);
    disk->g = guestfs_create();
    if (!disk->g) {
        refuse(disk, error, "libguestfs cannot be used: %s", g_strerror(errno));
        return NULL;
    }
    guestfs_set_error_handler(disk->g, NULL, NULL);
    guestfs_set_event_callback(
        disk->g, keep_message,
        GUESTFS_EVENT_APPLIANCE | GUESTFS_EVENT_LIBRARY | GUESTFS_EVENT_WARNING, 0, disk);
    // Ctrl-C is for us: the appliance ends when we end it.
    guestfs_set_pgroup(disk->g, 1);
    // A socket that only this user reaches is out of reach of whom libvirt would start.
    if (src->nbd_socket)
        guestfs_set_backend(disk->g, "direct");
    if (!cpu_virtualizes())
        guestfs_set_backend_setting(disk->g, "force_tcg", "1");
    if (!add_disks(disk, src, writable, error) || !launch(disk, error))
        return NULL;
    cli_debug(cli, "%s: libguestfs started in %.1f s", disk->what,
              (double)(cli_now_ns() - start) / 1e9);
    return g_steal_pointer(&disk);
}

CliDisk *cli_disk_open(struct cli *cli, const struct cli_disk_source *src, bool writable,
                       GError **error)
{
    g_autoptr(CliDisk) disk = cli_disk_launch(cli, src, writable, error);

    if (!disk)
        return NULL;
    if (!find_system(disk, error) || !mount_all(cli, disk, writable, error))
        return NULL;
    cli_debug(cli, "%s: %s on %s", disk->what, disk->system, disk->root);
    return g_steal_pointer(&disk);
}

bool cli_disk_close(CliDisk *disk, GError **error)
{
    if (guestfs_umount_all(disk->g) < 0 || guestfs_shutdown(disk->g) < 0)
        return cli_disk_fail(disk, "what was written may not be on the disk", error);
    return true;
}

void cli_disk_free(CliDisk *disk)
{
    if (!disk)
        return;
    if (disk->g)
        guestfs_close(disk->g);
    g_string_free(disk->log, TRUE);
    g_free(disk->what);
    g_free(disk->system);
    g_free(disk->root);
    g_free(disk);
}

guestfs_h *cli_disk_handle(CliDisk *disk)
{
    return disk->g;
}

const char *cli_disk_system(const CliDisk *disk)
{
    return disk->system;
}

const char *cli_disk_root(const CliDisk *disk)
{
    return disk->root;
}
