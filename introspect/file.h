// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: what the parts that read open files share.
#pragma once

#include "introspect/context.h"

// The file that is being read; strings are borrowed.
struct intro_opened {
    struct intro_ctx *c;
    struct gva file, inode;
    struct gva mnt; // struct vfsmount that it was opened through
    struct gva dentry;
    uint64_t mode; // st_mode
    uint64_t dev;  // the kernel's dev_t of a device
    uint64_t nlink;
    const char *fstype;
    const char *name; // path, or what /proc would show
    struct fmt_file *rec;
};

// The number of references that hold a struct file open (f_count).
bool intro_file_count(IntroKernel *k, struct gva file, uint64_t *ret, GError **error);

// fown.c: whom it tells what; refuses dnotify.
bool intro_file_owner(struct intro_opened *o, GError **error);
// When the whole tree has been read: refuses owners outside of it.
void intro_file_check_owners(struct intro_ctx *c);

// regular.c: the INODE of a file that has been recorded gets what the target needs to have the file
// where it cannot be found there by its path: contents, or another path.
bool intro_file_deleted(struct intro_opened *o, struct fmt_inode *inode, GError **error);
// Whether such a file system is memory: what of its files has no page is zeros.
bool intro_file_is_in_memory(const char *fstype);
bool intro_file_carry(struct intro_opened *o, struct fmt_inode *inode, GError **error);

// attributes.c: what the inode has besides, as a record of `owner`, where it has anything. `whole`:
// the file itself goes along, with all that it has; of others only what open files know of.
bool intro_attributes(struct intro_ctx *c, struct gva inode, uint64_t owner, bool whole,
                      const char *name, GError **error);
// The same for an open file.
bool intro_file_attributes(struct intro_opened *o, bool whole, GError **error);

// disk.c: a file that is to be carried (its contents are PARTLY as yet) and is not all in memory is
// completed from the guest's disks, where that is asked for and they can be read; to be called when
// nothing else of the take is to be done. What cannot be had is noted.
void intro_disk_later(struct intro_opened *o, const struct fmt_inode *inode);
void intro_disk_complete(struct intro_ctx *c);

// Whether files of such a file system can be read from a disk: it has a journal, and it was tried.
bool intro_disk_knows(const char *fstype);
// What the disk should say of a file, but for its gaps. *ret_path is ret->path, to be freed.
bool intro_disk_describe(IntroKernel *k, struct gva inode, struct gva dentry,
                         struct intro_disk_file *ret, char **ret_path, GError **error);

// program.c: bytes [start, end) of a file, whose INODE is `ref`, are mapped. Of files that are so
// for execution the pages that memory lacks are taken from the disks, where that is asked for, and
// what of them cannot be had is noted. The second is part of intro_disk_complete().
bool intro_program_mapped(struct intro_ctx *c, struct gva file, uint64_t ref, uint64_t start,
                          uint64_t end, bool is_executable, GError **error);
void intro_program_complete(struct intro_ctx *c);

// directory.c: which names a directory that is being read has yet to give.
bool intro_directory_position(struct intro_opened *o, const struct fmt_inode *inode,
                              GError **error);

// sharing.c: once the whole tree has been read, whether somebody outside of it has the same open
// file.
bool intro_file_check_sharing(struct intro_ctx *c, struct gva file, uint64_t ref, GError **error);

// procfile.c: files below /proc/PID.
bool intro_is_process_file(const struct intro_opened *o);
bool intro_record_process_file(struct intro_opened *o, GError **error);

// pipe.c: whether the reader of a FIFO has yet to see a writer.
bool intro_fifo_waits(struct intro_opened *o, GError **error);

// Kinds of files that no path leads to; each makes the record of its object.
bool intro_record_eventfd(struct intro_opened *o, GError **error);  // eventfd.c
bool intro_record_signalfd(struct intro_opened *o, GError **error); // signalfd.c
bool intro_record_timerfd(struct intro_opened *o, GError **error);  // timerfd.c
bool intro_record_epoll(struct intro_opened *o, GError **error);    // epoll.c
bool intro_record_inotify(struct intro_opened *o, GError **error);  // inotify.c
bool intro_record_pidfd(struct intro_opened *o, GError **error);    // pidfd.c
