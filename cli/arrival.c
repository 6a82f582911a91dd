// SPDX-License-Identifier: GPL-2.0-or-later
// What restore and migrate say about a process that has arrived.
#include "cli/arrival.h"

void cli_arrival_add_json(struct json_object *obj, const GArray *pids, const GPtrArray *notes)
{
    struct json_object *list = json_object_new_array(), *texts = json_object_new_array();

    for (guint i = 0; i < pids->len; i++)
        json_object_array_add(list, json_object_new_int64(g_array_index(pids, uint32_t, i)));
    for (guint i = 0; i < notes->len; i++)
        json_object_array_add(texts, cli_json_text(g_ptr_array_index(notes, i)));
    if (pids->len > 0)
        json_object_object_add(obj, "new_pid",
                               json_object_new_int64(g_array_index(pids, uint32_t, 0)));
    json_object_object_add(obj, "pids", list);
    json_object_object_add(obj, "notes", texts);
}

void cli_print_notes(const struct cli *cli, const GPtrArray *notes)
{
    for (guint i = 0; i < notes->len; i++)
        cli_note(cli, "note: %s", (const char *)g_ptr_array_index(notes, i));
}
