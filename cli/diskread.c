// SPDX-License-Identifier: GPL-2.0-or-later
// Reads files on the disks of a guest that is there, through its own QEMU and libguestfs.
#include "cli/diskread.h"

#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/diskswap.h"
#include "cli/guestdisk.h"

#define PIECE_BYTES (2u << 20) // libguestfs' messages hold 4 MiB
#define IDLE_MS     20
#define UUID_BYTES  16

struct CliDiskReader {
    struct intro_disks ops;
    const struct cli_guest *guest;
    CliDisk *disk;
    GArray *filesystems; // struct filesystem
    char *mounted;       // the device; NULL as yet
};

struct filesystem {
    char *device, *uuid; // both malloc'ed; the second may be NULL
    bool has_journal;
    bool is_swap;
};

static bool set_failed(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool set_failed(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error_literal(error, CLI_ERROR, CLI_ERROR_FAILED, text);
    return false;
}

/* ---- libguestfs at work, and the guest's hypervisor kept company ---- */

struct work {
    bool (*run)(CliDiskReader *reader, void *user, GError **error);
    CliDiskReader *reader;
    void *user;
    GError *error;
    gint over;
};

static gpointer do_work(gpointer data)
{
    struct work *work = data;
    const bool ok = work->run(work->reader, work->user, &work->error);

    g_atomic_int_set(&work->over, 1);
    return GINT_TO_POINTER(ok);
}

// Its calls take seconds, in which somebody has to answer libvirtd.
static bool let_work(CliDiskReader *reader, bool (*run)(CliDiskReader *, void *, GError **),
                     void *user, GError **error)
{
    struct work work = {.run = run, .reader = reader, .user = user};
    GThread *thread = g_thread_new("disks", do_work, &work);

    while (!g_atomic_int_get(&work.over))
        vmm_machine_idle(reader->guest->vm, IDLE_MS);
    if (g_thread_join(thread))
        return true;
    g_propagate_error(error, work.error);
    return false;
}

/* ---- which file system ---- */

static void clear_filesystem(gpointer data)
{
    struct filesystem *fs = data;

    free(fs->device);
    free(fs->uuid);
}

static bool has_journal(guestfs_h *g, const char *device, const char *type)
{
    CliDiskList *words = g_str_has_prefix(type, "ext") ? guestfs_tune2fs_l(g, device) : NULL;
    bool has = false;

    for (CliDiskList *at = words; at && at[0] && at[1]; at += 2)
        has |= strcmp(at[0], "Filesystem features") == 0 && strstr(at[1], "has_journal");
    cli_disk_list_free(words);
    return has;
}

static bool list_filesystems(CliDiskReader *reader, GError **error)
{
    guestfs_h *g = cli_disk_handle(reader->disk);
    char **list = guestfs_list_filesystems(g); // device, type, device, type ..., NULL

    if (!list)
        return cli_disk_fail(reader->disk, "cannot list its file systems", error);
    for (char **at = list; at[0] && at[1]; at += 2) {
        const struct filesystem fs = {at[0], guestfs_vfs_uuid(g, at[0]),
                                      has_journal(g, at[0], at[1]), strcmp(at[1], "swap") == 0};

        g_array_append_val(reader->filesystems, fs);
        free(at[1]);
    }
    free(list);
    return true;
}

static char *format_uuid(const uint8_t uuid[UUID_BYTES])
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < UUID_BYTES; i++)
        g_string_append_printf(text, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
                               uuid[i]);
    return g_string_free(text, FALSE);
}

// Borrowed. A copy of a file system has the UUID of its original, and only one of
// them is what the guest has mounted.
static const struct filesystem *find_filesystem(CliDiskReader *reader,
                                                const uint8_t uuid[UUID_BYTES], GError **error)
{
    g_autofree char *wanted = format_uuid(uuid);
    const struct filesystem *found = NULL;

    for (guint i = 0; i < reader->filesystems->len; i++) {
        const struct filesystem *fs = &g_array_index(reader->filesystems, struct filesystem, i);

        if (!fs->uuid || g_ascii_strcasecmp(fs->uuid, wanted) != 0)
            continue;
        if (found) {
            set_failed(error, "two of the guest's disks have a file system %s", wanted);
            return NULL;
        }
        found = fs;
    }
    if (!found)
        set_failed(error, "none of the guest's disks shows its file system (%s)", wanted);
    return found;
}

