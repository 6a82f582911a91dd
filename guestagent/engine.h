// SPDX-License-Identifier: GPL-2.0-or-later
// What the parts of the restore engine share. Not for users of the engine: they want restore.h.
#pragma once

#include <linux/time_types.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/user.h>

#include "guestagent/remote.h"
#include "guestagent/restore.h"

typedef struct AgentProc AgentProc;
typedef struct AgentTask AgentTask;

// A thread of the image, and the one that becomes it.
struct AgentTask {
    struct agent_tracee tracee; // tid 0: not created yet
    AgentProc *proc;
    const struct fmt_task *rec;
    uint64_t detour;  // the code by which it enters its call (detour.c), 0 for none
    bool starts_over; // the call that rec->restart tells of begins anew instead
    bool born;        // in the plan of births
    bool armed;       // a restart block holds the rest of a timeout
    int64_t restart;  // what the call returned that left it
    bool asleep;      // it has been let into its call and sleeps there
    int stop;         // a signal that has stopped it on its way there, 0 for none
};

// A process of the image, and the one that becomes it.
struct AgentProc {
    AgentRestore *r;
    const struct fmt_proc *rec;
    const struct fmt_mm *mm; // NULL for a zombie
    AgentProc *parent;       // NULL for the root
    AgentTask *parent_task;  // the thread of it
    GPtrArray *children;     // of AgentProc; borrowed
    GPtrArray *tasks;        // of AgentTask, the leader first; owned
    GPtrArray *vmas;         // of struct fmt_vma, by address; borrowed
    struct agent_site site;
    uint64_t sid, pgid;      // in the image's numbering; what they can be here
    uint64_t park;           // start of the range that holds vdso and scratch until the end
    bool ia32, stub;         // it is a 32-bit address space; it executed a stub (stub.c)
    bool no_thp;             // it is to have no transparent huge pages at the moment
    struct agent_vdso *here; // the running kernel's, as the process got it; owned
    uint64_t vdso;           // where that is in this process now
    GByteArray *old_vdso;    // the captured one, as its pages come in
    int mem;                 // /proc/PID/mem, -1 for none
    int late_exe;            // its descriptor of the program, which is set at the end; -1 for none
    uint64_t tty_pgid;       // foreground group of the terminal of the session that it leads
    // Of the plan of births: the session to be born in (0: any), the one that it is in, and whether
    // its children have had their turn.
    uint64_t birth_session, session;
    bool grown;
};

// One open file description of the image, held open by the agent until the processes have it.
struct agent_file {
    const struct fmt_file *rec;
    int fd;    // -1: not open
    bool late; // the processes were there before it and have not inherited it
};

struct AgentRestore {
    FmtImage *img;
    struct agent_restore_options opt;
    GPtrArray *refusals, *notes; // borrowed; refusals is NULL after the plan
    GPtrArray *procs;            // of AgentProc, parents first; owned
    GPtrArray *temps;            // of AgentProc: leaders of sessions and groups for a while; owned
    GArray *steps;               // of struct agent_step: how the tree comes to be
    GHashTable *files;           // objref -> struct agent_file; owned
    GHashTable *objects;         // objref of PIPE, SHM, INODE -> what their module keeps; owned
    int fd_base;                 // descriptors of the image are below, those of the agent above
    GArray *fds;                 // of int: all that the engine has open
    int aside;                   // aside.c: a mount, -1 where there is none; 0
    int own_pidfd;               // of the agent: by it processes take what they did not inherit; 0
    uint64_t saved_nofile[2];    // RLIMIT_NOFILE of the agent before: soft, hard
    pid_t helper;                // what the root was cloned from, 0 when it is gone
    struct agent_tracee reaper;  // pid 1 of a new pid namespace, tid 0 for none
    struct agent_tracee trunk;   // helper or reaper: what the root is cloned from
    struct agent_site own_site;  // where children of the agent can be driven before they have
                                 // memory of their own
    void *own_scratch;
    int stub[2];            // programs of 64 and 32 bits that the processes execute
    bool timens;            // the processes are in a time namespace of their own
    int64_t mono_offset_ns; // what it adds to the clocks of the initial one
    int64_t boot_offset_ns;
    GPtrArray *created; // of char *: new files of this machine, and their directories
    GPtrArray *ways; // of struct fmt_directory, borrowed: those to be made (way.c); NULL for none
    GArray *undo;    // of struct agent_undo: changes to files of this machine
    struct agent_ipc *ipc;         // ipc.c: what it made and left
    struct agent_sockets *sockets; // socket.c; NULL where the image has none
    struct agent_cow *cow;         // cow.c; NULL where the image has none
    bool born;                     // there are processes
    GPtrArray *makers;             // maker.c; NULL for none
};

