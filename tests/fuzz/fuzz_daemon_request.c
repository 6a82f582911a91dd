// SPDX-License-Identifier: GPL-2.0-or-later
// Feeds the parser of requests, and what it gives to the formatter of answers.
#include "daemon/answer.h"
#include "daemon/journal.h"
#include "daemon/request.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *xml = g_strndup((const char *)data, size);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) requests = daemon_requests_parse(xml, &error);
    g_autoptr(GPtrArray) answers =
        g_ptr_array_new_with_free_func((GDestroyNotify)daemon_entry_free);
    g_autofree char *text = NULL;
    g_autoptr(GPtrArray) again = NULL;

    if (!requests) {
        text = daemon_answers_format_error(error->message);
    } else {
        for (guint i = 0; i < requests->len; i++) {
            const struct daemon_request *r = requests->pdata[i];

            g_ptr_array_add(
                answers, daemon_entry_new(DAEMON_FAILED, r->error ? r->error->message : r->text));
        }
        text = daemon_answers_format(requests, answers);
    }
    // Whatever was asked, the answer is XML; that it is no request is another matter.
    again = daemon_requests_parse(text, NULL);
    return 0;
}
