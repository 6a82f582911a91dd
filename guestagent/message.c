// SPDX-License-Identifier: GPL-2.0-or-later
// The JSON inside control messages.
#include <string.h>

#include "guestagent/protocol.h"

// What a frame must keep free for braces and quotes, and for the note that a list was cut.
#define LIST_MAX_BYTES (AGENT_FRAME_AGENT_BYTES - (16u << 10))

struct json_object *agent_frame_json(const struct agent_frame *frame, GError **error)
{
    struct json_tokener *tok = json_tokener_new_ex(16);
    struct json_object *obj =
        json_tokener_parse_ex(tok, (const char *)frame->payload, (int)frame->length);
    enum json_tokener_error err = json_tokener_get_error(tok);

    json_tokener_free(tok);
    if (err != json_tokener_success || !json_object_is_type(obj, json_type_object)) {
        json_object_put(obj);
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_PROTOCOL, "the message '%s' is not JSON: %s",
                    agent_message_name(frame->type), json_tokener_error_desc(err));
        return NULL;
    }
    return obj;
}

static struct json_object *member(struct json_object *obj, const char *key, enum json_type type)
{
    struct json_object *value;

    if (!json_object_object_get_ex(obj, key, &value) || !json_object_is_type(value, type))
        return NULL;
    return value;
}

const char *agent_json_string(struct json_object *obj, const char *key, const char *otherwise)
{
    struct json_object *value = member(obj, key, json_type_string);

    return value ? json_object_get_string(value) : otherwise;
}

int64_t agent_json_int(struct json_object *obj, const char *key, int64_t otherwise)
{
    struct json_object *value = member(obj, key, json_type_int);

    return value ? json_object_get_int64(value) : otherwise;
}

bool agent_json_bool(struct json_object *obj, const char *key)
{
    struct json_object *value = member(obj, key, json_type_boolean);

    return value && json_object_get_boolean(value);
}

struct json_object *agent_json_strings(const char *key, const GPtrArray *strings)
{
    struct json_object *obj = json_object_new_object(), *list = json_object_new_array();
    size_t bytes = 0;
    guint n = strings ? strings->len : 0;

    for (guint i = 0; i < n; i++) {
        const char *s = g_ptr_array_index(strings, i);

        bytes += 6 * strlen(s) + 4; // each byte may become \u00XX
        if (bytes > LIST_MAX_BYTES) {
            g_autofree char *rest = g_strdup_printf("... and %u more", n - i);

            json_object_array_add(list, json_object_new_string(rest));
            break;
        }
        json_object_array_add(list, json_object_new_string(s));
    }
    json_object_object_add(obj, key, list);
    return obj;
}

struct json_object *agent_json_pids(const char *key, const GArray *pids)
{
    struct json_object *obj = json_object_new_object(), *list = json_object_new_array();
    guint n = pids ? MIN(pids->len, LIST_MAX_BYTES / 12) : 0;

    for (guint i = 0; i < n; i++)
        json_object_array_add(list, json_object_new_int64(g_array_index(pids, uint32_t, i)));
    json_object_object_add(obj, key, list);
    return obj;
}

void agent_json_get_strings(struct json_object *obj, const char *key, GPtrArray *ret)
{
    struct json_object *list = member(obj, key, json_type_array);

    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *item = json_object_array_get_idx(list, i);

        if (json_object_is_type(item, json_type_string))
            g_ptr_array_add(ret, g_strdup(json_object_get_string(item)));
    }
}

void agent_json_get_pids(struct json_object *obj, const char *key, GArray *ret)
{
    struct json_object *list = member(obj, key, json_type_array);

    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        int64_t n = json_object_get_int64(json_object_array_get_idx(list, i));

        if (n > 0 && n <= G_MAXINT32) {
            uint32_t pid = (uint32_t)n;

            g_array_append_val(ret, pid);
        }
    }
}