static bool mount_device(CliDiskReader *reader, const char *device, GError **error)
{
    guestfs_h *g = cli_disk_handle(reader->disk);

    if (g_strcmp0(reader->mounted, device) == 0)
        return true;
    g_clear_pointer(&reader->mounted, g_free);
    // What the appliance has seen so far was another moment's.
    if (guestfs_umount_all(g) < 0 || guestfs_blockdev_flushbufs(g, device) < 0)
        return cli_disk_fail(reader->disk, "cannot look at its disks anew", error);
    if (guestfs_mount_ro(g, device, "/") < 0)
        return cli_disk_fail(reader->disk, "cannot mount its file system", error);
    reader->mounted = g_strdup(device);
    return true;
}

/* ---- whether the disk has what the guest's kernel knows ---- */

static uint64_t end_of(const struct intro_disk_gap *gap, const struct intro_disk_file *file)
{
    return MIN(gap->start + gap->size_bytes, file->size_bytes);
}

static bool check_file(CliDiskReader *reader, const struct intro_disk_file *file, GError **error)
{
    struct guestfs_statns *st = guestfs_lstatns(cli_disk_handle(reader->disk), file->path);
    const struct intro_disk_gap *last = &file->gaps[file->n_gaps - 1];

    if (!st)
        return cli_disk_fail(reader->disk, "the disk does not have it", error);
    const int64_t mtime_ns = st->st_mtime_sec * INT64_C(1000000000) + st->st_mtime_nsec;
    const int64_t ctime_ns = st->st_ctime_sec * INT64_C(1000000000) + st->st_ctime_nsec;
    const uint64_t size = (uint64_t)st->st_size;
    const bool same = S_ISREG(st->st_mode) && (uint64_t)st->st_ino == file->ino &&
                      mtime_ns == file->mtime_ns && ctime_ns == file->ctime_ns &&
                      (uint64_t)st->st_blocks == file->n_sectors &&
                      (size == file->size_bytes ||
                       (size < file->size_bytes && last->start + last->size_bytes <= size));

    guestfs_free_statns(st);
    return same ||
           set_failed(error, "it has changed so lately that the disk does not have it yet; try "
                             "again in some seconds, or after a sync in the guest");
}

/*
 * A block that has been written for the first time counts as unwritten until the guest's next
 * commit; what reads as zeros then may be none. Blocks that were allocated and never written look
 * the same.
 */
static bool check_written(CliDiskReader *reader, const struct intro_disk_file *file, GError **error)
{
    // The only way in which libguestfs lets us see them. Nothing in it is of the guest's choice.
    g_autofree char *line =
        g_strdup_printf("debugfs -R 'ex <%" G_GUINT64_FORMAT ">' %s", file->ino, reader->mounted);
    char *words[] = {line, NULL};
    char *extents = guestfs_debug(cli_disk_handle(reader->disk), "sh", words);

    if (!extents)
        return cli_disk_fail(reader->disk, "cannot tell its extents", error);
    const bool unwritten = strstr(extents, "Uninit") != NULL;
    free(extents);
    return !unwritten || set_failed(error, "some of its blocks have not been written yet");
}

/* ---- reading ---- */

static bool read_gap(CliDiskReader *reader, const struct intro_disk_file *file,
                     const struct intro_disk_gap *gap, GError **error)
{
    const uint64_t end = end_of(gap, file);

    for (uint64_t at = gap->start; at < end;) {
        const int wanted = (int)MIN(end - at, PIECE_BYTES);
        size_t got = 0;
        char *piece =
            guestfs_pread(cli_disk_handle(reader->disk), file->path, wanted, (int64_t)at, &got);

        if (!piece)
            return cli_disk_fail(reader->disk, "cannot read it", error);
        if (got == 0 || got > (size_t)wanted) {
            free(piece);
            return set_failed(error, "the disk has less of it than it says");
        }
        memcpy(gap->to + (at - gap->start), piece, got);
        free(piece);
        at += got;
    }
    return true;
}

static bool read_gaps(CliDiskReader *reader, void *user, GError **error)
{
    const struct intro_disk_file *file = user;
    const struct filesystem *fs = find_filesystem(reader, file->uuid, error);

    if (!fs)
        return false;
    // Else an inode on the disk may be newer than the blocks that say where the file is.
    if (!fs->has_journal)
        return set_failed(error, "its file system has no journal");
    if (!mount_device(reader, fs->device, error) || !check_file(reader, file, error) ||
        !check_written(reader, file, error))
        return false;
    for (size_t i = 0; i < file->n_gaps; i++) {
        if (!read_gap(reader, file, &file->gaps[i], error))
            return false;
    }
    return true;
}

