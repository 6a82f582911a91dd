// SPDX-License-Identifier: GPL-2.0-or-later
// Requests in a domain's metadata: what the user asks for, checked as far as words go.
#pragma once

#include <glib.h>
#include <stdbool.h>

/*
 * What stands under REQUEST_URI in a domain's metadata is one request, or several in <requests>:
 *
 *   <capture id='1' pid='4009' to='/var/lib/vmgraft/images/job.vmg'/>
 *   <requests>
 *     <capture id='2' command='python3' to='/var/lib/vmgraft/images/job' keep='3' on='suspend'/>
 *     <move id='3' cgroup='/system.slice/web.service' domain='web2'/>
 *   </requests>
 */
#define DAEMON_REQUEST_URI "urn:vmgraft:request"
#define DAEMON_ANSWER_URI  "urn:vmgraft:answer"

#define DAEMON_ERROR (daemon_error_quark())
GQuark daemon_error_quark(void);

enum daemon_error {
    DAEMON_ERROR_XML,     // not even readable
    DAEMON_ERROR_REQUEST, // a word that means nothing, one too many, one that is missing
    DAEMON_ERROR_STATE,   // the daemon's own files
};

enum daemon_verb {
    DAEMON_CAPTURE,
    DAEMON_MOVE,
};

struct daemon_request {
    enum daemon_verb verb;
    char *id;      // NULL where it has none that is one; else fit to be the name of a file
    char *process; // as vmgraft takes it: "4009", "name:python3", "cgroup:/x", "port:80"
    char *to;      // capture: absolute path without "." and ".."
    unsigned keep; // capture: 0: `to` is the file; else the time is added, and so many are kept
    bool forensic; // capture
    char *domain;  // move: where to
    bool copy;     // move
    bool on_suspend;
    char **allow;  // kinds of refusal that are accepted; may be NULL
    char *text;    // of the request, in one certain form: to tell two of the same id apart
    GError *error; // what is wrong with it; NULL: nothing
};

// The requests in that text (struct daemon_request), owned by the caller. One that makes no sense
// is there with its error. NULL with DAEMON_ERROR_XML where the text as a whole is none.
GPtrArray *daemon_requests_parse(const char *xml, GError **error);
