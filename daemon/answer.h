// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon writes into a domain's metadata.
#pragma once

#include <glib.h>

/*
 *   <answers>
 *     <answer id='1' state='done' file='/var/lib/vmgraft/job.vmg' pause-ms='8.6' at='...'/>
 *     <answer id='2' state='refused' error='...' at='...'/>
 *   </answers>
 */

// requests: struct daemon_request; answers: struct daemon_entry, one for each. Free with g_free.
char *daemon_answers_format(const GPtrArray *requests, const GPtrArray *answers);
// Where the requests as a whole make no sense.
char *daemon_answers_format_error(const char *message);
