// SPDX-License-Identifier: GPL-2.0-or-later
// Files without a name that have what few have: extended attributes, ACLs, flags of chattr, hints
// about writes, set-user-ID bits; and one that may never get a name.
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "subject.h"

#ifndef F_SET_RW_HINT
#define F_GET_RW_HINT (1024 + 11)
#define F_SET_RW_HINT (1024 + 12)
#endif
#define MTIME 1600000005

static const char big[3000] = "a value of many bytes";

// struct vfs_cap_data: VFS_CAP_REVISION_2, CAP_NET_BIND_SERVICE permitted.
static const uint8_t capability[20] = {0, 0, 0, 2, 0, 4};

// system.posix_acl_access: version 2; rwx for the owner, r-- for user 77, r-x for the group, r-x as
// mask, nothing for others.
static const uint8_t acl[] = {2,    0, 0, 0,                         //
                              1,    0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
                              2,    0, 4, 0, 77,   0,    0,    0,    //
                              4,    0, 5, 0, 0xff, 0xff, 0xff, 0xff, //
                              0x10, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, //
                              0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};

static struct xattr {
    const char *name;
    const void *value;
    size_t size;
    bool maybe; // not on every file system of memory
    bool there;
} xattrs[] = {
    {.name = "trusted.vmgraft", .value = "with a NUL\0in it", .size = 16},
    {.name = "trusted.empty", .value = "", .size = 0},
    {.name = "trusted.big", .value = big, .size = sizeof big},
    {.name = "security.capability", .value = capability, .size = sizeof capability},
    {.name = "system.posix_acl_access", .value = acl, .size = sizeof acl},
    {.name = "user.note", .value = "of a user", .size = 9, .maybe = true}, // 6.6
};
#define N_XATTRS (sizeof xattrs / sizeof xattrs[0])

static struct file {
    const char *name;
    int open_flags;
    mode_t mode;
    int flags;     // of chattr
    uint64_t hint; // RWH_WRITE_LIFE_*
    bool xattrs, keep_name;
    int fd;
    struct stat st;
} files[] = {
    {.name = "attributes", .mode = 06750, .xattrs = true},
    {.name = "plain setuid", .mode = 04755},
    {.name = "immutable", .mode = 0644, .flags = FS_IMMUTABLE_FL | FS_NODUMP_FL},
    {.name = "append", .open_flags = O_APPEND, .mode = 0600, .flags = FS_APPEND_FL},
    {.name = "noatime", .mode = 01666, .flags = FS_NOATIME_FL, .hint = 2},
    {.name = "hint", .mode = 0640, .hint = 5},
    {.name = "hint and name", .mode = 0640, .hint = 3, .keep_name = true},
    {.name = ".", .open_flags = O_TMPFILE | O_EXCL, .mode = 0600},
    {.name = ".", .open_flags = O_TMPFILE, .mode = 0600},
};
#define N_FILES (sizeof files / sizeof files[0])

static int memory;

static bool is_tmpfile(const struct file *f)
{
    return (f->open_flags & O_TMPFILE) == O_TMPFILE;
}

static void set_flags(int fd, int add, int drop)
{
    int flags;

    MUST(ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0);
    flags = (flags | add) & ~drop;
    MUST(ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0);
}

static void make(struct file *f)
{
    const struct timespec times[2] = {{.tv_sec = MTIME, .tv_nsec = 9}, {.tv_sec = MTIME + 1}};
    const int create = is_tmpfile(f) || f->keep_name ? 0 : O_CREAT | O_EXCL;

    MUST((f->fd = open(f->name, O_RDWR | create | f->open_flags, 0600)) >= 0);
    MUST(f->keep_name || (write(f->fd, f->name, strlen(f->name)) > 0 && fchown(f->fd, 5, 6) == 0 &&
                          fchmod(f->fd, f->mode) == 0));
    for (size_t i = 0; f->xattrs && i < N_XATTRS; i++) {
        struct xattr *x = &xattrs[i];

        x->there = fsetxattr(f->fd, x->name, x->value, x->size, 0) == 0;
        MUST(x->there || (x->maybe && errno == EOPNOTSUPP));
    }
    MUST(f->keep_name || futimens(f->fd, times) == 0);
    MUST(!f->hint || fcntl(f->fd, F_SET_RW_HINT, &f->hint) == 0);
    MUST(is_tmpfile(f) || f->keep_name || unlink(f->name) == 0);
    if (f->flags)
        set_flags(f->fd, f->flags, 0);
    MUST(fstat(f->fd, &f->st) == 0);
}

static void prepare(void)
{
    int fd;

    MUST(chdir(subject.workdir) == 0);
    MUST((fd = open("hint and name", O_WRONLY | O_CREAT | O_EXCL, 0640)) >= 0 && close(fd) == 0);
}

