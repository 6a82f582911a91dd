// SPDX-License-Identifier: GPL-2.0-or-later
// The records of a process image as C structures, generated from records.def.
#pragma once

#include <glib.h>
#include <stdint.h>

enum fmt_type {
    FMT_ANY = 0, // in R() fields: several types are possible
#define RECORD(TYPE, number, name, doc) FMT_##TYPE = number,
#define U(field, doc)
#define I(field, doc)
#define X(field, doc)
#define S(field, doc)
#define B(field, doc)
#define R(field, to, doc)
#define P(field, to, doc)
#define END(TYPE)
#include "formats/records.def"
    FMT_N_TYPES = 64,
};

enum fmt_record_flag {
    // A reader that does not know the type passes over the record. None of those below is optional.
    FMT_RECORD_OPTIONAL = 1 << 0,
};

// What every record starts with. objref is unique in an image and never 0.
struct fmt_record {
    uint32_t type;  // enum fmt_type
    uint32_t flags; // enum fmt_record_flag; 0
    uint64_t objref;
};

// Strings and GBytes belong to the record and are freed with the image.
#define RECORD(TYPE, number, name, doc)                                                            \
    struct fmt_##name {                                                                            \
        struct fmt_record rec;
#define U(field, doc)     uint64_t field;
#define I(field, doc)     int64_t field;
#define X(field, doc)     uint64_t field;
#define S(field, doc)     char *field;
#define B(field, doc)     GBytes *field;
#define R(field, to, doc) uint64_t field;
#define P(field, to, doc) uint64_t field;
#define END(TYPE)                                                                                  \
    }                                                                                              \
    ;
#include "formats/records.def"

enum fmt_note_level { FMT_NOTE_INFO, FMT_NOTE_LOSS, FMT_NOTE_REFUSAL };

// What /proc/PID/smaps calls VmFlags, in bits of our own: those of the kernel move between
// releases.
enum fmt_vma_flag {
    FMT_VMA_READ = 1 << 0,
    FMT_VMA_WRITE = 1 << 1,
    FMT_VMA_EXEC = 1 << 2,
    FMT_VMA_SHARED = 1 << 3,
    FMT_VMA_MAYREAD = 1 << 4, // what mprotect may still grant
    FMT_VMA_MAYWRITE = 1 << 5,
    FMT_VMA_MAYEXEC = 1 << 6,
    FMT_VMA_GROWSDOWN = 1 << 7,
    FMT_VMA_LOCKED = 1 << 8,
    FMT_VMA_LOCKONFAULT = 1 << 9,
    FMT_VMA_NORESERVE = 1 << 10,
    FMT_VMA_DONTCOPY = 1 << 11,   // MADV_DONTFORK
    FMT_VMA_WIPEONFORK = 1 << 12, // MADV_WIPEONFORK
    FMT_VMA_DONTDUMP = 1 << 13,   // MADV_DONTDUMP
    FMT_VMA_HUGEPAGE = 1 << 14,   // MADV_HUGEPAGE
    FMT_VMA_NOHUGEPAGE = 1 << 15, // MADV_NOHUGEPAGE
    FMT_VMA_MERGEABLE = 1 << 16,  // MADV_MERGEABLE
    FMT_VMA_HUGETLB = 1 << 17,
    FMT_VMA_SEQ_READ = 1 << 18,  // MADV_SEQUENTIAL
    FMT_VMA_RAND_READ = 1 << 19, // MADV_RANDOM
    FMT_VMA_ACCOUNT = 1 << 20,
    FMT_VMA_SYNC = 1 << 21,
    FMT_VMA_MAYSHARE =
        1 << 22, // mapped MAP_SHARED; without SHARED: of a file open for reading only
    FMT_VMA_DROPPABLE = 1 << 23, // MAP_DROPPABLE
    FMT_VMA_SEALED = 1 << 24,    // mseal
};

#define FMT_COW_MAX_BYTES (1ull << 36) // of a COW: more is not memory that somebody uses

// What mappings that share pages after a fork must have in common.
#define FMT_COW_FLAGS                                                                              \
    (FMT_VMA_GROWSDOWN | FMT_VMA_NORESERVE | FMT_VMA_ACCOUNT | FMT_VMA_HUGEPAGE |                  \
     FMT_VMA_NOHUGEPAGE)

