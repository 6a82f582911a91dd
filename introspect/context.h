// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: what the parts of one take share. Not included outside of introspect/.
#pragma once

#include "introspect/capture.h"

struct intro_timers;
struct intro_pages;
struct intro_cow;
struct intro_swap;
struct intro_clock;

/*
 * One take. Each kind of kernel object has its file, whose entry point reads one object at an
 * address into one record and returns its objref. Shared objects are found again by address: the
 * object hash.
 *
 * Entry points return false or 0 with an error; INTRO_ERROR_BUSY makes the take a RETRY, as do
 * CORRUPT and FAULT until the caller's deadline: a structure may be read in the middle of its
 * change. What is well read but cannot go along is not an error: intro_refuse() notes it and the
 * walk goes on to find the others.
 */
struct intro_ctx {
    IntroKernel *k;
    FmtImage *img;
    const struct intro_capture_options *opt;
    GPtrArray *refusals;         // struct intro_refusal; owned by the caller of take
    GHashTable *objects;         // kernel address -> objref
    struct intro_pages *pages;   // what is to be copied
    struct intro_cow *cow;       // pages that may be shared; NULL where there is one process
    struct intro_timers *timers; // sleepers by task
    const struct intro_clock *clock;
    GArray *vcpus;
    struct gva root_task;
    GArray *sockets;         // of struct intro_sock (socket.h): those found so far; NULL for none
    GArray *later;           // struct intro_later; NULL for none
    GArray *partial;         // files that are to be completed from a disk (disk.c); NULL for none
    GArray *programs;        // what of files is mapped (program.c); NULL for none
    struct intro_swap *swap; // swapped pages (swap.c); NULL for none
    GHashTable *holders;     // intro_outside_holders(), made when first needed; owned
    unsigned n_openers;      // threads that wait for the other end of a FIFO that they open
    GError *busy;            // the first thread that was not at a safe point; owned
    bool passing;            // some thread within a call holds what nobody has for long
    bool hurry;              // nothing was refused before: the first who is busy ends the walk
    uint64_t cpu_ns;         // CPU time that the processes of the tree have had
    uint64_t pid;            // process that is being read, for messages
    int64_t fd;              // descriptor that is being read, -1 for none
};

// The objref of the record made for the kernel object at `at`, 0 if there is none yet.
uint64_t intro_object_ref(const struct intro_ctx *c, struct gva at);
// Adds a record for the kernel object at `at` and remembers it.
void *intro_object_add(struct intro_ctx *c, struct gva at, enum fmt_type type);

// What refers to files or processes that may be read only later: calls fn(at, ref) once the whole
// tree has been read, with the pid and fd of now for messages.
typedef bool (*intro_later_fn)(struct intro_ctx *c, struct gva at, uint64_t ref, GError **error);
void intro_later(struct intro_ctx *c, intro_later_fn fn, struct gva at, uint64_t ref);
bool intro_later_run(struct intro_ctx *c, GError **error);