static void check_xattrs(int fd)
{
    char value[sizeof big + 1], names[512];
    size_t want = 0;

    for (size_t i = 0; i < N_XATTRS; i++) {
        const struct xattr *x = &xattrs[i];

        if (!x->there)
            continue;
        want += strlen(x->name) + 1;
        const ssize_t n = fgetxattr(fd, x->name, value, sizeof value);
        CHECK(n == (ssize_t)x->size && memcmp(value, x->value, x->size) == 0, "%s: %zd: %m",
              x->name, n);
    }
    const ssize_t n = flistxattr(fd, names, sizeof names);
    CHECK(n == (ssize_t)want, "the names have %zd bytes, not %zu: %m", n, want);
}

static void check(const struct file *f)
{
    uint64_t hint = 99;
    struct stat st;
    char path[64];
    int flags;

    MUST(fstat(f->fd, &st) == 0);
    CHECK(st.st_mode == f->st.st_mode && st.st_uid == f->st.st_uid && st.st_gid == f->st.st_gid &&
              st.st_nlink == f->st.st_nlink && st.st_size == f->st.st_size,
          "%s: mode %o, owner %u:%u", f->name, st.st_mode, st.st_uid, st.st_gid);
    CHECK(f->keep_name || (st.st_mtim.tv_sec == f->st.st_mtim.tv_sec &&
                           st.st_atim.tv_sec == f->st.st_atim.tv_sec &&
                           st.st_atim.tv_nsec == f->st.st_atim.tv_nsec),
          "%s: times %ld, %ld", f->name, st.st_mtim.tv_sec, st.st_atim.tv_sec);
    CHECK(fcntl(f->fd, F_GET_RW_HINT, &hint) == 0 && hint == f->hint, "%s: hint %lu: %m", f->name,
          (unsigned long)hint);
    CHECK(ioctl(f->fd, FS_IOC_GETFLAGS, &flags) == 0 &&
              (flags & (FS_IMMUTABLE_FL | FS_NODUMP_FL | FS_APPEND_FL | FS_NOATIME_FL)) == f->flags,
          "%s: flags %#x: %m", f->name, flags);
    snprintf(path, sizeof path, "/proc/self/fd/%d", f->fd);
    if (f->flags & (FS_IMMUTABLE_FL | FS_APPEND_FL))
        CHECK(open(path, O_WRONLY) < 0 && errno == EPERM, "%s: can be written: %m", f->name);
    if (f->xattrs)
        check_xattrs(f->fd);
    else
        CHECK(flistxattr(f->fd, NULL, 0) == 0, "%s: has attributes", f->name);
}

// At the end, as it leaves a name.
static void check_links(const struct file *f)
{
    const bool can = is_tmpfile(f) && !(f->open_flags & O_EXCL);
    char from[64], to[64];

    snprintf(from, sizeof from, "/proc/self/fd/%d", f->fd);
    snprintf(to, sizeof to, "%s/linked", subject.workdir);
    const bool linked = linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) == 0;

    CHECK(linked == can && (linked || errno == ENOENT || errno == EPERM), "%s: linkat: %m",
          f->name);
    if (linked)
        MUST(unlink(to) == 0);
}

int main(int argc, char **argv)
{
    char value[32];

    subject_begin(argc, argv);
    if (subject.prepare) {
        prepare();
        return 0;
    }
    MUST(chdir(subject.workdir) == 0);
    for (size_t i = 0; i < N_FILES; i++)
        make(&files[i]);
    MUST((memory = memfd_create("memory", MFD_ALLOW_SEALING)) >= 0);
    MUST(fsetxattr(memory, "trusted.memory", "of a memfd", 10, 0) == 0);
    MUST(fcntl(memory, F_SET_RW_HINT, &(uint64_t){4}) == 0 &&
         fcntl(memory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE) == 0);
    subject_ready();
    if (subject.sabotage)
        MUST(fsetxattr(files[0].fd, "trusted.empty", "!", 1, 0) == 0);
    do {
        uint64_t hint;

        for (size_t i = 0; i < N_FILES; i++)
            check(&files[i]);
        CHECK(fgetxattr(memory, "trusted.memory", value, sizeof value) == 10 &&
                  memcmp(value, "of a memfd", 10) == 0,
              "the memfd's attribute: %m");
        CHECK(fcntl(memory, F_GET_RW_HINT, &hint) == 0 && hint == 4, "the memfd's hint: %m");
    } while (!subject_asked());
    for (size_t i = 0; i < N_FILES; i++)
        if (!files[i].keep_name)
            check_links(&files[i]);
    // They can be changed as before.
    set_flags(files[2].fd, 0, FS_IMMUTABLE_FL);
    MUST(write(files[2].fd, "x", 1) == 1 && fremovexattr(files[0].fd, "trusted.empty") == 0);
    subject_pass();
}