// Whether what is written to the mapping shows in the object, if it can be written to at all.
static inline int fmt_vma_is_shared(const struct fmt_vma *vma)
{
    return (vma->flags & (FMT_VMA_SHARED | FMT_VMA_MAYSHARE)) != 0;
}

enum fmt_vma_kind {
    FMT_VMA_ANON,     // private anonymous: heap, stacks, malloc arenas
    FMT_VMA_FILE,     // a FILE, private or shared
    FMT_VMA_SHM,      // a SHM
    FMT_VMA_VDSO,     // kernel's code page
    FMT_VMA_VVAR,     // kernel's data for it
    FMT_VMA_VSYSCALL, // the fixed page at ffffffffff600000 (never in the VMA tree; not recorded)
};

enum fmt_shm_kind { FMT_SHM_ANON, FMT_SHM_MEMFD, FMT_SHM_SYSV };
enum fmt_shm_flag { FMT_SHM_HUGETLB = 1 << 0, FMT_SHM_NOEXEC_SEAL = 1 << 1 };

enum fmt_buffer_flag {
    FMT_BUFFER_PACKET = 1 << 0, // written in packet mode (O_DIRECT)
    FMT_BUFFER_MERGE = 1 << 1, // what is written next goes behind it, where that fits into its page
};
#define FMT_BUFFER_WORDS 3 // in PIPE.buffers

enum fmt_ipc_kind { FMT_IPC_SEM, FMT_IPC_MSG, FMT_IPC_SHM };
enum fmt_ipc_flag {
    FMT_IPC_OWNED = 1 << 0,     // living processes use it, all of them of the tree
    FMT_IPC_REMOVED = 1 << 1,   // IPC_RMID, but still attached
    FMT_IPC_LOCKED = 1 << 2,    // SHM_LOCK
    FMT_IPC_NORESERVE = 1 << 3, // SHM_NORESERVE
};

enum fmt_file_kind {
    FMT_FILE_REG,           // object: INODE
    FMT_FILE_DIR,           // object: INODE
    FMT_FILE_CHR,           // object: INODE; which devices can go along is the agent's table
    FMT_FILE_PIPE,          // object: PIPE; FIFOs as well, with their path
    FMT_FILE_MEMFD,         // object: SHM
    FMT_FILE_PATH,          // object: INODE of any type; a place that is not open (O_PATH)
    FMT_FILE_MQUEUE = 20,   // object: MQUEUE
    FMT_FILE_SOCKET = 30,   // object: SOCKET
    FMT_FILE_TTY = 32,      // object: TTY_FILE; other terminals are FMT_FILE_CHR
    FMT_FILE_EVENTFD = 42,  // object: EVENTFD
    FMT_FILE_SIGNALFD = 43, // object: EVENTFD
    FMT_FILE_TIMERFD = 44,  // object: TIMERFD
    FMT_FILE_EPOLL = 45,    // object: EPOLL
    FMT_FILE_INOTIFY = 46,  // object: INOTIFY
    FMT_FILE_PIDFD = 47,    // object: PROC, TASK (PIDFD_THREAD); 0: gone; FILE: gone, like that one
    FMT_FILE_PROCESS = 48,  // object: INODE; below /proc/PID of a process of the tree
    FMT_FILE_LOST = 62,     // no object: the user accepted to lose it; every use fails with EBADF
    FMT_FILE_OTHER = 63,    // something that was refused: listed by its name, never restored
};

// Whether the PAGES of an INODE hold the whole file; what they leave out is zeros then.
enum fmt_contents {
    FMT_CONTENTS_NONE,    // they do not: the target has the file
    FMT_CONTENTS_DELETED, // the file has no name: the target makes one like it
    FMT_CONTENTS_CARRIED, // made in the target where it is missing, compared where it is not
    FMT_CONTENTS_PARTLY,  // not carried: some of it was not in the source's memory
    FMT_CONTENTS_LARGE,   // not carried: larger than what was to be carried
};