// Addresses.
struct agent_range {
    uint64_t start, end;
};

// range.c: the largest range from `from` on that lies before one of `used` (of struct agent_range,
// which this sorts) and in none; an empty one where there is none.
struct agent_range agent_range_largest_gap(GArray *used, uint64_t from);

// Contents of a file of this machine before we wrote to it.
struct agent_undo {
    uint64_t file; // objref of a FILE that has it open
    uint64_t offset;
    GBytes *before;
};

// Plan: refuse and note. pid 0 and fd -1 where they do not apply.
void agent_refuse(AgentRestore *r, const char *kind, uint64_t pid, int64_t fd, const char *format,
                  ...) G_GNUC_PRINTF(5, 6);
void agent_note(AgentRestore *r, const char *kind, uint64_t pid, int64_t fd, const char *format,
                ...) G_GNUC_PRINTF(5, 6);
// Of a FILE: names the first process that has it, and its descriptor.
void agent_refuse_file(AgentRestore *r, const char *kind, uint64_t objref, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
void agent_note_file(AgentRestore *r, const char *kind, uint64_t objref, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

// Sets an AGENT_ERROR_FAILED from errno.
bool agent_fail_errno(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
bool agent_fail(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

// It goes on with what is left of a timeout.
static inline bool agent_is_restarted(const AgentTask *t)
{
    return t->rec->restart != FMT_RESTART_NONE && t->rec->restart != FMT_RESTART_ENTER &&
           t->rec->restart != FMT_RESTART_MOVED && !t->starts_over;
}

static inline AgentTask *agent_leader(const AgentProc *p)
{
    return g_ptr_array_index(p->tasks, 0);
}

// A leader that ended before the other threads: it is there until the process settles.
static inline bool agent_has_ended(const AgentTask *t)
{
    return t->rec->state == FMT_TASK_ENDED;
}

// What threads may share with each other and with other processes.
static inline uint64_t agent_task_files(const AgentTask *t)
{
    return t->rec->files;
}
static inline uint64_t agent_task_fs(const AgentTask *t)
{
    return t->rec->fs;
}
// Whether no thread before this one refers to the same object.
bool agent_has_it_first(const AgentTask *t, uint64_t (*object)(const AgentTask *t));

/*
 * One aspect of a process, each in the file of its name. Any member may be NULL. `plan` looks at
 * the whole image. The others run in the order of the table in restore.c, for each process and for
 * each of its threads, with everything stopped.
 */
struct agent_aspect {
    const char *name;
    bool per_mm; // build and finish are for the address space: by the first process that has it
    void (*plan)(AgentRestore *r);
    bool (*build)(AgentProc *p, GError **error);       // once its parents are built
    bool (*finish)(AgentProc *p, GError **error);      // after the contents
    bool (*finish_task)(AgentTask *t, GError **error); // per thread, after all finish()
};

extern const struct agent_aspect agent_aspect_mm, agent_aspect_vdso, agent_aspect_fd,
    agent_aspect_fs, agent_aspect_cred, agent_aspect_signal, agent_aspect_thread,
    agent_aspect_sched, agent_aspect_limit, agent_aspect_regs, agent_aspect_exe, agent_aspect_timer,
    agent_aspect_after_cred, agent_aspect_posix_timer, agent_aspect_segments, agent_aspect_ia32,
    agent_aspect_seccomp, agent_aspect_opening, agent_aspect_prctl, agent_aspect_cgroup,
    agent_aspect_flock, agent_aspect_fown;

// What a kind of file does after all files have been opened, for those that refer to others.
enum agent_file_stage {
    AGENT_FILE_CONNECT, // all files are open in the agent, and there is no process yet
    AGENT_FILE_LATE,    // processes and their address spaces are there, with descriptors of ours
    AGENT_FILE_ATTACH,  // all processes and threads are there, still with the agent's privileges
    AGENT_FILE_ARM,     // last of all: contents, signals and timers are there, registers are not
    AGENT_N_FILE_STAGES,
};
typedef bool (*agent_file_fn)(AgentRestore *r, const struct fmt_file *f, GError **error);

/*
 * One kind of open file. `plan` checks one description; `open` returns a descriptor of the agent
 * or -1; NULL where a later stage does that. `later` has what is to be done in later stages, NULL
 * for nothing; at each of them the kinds come in the order of file.c's table. A new kind is a file
 * with such a row and a line there.
 */
struct agent_file_kind {
    enum fmt_file_kind kind;
    const char *name;
    void (*plan)(AgentRestore *r, const struct fmt_file *f);
    int (*open)(AgentRestore *r, const struct fmt_file *f, GError **error);
    agent_file_fn later[AGENT_N_FILE_STAGES];
    // Makes a file that has nothing to read or to be written ready for poll(), and takes that back,
    // so that it is as it was. NULL where that cannot be done, or is never needed.
    bool (*stir)(AgentRestore *r, const struct fmt_file *f, bool on, GError **error);
};
extern const struct agent_file_kind agent_file_reg, agent_file_dir, agent_file_chr, agent_file_pipe,
    agent_file_memfd, agent_file_place, agent_file_mqueue, agent_file_socket;
extern const struct agent_file_kind agent_file_eventfd, agent_file_signalfd, agent_file_timerfd,
    agent_file_epoll, agent_file_inotify, agent_file_pidfd, agent_file_process, agent_file_lost,
    agent_file_tty;

// socket.c
void agent_sockets_plan(AgentRestore *r);
// Takes away what only the restore needed, and unless all is `kept` their names as well.
void agent_sockets_end(AgentRestore *r, bool kept);
void agent_sockets_free(struct agent_sockets *sockets); // NULL-safe

// exe.c: the descriptors that a table keeps until the end, beyond those of the image: of int,
// upwards, perhaps more than once.
GArray *agent_exe_kept(AgentRestore *r, uint64_t files);

// file.c
void agent_files_plan(AgentRestore *r);
bool agent_files_open(AgentRestore *r, GError **error);
bool agent_files_stage(AgentRestore *r, enum agent_file_stage stage, GError **error);
void agent_files_close(AgentRestore *r);
// The agent's descriptor of a FILE record, -1 where it has none.
int agent_file_fd(AgentRestore *r, uint64_t objref);
// Moves a descriptor above all that the image uses and notes it to be closed at the end. For -1
// it reports errno. On failure it closes it and returns -1.
int agent_fd_up(AgentRestore *r, int fd, GError **error);
// Says what the agent's descriptor of a FILE record is, for kinds that are opened together.
void agent_file_set_fd(AgentRestore *r, uint64_t objref, int fd);
// Likewise for one that was made in the stage AGENT_FILE_LATE; false for -1 with the error of that.
bool agent_file_late(AgentRestore *r, const struct fmt_file *f, int fd, GError **error);
// Whether a descriptor of ours is to be fetched by a process, which has not inherited it.
bool agent_file_is_late(AgentRestore *r, uint64_t objref);
// Opens what a descriptor of ours refers to once more, with other flags. -1 on failure.
int agent_reopen(AgentRestore *r, int fd, int flags, GError **error);
// The row of a kind, NULL where there is none.
const struct agent_file_kind *agent_file_kind(uint64_t kind);
// Gives a descriptor that has just been made the status flags of the file.
bool agent_fd_status(int fd, const struct fmt_file *f, GError **error);
// The first process and descriptor that refer to a FILE record, for messages.
void agent_file_user(AgentRestore *r, uint64_t objref, uint64_t *ret_pid, int64_t *ret_fd);
// Closes a descriptor of ours before the end.
void agent_fd_close(AgentRestore *r, int fd);
// Flags that open() takes as they were; the others had their effect on the source, or are set by
// fcntl.
#define AGENT_OPEN_FLAGS                                                                           \
    (O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT | O_LARGEFILE | O_DIRECTORY |             \
     O_NOFOLLOW | O_NOATIME | O_PATH)

/* ---- what the target lacks (deleted.c) ---- */

// A name to make something under that will not keep it, with directories above it that are missing.
struct agent_name {
    char *path;
    GPtrArray *parents; // of char *: directories made for it
};
bool agent_name_take(AgentRestore *r, const char *path, struct agent_name *ret, GError **error);
void agent_name_drop(struct agent_name *name); // also removes the directories
// Whether it can be made at all; false with errno.
bool agent_name_is_possible(const char *path, struct stat *ret_above);
// aside.c: the name of a path where no other file has it, NULL where that cannot be had. To be left
// when all that is made there is open.
char *agent_aside_path(AgentRestore *r, const char *path);
void agent_aside_leave(AgentRestore *r);
// Whether nothing has it, and the directory that it is to be in is there or will be.
bool agent_name_is_free(AgentRestore *r, const char *path);
// way.c: whether the directory is there, or can be made as the image has it: then it will be.
bool agent_way_plan(AgentRestore *r, const char *dir);
bool agent_way_make(AgentRestore *r, GError **error); // agent_inodes_undo() removes them again
// The lowest directory above a path that is there.
char *agent_existing_ancestor(const char *path);
void agent_deleted_plan(AgentRestore *r, const struct fmt_file *f);
int agent_deleted_open(AgentRestore *r, const struct fmt_file *f, GError **error);
// Makes all deleted directories, open and as working directories, and opens them. They have names
// until they are dropped; NULL on failure, without any.
GPtrArray *agent_deleted_directories(AgentRestore *r, GError **error);
void agent_deleted_directories_drop(GPtrArray *made); // NULL-safe; takes it
// A descriptor to write a file that was made by us, -1 for files of this machine. Of a directory
// that we made: its place.
int agent_inode_fd(AgentRestore *r, uint64_t objref);
// A file that came along (FMT_CONTENTS_CARRIED) gets this name where nothing has it. Names made so
// are removed again when the restore fails.
bool agent_inode_make(AgentRestore *r, const struct fmt_inode *inode, const char *path,
                      GError **error);
// Gives a new file size, owner and permissions of the image.
bool agent_inode_dress(int fd, const struct fmt_inode *inode, GError **error);
// Sets aside what fallocate() had set aside; `reserved` is the field of the image.
bool agent_file_reserve(int fd, GBytes *reserved, GError **error);
// As utimensat takes them.
void agent_times(int64_t atime_ns, int64_t mtime_ns, struct timespec ret[2]);
// Contents are there: gives new files their times and closes the descriptors above.
bool agent_inodes_finish(AgentRestore *r, GError **error);
// Removes new files that have a name.
void agent_inodes_undo(AgentRestore *r);

// attributes.c: what an INODE or SHM has besides, NULL for nothing.
const struct fmt_attributes *agent_attributes(const AgentRestore *r, uint64_t owner);
// Whether this machine's file systems take it.
void agent_attributes_plan(AgentRestore *r);
// To a new file that has its contents and times; `has` may be NULL.
bool agent_attributes_give(int fd, const struct fmt_attributes *has, GError **error);
// So that a new file can be removed again.
void agent_attributes_take_back(const char *path);
// Hints about writes, while files are open.
bool agent_attributes_hint(AgentRestore *r, GError **error);

// directory.c: whether the directory at `path` can be read on from where the image has it, and
// that.
void agent_directory_plan(AgentRestore *r, const struct fmt_file *f, const char *path);
bool agent_directory_seek(const struct fmt_file *f, int fd, GError **error);

// shm.c: descriptor of a SHM, -1 on failure; all of them are open once agent_shm_open() is through.
int agent_shm_fd(AgentRestore *r, uint64_t objref, GError **error);
void agent_shm_plan(AgentRestore *r);
// The size of a huge page as mmap, memfd_create and shmget take it.
unsigned agent_huge_bits(const struct fmt_shm *shm);
bool agent_shm_open(AgentRestore *r, GError **error);
bool agent_shm_seal(AgentRestore *r, GError **error);
// A descriptor that gives a mapping the rights it had, -1 on failure.
int agent_shm_map_fd(AgentRestore *r, const struct fmt_vma *vma, GError **error);
// The same of pages that are there, and zero.
bool agent_shm_zero(AgentRestore *r, uint64_t objref, uint64_t offset, uint64_t size,
                    GError **error);
bool agent_shm_write(AgentRestore *r, uint64_t objref, uint64_t offset, const void *data,
                     uint64_t size, GError **error);

// pipe.c: closes the ends that were kept for processes to come.
void agent_pipes_finish(AgentRestore *r);

// ipc.c: objects of System V IPC
void agent_ipc_plan(AgentRestore *r);
bool agent_ipc_make(AgentRestore *r, GError **error); // once there are processes, not yet built
bool agent_ipc_fill(AgentRestore *r, GError **error); // while they have all privileges
void agent_ipc_undo(AgentRestore *r);
void agent_ipc_free(struct agent_ipc *ipc); // NULL-safe
// sysvshm.c: mappings that attach a segment, and a descriptor of its memory (-1 with errno)
bool agent_ipc_is_segment(AgentRestore *r, const struct fmt_vma *vma);
bool agent_ipc_attach(AgentProc *p, const struct fmt_vma *vma, GError **error);
int agent_ipc_shm_open(AgentRestore *r, uint64_t shm);
// Whether the segment stays behind (agent_ipc_is_left), and its contents with it.
bool agent_ipc_shm_is_left(AgentRestore *r, uint64_t shm);
// mqueue.c: notifications, and names that were unlinked
bool agent_mqueue_finish(AgentRestore *r, GError **error);
void agent_mqueue_undo(AgentRestore *r);

// number.c
// Whether a pid is in use on this machine, if only as the name of a process group.
bool agent_number_is_taken(uint64_t pid);
// Waits a moment for whoever has numbers of the image and is about to go, which a process that has
// ended does once its parent has looked. Who has just been moved away may come back at once.
void agent_number_await(AgentRestore *r);
// Who has a pid that is taken, to go behind "is in use on this machine"; owned by the caller.
char *agent_number_holder(uint64_t pid);
uint64_t agent_pid_max(void);

// process.c
void agent_process_plan(AgentRestore *r);
bool agent_process_start(AgentRestore *r, GError **error); // what the tree grows from
// All processes and threads, in their sessions and groups.
bool agent_process_tree(AgentRestore *r, GError **error);
void agent_process_kill(AgentRestore *r);
// Registers with which the reaper of a new pid namespace runs once it is let go.
bool agent_process_release_reaper(AgentRestore *r, GError **error);

// ending.c: ends what is a zombie in the image, the way it ended there.
void agent_ending_plan(AgentRestore *r);
bool agent_ending_zombies(AgentRestore *r, GError **error);
// Ends a process with one thread; its parent has yet to wait for it.
bool agent_ending_exit(AgentTask *t, unsigned status, GError **error);
// Ends a leader whose threads go on. It can be driven no more.
bool agent_ending_leader(AgentTask *t, GError **error);

// stop.c: brings a process into the job control state that it had: stopped, continued, and what of
// it wait() has told its parent. To be called before SIGCHLD is drained from the parent.
bool agent_stop(AgentProc *p, GError **error);

// The first process with the address space.
bool agent_mm_is_owner(const AgentProc *p);

// mm.c
bool agent_mm_pages(AgentRestore *r, const struct fmt_pages *pages, uint64_t addr, const void *data,
                    uint64_t size, GError **error);
const struct fmt_vma *agent_mm_vma(const AgentProc *p, uint64_t addr);
bool agent_mm_map(AgentProc *p, const struct fmt_vma *vma, GError **error);
uint64_t agent_mm_prot(const struct fmt_vma *vma); // PROT_*
bool agent_mm_is_open(const struct fmt_vma *vma);  // is writable until agent_mm_settle()
AgentProc *agent_mm_owner(AgentRestore *r, uint64_t mm);

// mm_settle.c: what mappings get when all contents are there
void agent_mm_settle_plan(AgentRestore *r);
bool agent_mm_settle(AgentProc *p, GError **error);

// cow.c: memory that processes share until one of them writes.
void agent_cow_plan(AgentRestore *r);
bool agent_cow_begin(AgentRestore *r, GError **error); // before the first process
// Pages of a COW_SET; they come before there are processes.
bool agent_cow_pages(AgentRestore *r, const struct fmt_pages *pages, uint64_t addr,
                     const void *data, uint64_t size, GError **error);
// cow_birth.c: around the birth of a process with memory of its own; `by` is NULL for the first.
bool agent_cow_before_birth(const AgentProc *p, const AgentProc *by, GError **error);
void agent_cow_after_birth(const AgentProc *p, const AgentProc *by);
bool agent_cow_after_births(AgentRestore *r, GError **error);
bool agent_cow_end(AgentRestore *r, GError **error); // all are born
void agent_cow_free(struct agent_cow *cow);          // NULL-safe
// What a process has inherited for a while; false for nothing.
bool agent_cow_store(const AgentProc *p, struct agent_range *ret);
// Whether a mapping is to be taken from there, and doing so instead of mmap.
bool agent_cow_is_inherited(const AgentProc *p, const struct fmt_vma *vma);
bool agent_cow_take(AgentProc *p, const struct fmt_vma *vma, uint64_t prot, GError **error);
bool agent_cow_leave(AgentProc *p, GError **error); // all mappings are there

// contents.c
bool agent_contents(AgentRestore *r, const struct fmt_pages *pages, uint64_t addr, const void *data,
                    uint64_t size, GError **error);
bool agent_contents_compare(AgentRestore *r, int fd, const char *path, uint64_t offset,
                            const void *data, uint64_t size, GError **error);
void agent_contents_undo(AgentRestore *r);

// stub.c
void agent_stub_plan(AgentRestore *r);
bool agent_stub_open(AgentRestore *r, GError **error);
// For a process that was just cloned by `maker` (NULL: by the helper): gives it the kind of
// address space that the image has, and a site in that.
bool agent_stub_enter(AgentProc *p, const AgentProc *maker, GError **error);
uint64_t agent_stub_end(void); // where its memory ends in a process that has executed one
extern const uint8_t agent_entry_code[4]; // syscall; int $0x80
#define AGENT_IA32_END     0xffffe000ull  // of the addresses of a 32-bit program
#define AGENT_IA32_3GB_END 0xc0000000ull  // with ADDR_LIMIT_3GB

// ia32.c: whether the process needs calls of i386 to be what it is, though it need not be a 32-bit
// program.
bool agent_ia32_calls(const AgentProc *p);

// vdso.c
struct agent_vdso {
    uint64_t vvar, vdso, end; // running kernel's: [vvar, vdso) data, [vdso, end) code
    GArray *parts;            // of struct agent_range: its mappings, by address
    uint8_t *code;            // contents of [vdso, end)
    uint64_t syscall_offset;  // of a `syscall` instruction, from vdso; `int $0x80` of ia32
};
struct agent_vdso *agent_vdso_of(pid_t pid, bool ia32, GError **error);
void agent_vdso_free(struct agent_vdso *vdso); // NULL-safe
#define AGENT_SCRATCH_BYTES (64 * 1024)

// detour.c: makes the detours of all threads in the address space of p, once its vdso is where it
// stays. To be called before the memory is closed.
bool agent_detours_make(AgentProc *p, GError **error);
// The registers are those behind the call; they become those with which it is entered.
void agent_detour_take(const AgentTask *t, struct user_regs_struct *regs);

// seccomp.c: whether a filter of the thread looks at where a call comes from.
bool agent_seccomp_sees_place(const AgentTask *t);

// cred.c: what the agent may do: a mask of CAP_*.
uint64_t agent_own_caps(void);

// prctl.c: what no remote call could be made under.
bool agent_prctl_last(const AgentTask *t, GError **error);

// timer.c
bool agent_timer_arm(AgentProc *p, GError **error);

// posix_timer.c: fires a timer whose signal is pending in the image, and waits until that is so
// here.
bool agent_posix_timer_fire(AgentTask *t, uint64_t timer, bool to_process, GError **error);
// Arms all others.
bool agent_posix_timers_arm(AgentProc *p, GError **error);

// signal.c: queues a signal for a process (or this thread alone) as the kernel had it.
#define AGENT_SIGINFO_BYTES 128
bool agent_signal_queue(AgentTask *t, bool to_process, uint64_t signo,
                        const uint8_t info[AGENT_SIGINFO_BYTES], GError **error);

// Whether a signal would go by unnoticed.
bool agent_signal_is_ignored(const AgentTask *t, uint64_t signo);
// The last of all before the threads are let go: a SIGSTOP that is pending in the image.
void agent_signal_stop(const AgentProc *p);

// regs.c: final registers and signal mask of a thread that has settled. `restarted`: what
// agent_restart_arm() gave, NULL where nothing was armed.
bool agent_regs_set(AgentTask *t, const int64_t *restarted, GError **error);

// restart.c: arms what FMT_RESTART_* says. *ret_rax is what the call returned.
bool agent_restart_arm(AgentTask *t, int64_t *ret_rax, GError **error);
void agent_restart_plan(AgentRestore *r);

// entry.c: lets those into their calls that go on with what is left of a timeout
// (FMT_RESTART_ENTER), and those whose calls must find the signals themselves up to their entry.
// Everything is ready, and all others are stopped.
void agent_entries(AgentRestore *r);
// When all others have been let go: lets go of who was woken meanwhile, for nothing or not.
void agent_entries_end(AgentRestore *r);
void agent_entry_plan(AgentRestore *r, const AgentTask *t);

// time.c
void agent_time_plan(AgentRestore *r);
/*
 * The offset that makes a clock of a new time namespace go on from `captured_ns` when the initial
 * namespace's says `now_ns`, given that `elapsed_ns` passed in between (negative: unknown, as if
 * none had).
 */
int64_t agent_timens_offset(int64_t captured_ns, int64_t now_ns, int64_t elapsed_ns);
// In the helper process, before the root is cloned: enters the namespace for its children.
bool agent_time_enter(AgentRestore *r, const char **ret_what);
// What is left at this moment of a timeout that had left_ns to go when the source was paused, never
// less than 1 ns.
uint64_t agent_time_left(AgentRestore *r, uint64_t left_ns);
// The moment that was left_ns away (negative: in the past) when the source was paused, by a clock
// as the restored processes see it.
int64_t agent_time_moment(AgentRestore *r, uint64_t clock, int64_t left_ns);
// What our own clock shows at a moment of theirs. Of a clock that has no offset: the same.
int64_t agent_time_here(AgentRestore *r, uint64_t clock, int64_t moment_ns);
// The moment at which such a timeout ends, by a clock as the restored processes see it.
struct __kernel_timespec agent_time_deadline(AgentRestore *r, uint64_t clock, uint64_t left_ns);
