// SPDX-License-Identifier: GPL-2.0-or-later
// Open files (struct file): of what kind, where in it, and what cannot go along.
#include "introspect/file.h"

#include "introspect/ipc.h"
#include "introspect/reader.h"
#include "introspect/socket.h"
#include "introspect/tty.h"

#include <string.h>
#include <sys/stat.h>

#define FMODE_READ_WRITE 3

// In place of the file system's name: shared memory on the kernel's own mount of tmpfs.
#define SHMEM "shared memory"

// What a program may set in f_flags (include/uapi/asm-generic/fcntl.h); the kernel keeps bits of
// its own there. O_CLOEXEC is left from open() and means nothing: the descriptor's bit counts.
#define KERNEL_O_PATH       010000000
#define KERNEL_STATUS_FLAGS 035776003

/* ---- what is recorded for a kind ---- */

// Refused. In a forensic image it is listed for people; in another one the user has accepted that
// it is lost, and nothing but its number goes along.
static bool record_lost(struct intro_opened *o, GError **error)
{
    o->rec->kind = o->c->opt->forensic ? FMT_FILE_OTHER : FMT_FILE_LOST;
    o->rec->path = g_strdup(o->name);
    if (!o->c->opt->forensic)
        o->rec->flags = o->rec->mode = o->rec->pos = o->rec->deleted = o->rec->owner_pid = 0;
    return true;
}

static bool way_to(struct intro_opened *o, GError **error)
{
    return o->rec->deleted || !o->name[0] ||
           intro_way(o->c, (struct intro_path){o->mnt, o->dentry}, error);
}

// Contents, or another path, where the target may need them.
static bool record_contents(struct intro_opened *o, struct fmt_inode *inode, GError **error)
{
    if (o->rec->deleted)
        return intro_file_deleted(o, inode, error);
    if (!inode->path)
        inode->path = g_strdup(o->name);
    return !S_ISREG(o->mode) ||
           (intro_file_carry(o, inode, error) && (!inode->contents || way_to(o, error)));
}

static bool record_inode(struct intro_opened *o, GError **error)
{
    uint64_t ref = intro_inode(o->c, o->inode, error);

    if (!ref)
        return false;
    struct fmt_inode *inode = fmt_image_by_ref(o->c->img, ref, FMT_INODE);
    o->rec->object = ref;
    o->rec->path = g_strdup(o->name);
    return record_contents(o, inode, error) &&
           intro_file_attributes(o,
                                 inode->contents == FMT_CONTENTS_DELETED ||
                                     inode->contents == FMT_CONTENTS_CARRIED,
                                 error);
}

static bool record_directory(struct intro_opened *o, GError **error)
{
    return record_inode(o, error) &&
           intro_directory_position(o, fmt_image_by_ref(o->c->img, o->rec->object, FMT_INODE),
                                    error);
}

static const struct {
    unsigned major, minor_first, minor_last;
} devices[] = {
    {1, 3, 3},     {1, 5, 5}, // null, zero
    {1, 7, 9},                // full, random, urandom
    {4, 0, 255},   {5, 0, 1}, // tty*, ttyS*; tty, console
    {229, 0, 255},            // hvc*
};

// Whose private_data is a tty_file_private.
static bool is_terminal(unsigned major)
{
    return major == 5 || (major >= 136 && major <= 143);
}

static bool record_device(struct intro_opened *o, GError **error)
{
    unsigned major = (unsigned)(o->dev >> 20), minor = o->dev & 0xfffff;
    bool known = false, is_pty;

    if (is_terminal(major)) {
        if (!intro_record_tty(o, &is_pty, error))
            return false;
        if (is_pty)
            return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(devices); i++)
        known |= devices[i].major == major && minor >= devices[i].minor_first &&
                 minor <= devices[i].minor_last;
    if (known)
        return record_inode(o, error);
    intro_refuse(o->c, "device", "has the device %s (%u:%u) open", o->name, major, minor);
    return record_lost(o, error);
}

static bool record_pipe(struct intro_opened *o, GError **error)
{
    if (!(o->rec->object = intro_pipe(o->c, o->inode, error)))
        return false;
    if (strcmp(o->fstype, "pipefs") == 0)
        return true;
    o->rec->path = g_strdup(o->name); // a FIFO, with or without a name
    return intro_fifo_waits(o, error) && way_to(o, error);
}

static bool record_shm(struct intro_opened *o, GError **error)
{
    return (o->rec->object = intro_shm(o->c, o->inode, error)) != 0 &&
           intro_file_attributes(o, true, error);
}

static bool record_mqueue(struct intro_opened *o, GError **error)
{
    o->rec->path = g_strdup(o->name);
    return (o->rec->object = intro_mqueue(o->c, o->inode, o->name, o->rec->deleted, error)) != 0;
}

