// SPDX-License-Identifier: GPL-2.0-or-later
// Formats answers as XML.
#include "daemon/answer.h"

#include "daemon/journal.h"
#include "daemon/request.h"

// XML knows no control characters, not even escaped.
static char *printable(const char *value)
{
    char *copy = g_utf8_make_valid(value, -1);

    for (char *at = copy; *at; at++) {
        if (g_ascii_iscntrl(*at))
            *at = '?';
    }
    return copy;
}

static void add(GString *xml, const char *name, const char *value)
{
    g_autofree char *copy = NULL, *escaped = NULL;

    if (!value)
        return;
    copy = printable(value);
    escaped = g_markup_escape_text(copy, -1);
    g_string_append_printf(xml, " %s=\"%s\"", name, escaped);
}

static void add_answer(GString *xml, const struct daemon_request *request,
                       const struct daemon_entry *entry)
{
    g_string_append(xml, "<answer");
    add(xml, "id", request->id ? request->id : "");
    add(xml, "state", daemon_state_name(entry->state));
    if (entry->state == DAEMON_DONE || entry->state == DAEMON_RUNNING)
        add(xml, "file", entry->file);
    if (entry->state == DAEMON_DONE && entry->pause_ms > 0) {
        char text[G_ASCII_DTOSTR_BUF_SIZE];

        add(xml, "pause-ms", g_ascii_formatd(text, sizeof(text), "%.3f", entry->pause_ms));
    }
    add(xml, entry->state == DAEMON_DONE ? "note" : "error", entry->message);
    if (entry->started_us) {
        g_autoptr(GDateTime) at = g_date_time_new_from_unix_utc(entry->started_us / G_USEC_PER_SEC);
        g_autofree char *text = g_date_time_format_iso8601(at);

        add(xml, "at", text);
    }
    g_string_append(xml, "/>");
}

char *daemon_answers_format(const GPtrArray *requests, const GPtrArray *answers)
{
    GString *xml = g_string_new("<answers>");

    for (guint i = 0; i < answers->len; i++)
        add_answer(xml, requests->pdata[i], answers->pdata[i]);
    g_string_append(xml, "</answers>");
    return g_string_free(xml, FALSE);
}

char *daemon_answers_format_error(const char *message)
{
    GString *xml = g_string_new("<answers");

    add(xml, "error", message);
    g_string_append(xml, "/>");
    return g_string_free(xml, FALSE);
}