enum fmt_tty_side {
    FMT_TTY_MASTER,
    FMT_TTY_SLAVE,
    FMT_TTY_CONTROLLING, // the slave, opened as /dev/tty
};

enum fmt_tty_state {
    FMT_TTY_LOCKED = 1 << 0, // TIOCSPTLCK
    FMT_TTY_PACKET = 1 << 1, // TIOCPKT
    FMT_TTY_MASTER_EXCLUSIVE = 1 << 2,
    FMT_TTY_SLAVE_EXCLUSIVE = 1 << 3, // TIOCEXCL
    FMT_TTY_STOPPED = 1 << 4,         // by the stop character
    FMT_TTY_TCO_STOPPED = 1 << 5,     // by tcflow(TCOOFF)
    FMT_TTY_MASTER_STOPPED = 1 << 6,  // tcflow(TCOOFF) of the master
    FMT_TTY_QUOTING = 1 << 7,         // the next character is taken literally (VLNEXT)
    FMT_TTY_SLAVE_CLOSED = 1 << 8,    // it was open once, and is not any more
    FMT_TTY_MASTER_CLOSED = 1 << 9,
    FMT_TTY_OUTSIDE = 1 << 10, // the master is not in the image: hung up
};

enum fmt_socket_state {
    FMT_SOCKET_OPEN,      // not connected, or datagrams
    FMT_SOCKET_LISTENING, // connections wait to be accepted
    FMT_SOCKET_CONNECTED, // a stream or a sequence of packets; also when the other end is closed
    FMT_SOCKET_PENDING,   // the end of a connection that waits to be accepted
    FMT_SOCKET_CLOSED,    // has no descriptor any more: its peer or a message knows its name
};

enum fmt_socket_option {
    FMT_SOCKET_PASSCRED = 1 << 0,
    FMT_SOCKET_PASSSEC = 1 << 1,
    FMT_SOCKET_PASSPIDFD = 1 << 2,
    FMT_SOCKET_NO_PASSRIGHTS = 1 << 3, // SO_PASSRIGHTS is on by default
    FMT_SOCKET_KEEPALIVE = 1 << 4,
    FMT_SOCKET_LINGER = 1 << 5,
    FMT_SOCKET_BROADCAST = 1 << 6,
    FMT_SOCKET_OOBINLINE = 1 << 7,
    FMT_SOCKET_DEBUG = 1 << 8,
    FMT_SOCKET_DONTROUTE = 1 << 9,
    FMT_SOCKET_TIMESTAMP = 1 << 10,
    FMT_SOCKET_TIMESTAMPNS = 1 << 11,
    FMT_SOCKET_TIMESTAMP_NEW = 1 << 12, // the two above with 64 bits of seconds
    FMT_SOCKET_RXQ_OVFL = 1 << 13,
    FMT_SOCKET_NOFCS = 1 << 14,
    FMT_SOCKET_LOCK_FILTER = 1 << 15,
    FMT_SOCKET_SELECT_ERR_QUEUE = 1 << 16,
    FMT_SOCKET_WIFI_STATUS = 1 << 17,
    FMT_SOCKET_REUSEADDR = 1 << 18,
    FMT_SOCKET_REUSEPORT = 1 << 19,
    FMT_SOCKET_NO_CHECK = 1 << 20,
    FMT_SOCKET_INQ = 1 << 21, // of AF_UNIX
};

// What setsockopt(SOL_NETLINK) has set, as the kernel keeps it.
enum fmt_netlink_option {
    FMT_NETLINK_PKTINFO = 1 << 1,
    FMT_NETLINK_BROADCAST_ERROR = 1 << 2,
    FMT_NETLINK_NO_ENOBUFS = 1 << 3,
    FMT_NETLINK_LISTEN_ALL_NSID = 1 << 4,
    FMT_NETLINK_CAP_ACK = 1 << 5,
    FMT_NETLINK_EXT_ACK = 1 << 6,
    FMT_NETLINK_GET_STRICT_CHK = 1 << 7,
};