static bool record_socket(struct intro_opened *o, GError **error)
{
    if (!intro_socket(o->c, o->inode, &o->rec->object, error))
        return false;
    return o->rec->object || record_lost(o, error);
}

static bool record_place(struct intro_opened *o, GError **error)
{
    // What no path leads to, reached through /proc/self/fd.
    if (o->name[0] != '/' || strcmp(o->fstype, SHMEM) == 0) {
        intro_refuse(o->c, "path-descriptor", "has %s open by its place alone (O_PATH)", o->name);
        return record_lost(o, error);
    }
    return record_inode(o, error);
}

/* ---- kinds ---- */

/*
 * The first row that fits says what a file is. A kind that is learned gets its row changed from a
 * refusal to a function.
 */
static const struct file_kind {
    mode_t type;        // S_IF*, 0 for any
    const char *fstype; // NULL for any
    const char *name;   // what its name contains, NULL for anything
    enum fmt_file_kind kind;
    bool (*record)(struct intro_opened *o, GError **error);
    const char *refusal; // NULL: it goes along
    const char *what;
} kinds[] = {
#define REFUSED FMT_FILE_OTHER, record_lost
    {0, SHMEM, "/memfd:", FMT_FILE_MEMFD, record_shm, NULL, NULL},
    {0, SHMEM, "/SYSV", REFUSED, "sysv-shm", "a System V shared memory segment"},
    {0, SHMEM, NULL, REFUSED, "kernel-memory", "memory of a driver"},
    {0, "pipefs", NULL, FMT_FILE_PIPE, record_pipe, NULL, NULL},
    {0, "sockfs", NULL, FMT_FILE_SOCKET, record_socket, NULL, NULL},
    {0, "pidfs", NULL, FMT_FILE_PIDFD, intro_record_pidfd, NULL, NULL},
    {0, "nsfs", NULL, REFUSED, "namespace", "a namespace"},
    {S_IFREG, "mqueue", NULL, FMT_FILE_MQUEUE, record_mqueue, NULL, NULL},
    {0, "hugetlbfs", NULL, REFUSED, "hugetlb", "memory of huge pages"},
    {0, "secretmem", NULL, REFUSED, "secret-memory", "secret memory"},
    {0, "aio", NULL, REFUSED, "aio", "a ring of asynchronous I/O"},
    {0, "dmabuf", NULL, REFUSED, "device", "a buffer of a device"},
    {0, "anon_inodefs", "[eventfd", FMT_FILE_EVENTFD, intro_record_eventfd, NULL, NULL},
    {0, "anon_inodefs", "[eventpoll", FMT_FILE_EPOLL, intro_record_epoll, NULL, NULL},
    {0, "anon_inodefs", "[timerfd", FMT_FILE_TIMERFD, intro_record_timerfd, NULL, NULL},
    {0, "anon_inodefs", "[signalfd", FMT_FILE_SIGNALFD, intro_record_signalfd, NULL, NULL},
    {0, "anon_inodefs", "inotify", FMT_FILE_INOTIFY, intro_record_inotify, NULL, NULL},
    {0, "anon_inodefs", "[fanotify", REFUSED, "fanotify", "a fanotify group"},
    {0, "anon_inodefs", "[pidfd", FMT_FILE_PIDFD, intro_record_pidfd, NULL, NULL},
    {0, "anon_inodefs", "[io_uring", REFUSED, "io_uring", "an io_uring"},
    {0, "anon_inodefs", "[perf_event", REFUSED, "perf-event", "a performance counter"},
    {0, "anon_inodefs", "bpf", REFUSED, "bpf", "a BPF object"},
    {0, "anon_inodefs", "[userfaultfd", REFUSED, "userfaultfd", "a userfaultfd"},
    {0, "anon_inodefs", "seccomp", REFUSED, "seccomp-notify", "a seccomp listener"},
    {0, "anon_inodefs", "kvm", REFUSED, "kvm", "a virtual machine"},
    {0, "anon_inodefs", NULL, REFUSED, "kernel-object", "a kernel object"},
    {S_IFREG, "debugfs", NULL, REFUSED, "kernel-file", "a file of the kernel"},
    {S_IFREG, "tracefs", NULL, REFUSED, "kernel-file", "a file of the kernel"},
    {S_IFREG, "configfs", NULL, REFUSED, "kernel-file", "a file of the kernel"},
    {S_IFREG, "securityfs", NULL, REFUSED, "kernel-file", "a file of the kernel"},
    {S_IFREG, NULL, NULL, FMT_FILE_REG, record_inode, NULL, NULL},
    {S_IFDIR, NULL, NULL, FMT_FILE_DIR, record_directory, NULL, NULL},
    {S_IFCHR, NULL, NULL, FMT_FILE_CHR, record_device, NULL, NULL},
    {S_IFIFO, NULL, NULL, FMT_FILE_PIPE, record_pipe, NULL, NULL},
    {S_IFBLK, NULL, NULL, REFUSED, "device", "a block device"},
    {0, NULL, NULL, REFUSED, "kernel-object", "a kernel object"},
#undef REFUSED
};

