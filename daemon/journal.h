// SPDX-License-Identifier: GPL-2.0-or-later
// What became of each request, on disk: so that each is done once, whatever happens to the daemon.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/*
 *   FOLDER/lock                 held by a daemon, and by the commands that it runs
 *   FOLDER/DOMAIN-UUID/ID       one request
 *   FOLDER/DOMAIN-UUID/.ID.out  what the command says that does it, while it does
 *   FOLDER/DOMAIN-UUID/.ID.err
 *
 * A request is on disk as RUNNING before anything is done. One that a new daemon finds RUNNING was
 * cut off; its command is over then, as it would hold the lock, and what it said tells how it went.
 */
enum daemon_state {
    DAEMON_WAITING, // for the domain's suspend, or for its turn; never on disk
    DAEMON_RUNNING,
    DAEMON_DONE,
    DAEMON_FAILED,
    DAEMON_REFUSED,
};
const char *daemon_state_name(enum daemon_state state);

typedef struct daemon_entry {
    enum daemon_state state;
    char *request;      // its text
    char *file;         // capture: where it goes or went; NULL for a move
    int64_t started_us; // CLOCK_REALTIME; 0: it was not begun
    double pause_ms;    // 0: not known
    char *message;      // why it was not done; notes
} daemon_entry;

struct daemon_entry *daemon_entry_new(enum daemon_state state, const char *message);
struct daemon_entry *daemon_entry_copy(const struct daemon_entry *from);
void daemon_entry_free(struct daemon_entry *entry); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(daemon_entry, daemon_entry_free)

// The descriptor of the lock, held until it and its copies are closed; -1 with an error. `wait`:
// waits for whoever holds it, else that is an error.
int daemon_journal_lock(const char *folder, bool wait, GError **error);

// Where a command's words go: suffix "out" or "err". Free with g_free.
char *daemon_journal_path(const char *folder, const char *uuid, const char *id, const char *suffix);

// NULL without an error: that id was never used.
struct daemon_entry *daemon_journal_read(const char *folder, const char *uuid, const char *id,
                                         GError **error);
// Returns when it is on disk. What the command said is dropped unless the state is RUNNING.
bool daemon_journal_write(const char *folder, const char *uuid, const char *id,
                          const struct daemon_entry *entry, GError **error);