static bool read_file(void *user, const struct intro_disk_file *file, GError **error)
{
    struct intro_disk_file copy = *file;

    return let_work(user, read_gaps, &copy, error);
}

/* ---- swap areas ---- */

// Borrowed.
static const char *find_swap(CliDiskReader *reader, const struct intro_disk_swap *swap,
                             GError **error)
{
    const char *found = NULL;

    for (guint i = 0; i < reader->filesystems->len; i++) {
        const struct filesystem *fs = &g_array_index(reader->filesystems, struct filesystem, i);

        if (!fs->is_swap || !cli_disk_swap_is(reader->disk, fs->device, swap))
            continue;
        if (found) {
            set_failed(error, "two of the guest's disks have one that could be it");
            return NULL;
        }
        found = fs->device;
    }
    if (!found)
        set_failed(error, "none of the guest's disks shows it");
    return found;
}

// Borrowed.
static const char *find_swap_file(CliDiskReader *reader, const struct intro_disk_swap *swap,
                                  GError **error)
{
    const struct filesystem *fs = find_filesystem(reader, swap->uuid, error);

    if (!fs)
        return NULL;
    if (cli_disk_swap_is(reader->disk, fs->device, swap))
        return fs->device;
    set_failed(error, "%s does not have it", fs->device);
    return NULL;
}

static bool read_pages(CliDiskReader *reader, void *user, GError **error)
{
    const struct intro_disk_swap *swap = user;
    const char *device = (swap->is_file ? find_swap_file : find_swap)(reader, swap, error);

    return device && cli_disk_swap_read(reader->disk, device, swap, error);
}

static bool read_swap(void *user, const struct intro_disk_swap *swap, GError **error)
{
    struct intro_disk_swap copy = *swap;

    return let_work(user, read_pages, &copy, error);
}

/* ---- the appliance ---- */

// What takes its time and does not look at the guest's files; not having it is no harm.
static void warm_up(CliDiskReader *reader)
{
    guestfs_h *g = cli_disk_handle(reader->disk);
    char *words[] = {"debugfs -V", NULL};

    guestfs_modprobe(g, "ext4");
    free(guestfs_debug(g, "sh", words));
}

struct boot {
    struct cli *cli;
    struct cli_disk_source src;
};

static bool boot(CliDiskReader *reader, void *user, GError **error)
{
    const struct boot *boot = user;

    reader->disk = cli_disk_launch(boot->cli, &boot->src, false, error);
    if (!reader->disk || !list_filesystems(reader, error))
        return false;
    warm_up(reader);
    return true;
}

static bool start(struct cli *cli, CliDiskReader *reader, GError **error)
{
    struct boot args = {.cli = cli, .src.what = reader->guest->target};

    if (!vmm_machine_serve_disks(reader->guest->vm, &args.src.nbd_socket, &args.src.n_nbd, error))
        return false;
    if (args.src.n_nbd == 0)
        return set_failed(error, "%s: --disks: this guest has no disk", reader->guest->target);
    return let_work(reader, boot, &args, error);
}

CliDiskReader *cli_disk_reader_open(struct cli *cli, const struct cli_guest *guest, GError **error)
{
    g_autoptr(CliDiskReader) reader = g_new0(CliDiskReader, 1);

    reader->ops = (struct intro_disks){.read = read_file, .read_swap = read_swap, .user = reader};
    reader->guest = guest;
    reader->filesystems = g_array_new(FALSE, FALSE, sizeof(struct filesystem));
    g_array_set_clear_func(reader->filesystems, clear_filesystem);
    return start(cli, reader, error) ? g_steal_pointer(&reader) : NULL;
}

void cli_disk_reader_free(CliDiskReader *reader)
{
    if (!reader)
        return;
    g_array_unref(reader->filesystems);
    cli_disk_free(reader->disk);
    vmm_machine_end_disks(reader->guest->vm);
    g_free(reader->mounted);
    g_free(reader);
}

const struct intro_disks *cli_disk_reader(CliDiskReader *reader)
{
    return &reader->ops;
}