// O_PATH is a place, whatever is there.
static const struct file_kind place_kind = {.kind = FMT_FILE_PATH, .record = record_place};

// Below /proc/PID, of whatever type.
static const struct file_kind process_kind = {.kind = FMT_FILE_PROCESS,
                                              .record = intro_record_process_file};

static const struct file_kind *find_kind(const struct intro_opened *o)
{
    const struct file_kind *kind = kinds;

    if (intro_is_process_file(o))
        return &process_kind;
    if (o->rec->flags & KERNEL_O_PATH)
        return &place_kind;
    while ((kind->type && kind->type != (o->mode & S_IFMT)) ||
           (kind->fstype && strcmp(kind->fstype, o->fstype) != 0) ||
           (kind->name && !strstr(o->name, kind->name)))
        kind++;
    return kind;
}

static bool record(struct intro_opened *o, GError **error)
{
    const struct file_kind *kind = find_kind(o);

    o->rec->kind = kind->kind;
    if (kind->refusal)
        intro_refuse(o->c, kind->refusal, "has %s open (%s)", kind->what, o->name);
    return kind->record(o, error);
}

/* ---- what every file has ---- */

// The path, or the name of what has none; an empty string where it was refused.
static char *name_of(struct intro_ctx *c, struct intro_path where, bool *ret_deleted,
                     GError **error)
{
    g_autoptr(GError) local = NULL;
    struct intro_path root;

    if (!intro_root(c, &root, error))
        return NULL;
    char *name = intro_path_str(c->k, where, root, ret_deleted, &local);
    if (name)
        return name;
    if (!g_error_matches(local, INTRO_ERROR, INTRO_ERROR_UNSUPPORTED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    intro_refuse(c, "unreachable-path", "has a file open that cannot be named: %s", local->message);
    *ret_deleted = false;
    return g_strdup("");
}

static char *fstype_of(struct intro_opened *o, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);
    struct gva type = rd_ptr(&r, rd_ptr(&r, o->inode, M_inode_sb), M_sb_type);
    struct gva name = rd_ptr(&r, type, M_fstype_name);
    bool is_shm;

    if (!rd_done(&r, error) || !intro_is_shm(o->c, o->inode, &is_shm, error))
        return NULL;
    return is_shm ? g_strdup(SHMEM) : intro_read_str(o->c->k, name, 64, error);
}

static bool read_file(struct intro_opened *o, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(o->c->k);
    struct intro_path where = {rd_ptr(&r, o->file, M_file_path_mnt),
                               rd_ptr(&r, o->file, M_file_path_dentry)};
    bool deleted = false;

    o->inode = rd_ptr(&r, o->file, M_file_inode);
    o->rec->flags = rd(&r, o->file, M_file_flags) & KERNEL_STATUS_FLAGS;
    o->rec->mode = rd(&r, o->file, M_file_mode) & FMODE_READ_WRITE;
    o->rec->pos = rd(&r, o->file, M_file_pos);
    o->mode = rd(&r, o->inode, M_inode_mode);
    o->dev = rd(&r, o->inode, M_inode_rdev);
    o->nlink = rd(&r, o->inode, M_inode_nlink);
    o->mnt = where.mnt;
    o->dentry = where.dentry;
    if (!rd_done(&r, error))
        return false;

    g_autofree char *fstype = fstype_of(o, error);
    const bool mqueue = fstype && strcmp(fstype, "mqueue") == 0 && S_ISREG(o->mode);
    g_autofree char *name = !fstype  ? NULL
                            : mqueue ? intro_mqueue_name(o->c, where.dentry, &deleted, error)
                                     : name_of(o->c, where, &deleted, error);
    if (!name)
        return false;
    o->fstype = fstype;
    o->name = name;
    o->rec->deleted = deleted;
    intro_later(o->c, intro_file_check_sharing, o->file, o->rec->rec.objref);
    return intro_file_owner(o, error) && record(o, error);
}

uint64_t intro_file(struct intro_ctx *c, struct gva file, GError **error)
{
    uint64_t known = intro_object_ref(c, file);

    if (known)
        return known;

    struct intro_opened o = {.c = c, .file = file};
    o.rec = intro_object_add(c, file, FMT_FILE);
    return read_file(&o, error) ? o.rec->rec.objref : 0;
}

bool intro_file_count(IntroKernel *k, struct gva file, uint64_t *ret, GError **error)
{
    uint64_t count;

    if (!intro_get(k, file, M_file_count, &count, error))
        return false;
    // f_ref holds one less than the number of references.
    *ret = count + (intro_place(k, M_file_count)->alternative == 1);
    return true;
}