// Notes that something cannot go along; pid and fd are the context's; kind is one of
// formats/refusals.def. Returns true where --forensic or --allow lets it pass (it becomes a NOTE):
// the caller then records what the table says of the loss, or what it has.
bool intro_refuse(struct intro_ctx *c, const char *kind, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
void intro_note(struct intro_ctx *c, enum fmt_note_level level, const char *kind,
                const char *format, ...) G_GNUC_PRINTF(4, 5);

/* ---- pages: what is copied while paused (pages.c) ---- */

// Wants size_bytes of guest memory at `from` as the pages of `owner` from `start` on. Adjacent ones
// are merged, unless parted.
void intro_pages_part(struct intro_pages *p); // at each new mapping: no extent crosses its bounds
void intro_pages_want(struct intro_pages *p, uint64_t owner, uint64_t start, struct gpa from,
                      uint64_t size_bytes, enum fmt_pages_kind kind);

// The copy is to hold `data` at this place instead of what the guest has (a timeout of which a part
// has passed). Takes effect when the pages are finished; bytes that are not copied are passed over.
void intro_pages_patch(struct intro_pages *p, uint64_t owner, uint64_t start, const void *data,
                       size_t size_bytes);

// Pages that are not in the guest's memory; `contents` is whole pages, and taken over.
void intro_pages_give(struct intro_pages *p, uint64_t owner, uint64_t start, GBytes *contents,
                      enum fmt_pages_kind kind);

// A struct path: a place in the tree of mounts.
struct intro_path {
    struct gva mnt;    // struct vfsmount
    struct gva dentry; // struct dentry
};

/* ---- the object kinds; each returns an objref, 0 with error ---- */

uint64_t intro_file(struct intro_ctx *c, struct gva file, GError **error); // file.c: struct file
uint64_t intro_inode(struct intro_ctx *c, struct gva inode,
                     GError **error); // inode.c: struct inode
uint64_t intro_pipe(struct intro_ctx *c, struct gva inode,
                    GError **error); // pipe.c: pipe_inode_info
uint64_t intro_files(struct intro_ctx *c, struct gva files, GError **error); // fd.c: files_struct
uint64_t intro_fs(struct intro_ctx *c, struct gva fs, GError **error);       // fs.c: fs_struct
uint64_t intro_shm(struct intro_ctx *c, struct gva inode, GError **error);   // shm.c: shmem inode

// cgroup.c: where the process is in the hierarchy of version 2, and a thread where it is in
// another; notes on others.
bool intro_cgroup(struct intro_ctx *c, struct gva leader, struct fmt_proc *proc, GError **error);
bool intro_thread_cgroup(struct intro_ctx *c, struct gva task, const struct fmt_proc *proc,
                         struct fmt_task *rec, GError **error);

// seccomp.c: the mode and the filters of a thread.
bool intro_seccomp(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error);

// Whether the inode is memory that no path leads to, a SHM rather than an INODE.
bool intro_is_shm(struct intro_ctx *c, struct gva inode, bool *ret, GError **error);

// The directory that paths in the image begin at: the top of the mount tree that the tree's root is
// in, whatever it has called chroot for (fs.c).
bool intro_root(struct intro_ctx *c, struct intro_path *ret, GError **error);

// To be called when all descriptor tables and address spaces of the tree have been read: refuse
// pipes and shared memory that somebody outside of the tree uses as well, and say who.
bool intro_pipe_check_peers(struct intro_ctx *c, GError **error);
bool intro_shm_check_peers(struct intro_ctx *c, GError **error);

// To be called when all descriptor tables have been read, and before the checks above: reads what
// waits in unix sockets, with the files in flight, and finds their peers. The check refuses sockets
// that lead out of the tree.
bool intro_unix_finish(struct intro_ctx *c, GError **error);
bool intro_unix_check_peers(struct intro_ctx *c, GError **error);

// pagecache.c: wants every page cache page of the inode in [start, end) (byte offsets) for `owner`.
// CLEAN pages of files; DATA for SHM. Refuses swapped-out entries that cannot be had.
bool intro_pagecache(struct intro_ctx *c, struct gva inode, uint64_t owner, uint64_t start,
                     uint64_t end, enum fmt_pages_kind kind, GError **error);
// Reads page `index` of the inode from the page cache; *ret_there is false where it is not there.
bool intro_pagecache_read(IntroKernel *k, struct gva inode, uint64_t index,
                          uint8_t ret[VMM_PAGE_BYTES], bool *ret_there, GError **error);

// The same; what is there may lack parts that are being read, or that are older than the disk's.
enum intro_cached { INTRO_CACHED_NOT, INTRO_CACHED_PARTLY, INTRO_CACHED };
bool intro_pagecache_look(IntroKernel *k, struct gva inode, uint64_t index,
                          uint8_t ret[VMM_PAGE_BYTES], enum intro_cached *ret_cached,
                          GError **error);

// *ret_whole: whether nothing of the inode's [0, size) is elsewhere than in the page cache. Of a
// file system in memory (`in_memory`) what has no page is zeros, and swapped pages count as there
// if they can be had; of others it is on a disk.
bool intro_pagecache_is_whole(struct intro_ctx *c, struct gva inode, bool in_memory,
                              bool *ret_whole, GError **error);

// The pages of [first, end) that the page cache does not have: appends the first and the end of
// each range of them, as uint64_t, in order. BUSY where one is being read or written.
bool intro_pagecache_missing(IntroKernel *k, struct gva inode, uint64_t first, uint64_t end,
                             GArray *ranges, GError **error);

// What fallocate() has set aside for a file in memory, behind its end too, and nobody has written
// to: u64 start and end of each range, as the image has it. *ret is NULL for none.
bool intro_pagecache_reserved(IntroKernel *k, struct gva inode, GBytes **ret, GError **error);

// path.c: the path of (vfsmount, dentry) below root (vfsmount, dentry), as d_path would give it;
// *ret_deleted where it is unlinked. NULL with error; unreachable paths are
// INTRO_ERROR_UNSUPPORTED.
char *intro_path_str(IntroKernel *k, struct intro_path path, struct intro_path root,
                     bool *ret_deleted, GError **error);

// A path through the mount `mnt` that leads to the inode now, whatever it was opened by;
// INTRO_ERROR_UNSUPPORTED where the guest has none in memory.
char *intro_inode_path(IntroKernel *k, struct gva inode, struct gva mnt, struct intro_path root,
                       GError **error);

// way.c: records the directories above a place that has a path, for a target that lacks them.
bool intro_way(struct intro_ctx *c, struct intro_path place, GError **error);

// The last component of a dentry's path.
char *intro_dentry_name(IntroKernel *k, struct gva dentry, GError **error);

/* ---- locks (lock.c): BUSY where held; `what` names the structure that it guards ---- */

bool intro_check_spinlock(IntroKernel *k, struct gva lock, const char *what, GError **error);
bool intro_check_mutex(IntroKernel *k, struct gva lock, const char *what, GError **error);
// Held by a writer: for mmap_lock and the like, where readers change nothing.
bool intro_check_rwsem_write(IntroKernel *k, struct gva lock, const char *what, GError **error);

/* ---- generic kernel containers (walk.c) ---- */

// Walks a circular list_head, bounded and remembering; calls fn with each node (the embedded
// list_head).
typedef bool (*intro_node_fn)(struct gva node, void *user, GError **error);
bool intro_walk_list(IntroKernel *k, struct gva head, size_t max, intro_node_fn fn, void *user,
                     GError **error);
// The same for an hlist, from its head.
bool intro_walk_hlist(IntroKernel *k, struct gva head, size_t max, intro_node_fn fn, void *user,
                      GError **error);
// Walks a red-black tree in order from its rb_node (0: empty).
bool intro_walk_rbtree(IntroKernel *k, struct gva root_node, size_t max, intro_node_fn fn,
                       void *user, GError **error);
// Walks the entries of an xarray (struct xarray at xa) with first <= index <= last; multi-index
// entries are given once for each of their first index; value entries have bit 0 set.
typedef bool (*intro_xa_fn)(uint64_t index, unsigned order, uint64_t entry, void *user,
                            GError **error);
bool intro_walk_xarray(IntroKernel *k, struct gva xa, uint64_t first, uint64_t last, intro_xa_fn fn,
                       void *user, GError **error);