enum fmt_lock_kind {
    FMT_LOCK_FLOCK, // flock: of the open file
    FMT_LOCK_POSIX, // fcntl F_SETLK: of the descriptor table
    FMT_LOCK_OFD,   // fcntl F_OFD_SETLK: of the open file
    FMT_LOCK_LEASE, // fcntl F_SETLEASE: of the open file
};

enum fmt_proc_state { FMT_PROC_ALIVE, FMT_PROC_STOPPED, FMT_PROC_ZOMBIE };

enum fmt_task_state {
    FMT_TASK_USER,      // on a vCPU in user mode
    FMT_TASK_PREEMPTED, // in user mode, waiting for a CPU
    FMT_TASK_SYSCALL,   // in a system call
    FMT_TASK_FROZEN,    // stopped for us by the guest's own agent
    FMT_TASK_ENDED,     // the leader of a zombie, or of a process whose other threads go on
};

/*
 * How a thread that waited with a relative timeout goes on. The registers are those of a call that
 * was interrupted (rip after the syscall instruction, rax -ERESTART_RESTARTBLOCK); the agent arms
 * the kernel's restart block by entering the call with what is left and interrupting it.
 */
enum fmt_restart {
    FMT_RESTART_NONE,      // the registers say all
    FMT_RESTART_NANOSLEEP, // clock, ns, addr = rmtp
    FMT_RESTART_POLL,      // addr = pollfds, arg1 = nfds, ns
    FMT_RESTART_FUTEX,     // addr = word, arg1 = value, arg2 = flags, arg3 = bitset, ns
    FMT_RESTART_ENTER,     // the registers enter the call; arg1 = enum fmt_timeout, ns
    FMT_RESTART_MOVED,     // no timeout: a futex that it was moved to, addr = word, arg1 = value
};

// FMT_RESTART_ENTER: what is to hold the rest of the timeout while the thread enters its call.
// Where arg2 is 1 it is put back then.
enum fmt_timeout {
    FMT_TIMEOUT_TIMESPEC, // addr: in memory
    FMT_TIMEOUT_TIMEVAL,
    FMT_TIMEOUT_TIMESPEC32,
    FMT_TIMEOUT_TIMEVAL32,
    FMT_TIMEOUT_MILLIS,  // the register of the fourth argument
    FMT_TIMEOUT_RECEIVE, // addr: descriptor of a socket, SO_RCVTIMEO
    FMT_TIMEOUT_SEND,    // likewise, SO_SNDTIMEO
};

enum fmt_mce_kill { FMT_MCE_DEFAULT, FMT_MCE_EARLY, FMT_MCE_LATE }; // PR_MCE_KILL_*

// PR_SET_SPECULATION_CTRL: of the store bypass (SSB), of indirect branches (IB).
enum fmt_speculation {
    FMT_SPECULATION_SSB_DISABLE = 1 << 0,
    FMT_SPECULATION_SSB_FORCE = 1 << 1,
    FMT_SPECULATION_SSB_NOEXEC = 1 << 2,
    FMT_SPECULATION_SSB = 7,
    FMT_SPECULATION_IB_DISABLE = 1 << 3,
    FMT_SPECULATION_IB_FORCE = 1 << 4,
    FMT_SPECULATION_IB = 0x18,
};

enum fmt_timer_state {
    FMT_TIMER_DISARMED,
    FMT_TIMER_ARMED,
    FMT_TIMER_FIRED, // its signal is pending; when it is taken a periodic timer is armed again, and
                     // what expired since is its overrun
};

enum fmt_pages_kind {
    FMT_PAGES_DATA,  // contents follow, to be restored
    FMT_PAGES_ZERO,  // present and all zero, no contents
    FMT_PAGES_CLEAN, // contents of a private file mapping or file that was not changed: to compare
                     // with the file of the target, and for cores; never written
    // In streams of a live transfer (FMT_FEATURE_LIVE) only, without contents:
    FMT_PAGES_HASHED, // as CLEAN: the hash alone is compared with the file of the target
    FMT_PAGES_PLACED, // as DATA: the sender puts the contents in place by itself
};

// Whether contents follow a PAGES record of this kind.
static inline int fmt_pages_has_contents(uint64_t kind)
{
    return kind == FMT_PAGES_DATA || kind == FMT_PAGES_CLEAN;
}
