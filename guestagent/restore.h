// SPDX-License-Identifier: GPL-2.0-or-later
// Turns a process image into live processes of this machine.
#pragma once

#include <sys/types.h>

#include "formats/image.h"
#include "guestagent/error.h"

/*
 * The life of a restore, in this order:
 *
 *   plan      checks the image against this machine and touches nothing
 *   build     makes the processes, threads, mappings and descriptors, all ptrace-stopped
 *   pages     writes contents, piece by piece, as the stream brings them; what the processes have
 *             in common comes first, and only then are they made
 *   finish    registers, signals, credentials: "prepared", still stopped
 *   release   lets the processes go; they belong to init from here on
 *
 * agent_restore_abort() undoes everything at any point before release; so does the death of the
 * agent (PTRACE_O_EXITKILL). Every function that fails leaves the object in a state in which only
 * agent_restore_abort() may be called.
 *
 * The caller must be single-threaded and must not wait for children with waitpid(-1) in between.
 */
typedef struct AgentRestore AgentRestore;

struct agent_restore_options {
    bool new_pid_namespace; // keep the pids, in a pid namespace of their own with a reaper as pid 1
    // How long ago the source was paused, by the clock of who moves the process (nanoseconds); the
    // process finds its clocks advanced by that much. -1: unknown, or the image comes from a file:
    // CLOCK_MONOTONIC goes on where it was, as after a suspend.
    int64_t elapsed_ns;
    // Likewise, where the image comes from a file: by the wall clocks of who took it and of who
    // restores it. CLOCK_BOOTTIME goes on by that much. -1: by those of the two guests.
    int64_t asleep_ns;
    // CLOCK_MONOTONIC here when the two were right. 0: they are when the restore is planned.
    int64_t told_ns;
    // Who sends the image puts FMT_PAGES_PLACED pages into this machine's RAM itself: until then
    // each of them begins with a struct agent_place_mark with this nonce, by which it is known from
    // outside.
    uint64_t place_nonce;
};

// What a page that waits for its contents begins with.
struct agent_place_mark {
    uint64_t nonce;
    uint64_t address; // of the page
};

// An address space of the image, and the process that has it here.
struct agent_space {
    uint64_t mm; // objref
    pid_t pid;   // as the agent sees it
};

// Why an image cannot be restored here, or what will be different (a note). Free with
// agent_refusal_free.
struct agent_refusal {
    char *kind;   // short name, e.g. "file-missing"
    uint64_t pid; // process in the image, 0 for none
    int64_t fd;   // descriptor of that process, -1 for none
    char *text;   // one sentence
};
void agent_refusal_free(struct agent_refusal *refusal); // NULL-safe
// A list that frees its struct agent_refusal.
GPtrArray *agent_refusal_list_new(void);

// Checks everything that can be checked beforehand. Adds every reason against it to `refusals` and
// every harmless difference to `notes`; with at least one refusal it fails with
// AGENT_ERROR_REFUSED. `meta` needs no page contents; a reference is taken. `notes` must stay valid
// for as long as the object (later steps add to it).
AgentRestore *agent_restore_plan(FmtImage *meta, const struct agent_restore_options *opt,
                                 GPtrArray *refusals, GPtrArray *notes, GError **error);

bool agent_restore_build(AgentRestore *r, GError **error);

// `size` bytes of contents at `offset` from the start of `pages`; data is NULL for kinds without
// contents. DATA and ZERO are written, CLEAN and HASHED are compared with the file on this machine,
// PLACED pages are made and marked.
bool agent_restore_pages(AgentRestore *r, const struct fmt_pages *pages, uint64_t offset,
                         const void *data, uint64_t size, GError **error);

// No more contents come but those that are PLACED.
bool agent_restore_end_pages(AgentRestore *r, GError **error);

// The address spaces that were built (struct agent_space); owned by the caller.
GArray *agent_restore_spaces(const AgentRestore *r);

bool agent_restore_finish(AgentRestore *r, GError **error);

// Lets go of all processes and frees the object. `pids` (of pid_t) receives the processes as the
// agent sees them, root first; owned by the caller, may be NULL.
bool agent_restore_release(AgentRestore *r, GArray **ret_pids, GError **error);

// A user that no process of the tree is: for agent_restore_part, while there is an AgentRestore.
uid_t agent_restore_stranger(const AgentRestore *r);

// Gives all privileges up, before this process ends with a tree let go: its end would otherwise
// send the root the signal of PR_SET_PDEATHSIG (parting.c).
void agent_restore_part(uid_t stranger);

// Kills what was built and frees the object; NULL-safe.
void agent_restore_abort(AgentRestore *r);
