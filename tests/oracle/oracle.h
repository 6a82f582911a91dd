// SPDX-License-Identifier: GPL-2.0-or-later
// proc-capture: an image of a live process made on its own machine, by ptrace and /proc.
//
// It knows nothing of introspect/ and shares no code with it: what the two agree on can be
// believed.
#pragma once

#include <sys/user.h>

#include "formats/image.h"
#include "guestagent/remote.h"

struct oracle_task {
    struct agent_tracee tracee;
    struct fmt_task *rec;
    struct user_regs_struct regs; // as found, put back before the thread goes on
    uint64_t blocked;             // likewise
};

struct oracle_proc {
    FmtImage *img;
    pid_t pid;
    struct fmt_proc *rec;
    struct agent_site site;
    GArray *tasks; // of struct oracle_task, the leader first
    bool stopped;  // by a signal, before we came
};

struct oracle {
    FmtImage *img;
    GPtrArray *procs;    // of struct oracle_proc, parents first
    GArray *windows;     // of shared mappings on files
    GHashTable *objects; // "kind:identity" -> record: what has been seen already
};

#define ORACLE_ERROR (g_quark_from_static_string("oracle"))
bool oracle_fail(GError **error, const char *what); // from errno

// The contents of /proc/PID/NAME; NULL where it cannot be read.
char *oracle_proc_file(pid_t pid, const char *name);
// The number after `key` at the start of a line of /proc/PID/status, in the given base.
uint64_t oracle_status(pid_t pid, const char *key, int base);
int64_t oracle_monotonic_ns(void);
// A remote call in the leader whose result must not be an error.
int64_t oracle_call(const struct agent_tracee *t, long nr, uint64_t a, uint64_t b, uint64_t c,
                    uint64_t d);

bool oracle_tasks(struct oracle *o, struct oracle_proc *p, GError **error); // oracle-task.c
bool oracle_zombie(struct oracle *o, struct oracle_proc *p);
bool oracle_signals(struct oracle *o, struct oracle_proc *p, GError **error);
bool oracle_memory(struct oracle *o, struct oracle_proc *p, GError **error); // oracle-mem.c
GArray *oracle_windows_new(void);
void oracle_shared_files(struct oracle *o); // once the memory of all processes has been read
bool oracle_files(struct oracle *o, struct oracle_proc *p, GError **error); // oracle-file.c
// The INODE and FILE of what `link` (a path in /proc) leads to, for mappings and the executable.
uint64_t oracle_mapped_file(struct oracle *o, const char *link);
// The SHM that `link` leads to; its contents are added once.
uint64_t oracle_shm(struct oracle *o, const char *link, const char *name, uint64_t kind);
// Adds the contents of an open file to its owner: ZERO where there are none, else `kind`.
bool oracle_file_pages(struct oracle *o, uint64_t owner, int fd, uint64_t start, uint64_t bytes,
                       enum fmt_pages_kind kind);
