// SPDX-License-Identifier: GPL-2.0-or-later
// System calls in a ptrace-stopped thread: how the agent drives the processes it builds.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

struct clone_args;

// Where an address space can be driven from. Shared by its threads, and changed when the vdso or
// the scratch memory moves.
struct agent_site {
    uint64_t syscall_ip;    // address of a `syscall` instruction, 0 for none
    uint64_t int80_ip;      // address of an `int $0x80` instruction, 0 for none
    uint64_t scratch;       // writable memory for arguments
    uint64_t scratch_bytes; // its size
    uint64_t code_bytes;    // of instructions behind it that belong to the agent
};

// A thread that we trace (PTRACE_SEIZE) and that is stopped. No instruction of the program runs
// between remote calls.
struct agent_tracee {
    pid_t tid; // as the agent sees it
    const struct agent_site *site;
};

// What the agent sets on every thread that it builds.
#define AGENT_PTRACE_OPTIONS                                                                       \
    (PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |        \
     PTRACE_O_TRACEVFORK)

// Waits until the thread stops; its death is an error.
bool agent_remote_wait(pid_t tid, int *ret_status, GError **error);

// Attaches to a running thread and stops it.
bool agent_remote_seize(pid_t tid, unsigned long options, GError **error);

// Performs system call `nr`. `*ret` is what the kernel returned, -errno included.
bool agent_remote_raw(const struct agent_tracee *t, long nr, const uint64_t args[6], int64_t *ret,
                      GError **error);

// Likewise, but -errno is an error that says `what`. ret may be NULL.
bool agent_remote_call(const struct agent_tracee *t, const char *what, long nr,
                       const uint64_t args[6], int64_t *ret, GError **error);

// agent_remote(t, "mmap", SYS_mmap, &ret, error, addr, len, ...)
#define agent_remote(t, what, nr, ret, error, ...)                                                 \
    agent_remote_call(t, what, nr, (const uint64_t[6]){__VA_ARGS__}, ret, error)

// A call of i386, for what only these do: nr and arguments are those of the i386 table. ret may be
// NULL.
bool agent_remote_ia32_call(const struct agent_tracee *t, const char *what, long nr,
                            const uint64_t args[6], int64_t *ret, GError **error);

#define agent_remote_ia32(t, what, nr, ret, error, ...)                                            \
    agent_remote_ia32_call(t, what, nr, (const uint64_t[6]){__VA_ARGS__}, ret, error)

// clone3 in the thread; the child is attached and stopped when this returns. `args` goes to the
// scratch memory, with `n_set_tid` entries of set_tid behind it. `*ret` is the child as the agent
// sees it.
bool agent_remote_clone(const struct agent_tracee *t, struct clone_args *args, const pid_t *set_tid,
                        size_t n_set_tid, pid_t *ret, GError **error);

// Copies to the scratch memory at `offset`; returns its address in *ret (may be NULL).
bool agent_remote_put(const struct agent_tracee *t, size_t offset, const void *data, size_t len,
                      uint64_t *ret, GError **error);

// Copies from and to memory of the thread's address space that it may itself read or write.
bool agent_remote_read(const struct agent_tracee *t, uint64_t addr, void *ret, size_t len,
                       GError **error);
bool agent_remote_write(const struct agent_tracee *t, uint64_t addr, const void *data, size_t len,
                        GError **error);

// Enters a call and has it interrupted at once, as by a signal that nobody sees: it blocks or would
// block, and comes back with its restart block armed. `*ret` is what it returned
// (-ERESTART_RESTARTBLOCK as a rule). The thread is in a PTRACE_EVENT_STOP afterwards. ia32: a call
// of i386.
bool agent_remote_interrupted(const struct agent_tracee *t, bool ia32, long nr,
                              const uint64_t args[6], int64_t *ret, GError **error);

// Brings the thread from the end of a remote call to a PTRACE_EVENT_STOP, where the kernel will
// look at signals and restarts when it goes on. Its registers may be set from then on. Takes
// whichever instruction the site has.
bool agent_remote_settle(const struct agent_tracee *t, GError **error);
