// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: what the two parts of restoring inotify instances share.
#pragma once

#include <sys/inotify.h>

#include "guestagent/engine.h"

// A mask by which a watch says nothing: its one bit is valid and is no event.
#define AGENT_INOTIFY_QUIET IN_ISDIR

// A number of the instance that is a watch, or was one and has events that wait to be read.
struct agent_watch {
    int wd;
    const struct fmt_inotify_watch *rec; // NULL: it has been removed
    char *path;                          // to add it by; of a removed one, something of ours
    bool by_fd;                          // the path is a descriptor's in /proc
    bool is_dir;
};

struct agent_instance {
    AgentRestore *r;
    const struct fmt_inotify *rec;
    int fd;
    GPtrArray *watches; // of struct agent_watch, by number
    char *scratch;      // a directory of ours for what is gone, NULL for none
};

// Gives a watch another mask; also adds it.
bool agent_watch_listen(const struct agent_instance *in, const struct agent_watch *watch,
                        uint32_t mask, GError **error);
struct agent_watch *agent_instance_watch(const struct agent_instance *in, int wd);

struct agent_event {
    struct agent_event_head {
        int32_t wd;
        uint32_t mask, cookie, len; // as in struct inotify_event
    } head;
    const char *name; // "" for none
};
// The event at *at of those that wait, and on; false at their end, or where they are no events.
bool agent_event_next(const struct fmt_inotify *rec, gsize *at, struct agent_event *ret);

// inotify_events.c: refuses events that cannot be made to happen again.
void agent_inotify_plan_events(AgentRestore *r, const struct fmt_file *f,
                               const struct fmt_inotify *rec);
// Makes them happen, in their order. All watches are there and quiet.
bool agent_inotify_events(struct agent_instance *in, GError **error);
