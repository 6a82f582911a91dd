// SPDX-License-Identifier: GPL-2.0-or-later
// Refusals as the user sees them, and those that the user allows.
#include "cli/refusal.h"

#include <string.h>

#include "formats/refusal.h"

char *cli_reason(uint64_t pid, int64_t fd, const char *kind, const char *text)
{
    GString *s = g_string_new(NULL);

    if (pid > 0)
        g_string_append_printf(s, "pid %" G_GUINT64_FORMAT "%s", pid, fd < 0 ? ": " : "");
    if (fd >= 0)
        g_string_append_printf(s, "%sfd %" G_GINT64_FORMAT ": ", pid > 0 ? " " : "", fd);
    g_string_append_printf(s, "%s: %s", kind, text);
    return g_string_free(s, FALSE);
}

// What a reason consists of. Its beginning is ours or the agent's; what a guest may have chosen
// comes behind the kind.
struct parts {
    uint64_t pid; // 0 for none
    int64_t fd;   // -1 for none
    char *kind;   // NULL where the reason is not of that form
    const char *text;
};

static bool take_number(const char **at, const char *name, uint64_t *ret)
{
    char *end;

    if (!g_str_has_prefix(*at, name) || !g_ascii_isdigit((*at)[strlen(name)]))
        return false;
    *ret = g_ascii_strtoull(*at + strlen(name), &end, 10);
    *at = end;
    return true;
}

static struct parts split(const char *reason)
{
    struct parts parts = {.fd = -1, .text = reason};
    const char *at = reason, *end;
    uint64_t fd;
    bool some = take_number(&at, "pid ", &parts.pid);

    if (take_number(&at, some ? " fd " : "fd ", &fd)) {
        parts.fd = (int64_t)fd;
        some = true;
    }
    if (some && g_str_has_prefix(at, ": "))
        at += 2;
    end = strstr(at, ": ");
    if (end && end > at && strcspn(at, " ") > (size_t)(end - at)) {
        parts.kind = g_strndup(at, (gsize)(end - at));
        parts.text = end + 2;
    }
    return parts;
}

static int by_holder(gconstpointer a, gconstpointer b)
{
    struct parts x = split(*(char *const *)a), y = split(*(char *const *)b);

    g_free(x.kind);
    g_free(y.kind);
    if (x.pid != y.pid)
        return x.pid < y.pid ? -1 : 1;
    if (x.fd != y.fd)
        return x.fd < y.fd ? -1 : 1;
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void cli_reasons_sort(GPtrArray *reasons)
{
    g_ptr_array_sort(reasons, by_holder);
}

struct json_object *cli_reasons_json(const GPtrArray *reasons)
{
    struct json_object *list = json_object_new_array();

    for (guint i = 0; i < reasons->len; i++) {
        struct parts parts = split(g_ptr_array_index(reasons, i));
        g_autofree char *text = g_utf8_make_valid(parts.text, -1);
        struct json_object *obj = json_object_new_object();

        if (parts.kind)
            json_object_object_add(obj, "kind", json_object_new_string(parts.kind));
        if (parts.pid > 0)
            json_object_object_add(obj, "pid", json_object_new_uint64(parts.pid));
        if (parts.fd >= 0)
            json_object_object_add(obj, "fd", json_object_new_int64(parts.fd));
        json_object_object_add(obj, "text", json_object_new_string(text));
        json_object_array_add(list, obj);
        g_free(parts.kind);
    }
    return list;
}

char *cli_reasons_allowable(const GPtrArray *reasons)
{
    g_autoptr(GPtrArray) kinds = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < reasons->len; i++) {
        struct parts parts = split(g_ptr_array_index(reasons, i));
        const struct fmt_refusal *refusal = parts.kind ? fmt_refusal_find(parts.kind) : NULL;

        if (!refusal || !refusal->loss) {
            g_free(parts.kind);
            return NULL;
        }
        if (g_ptr_array_find_with_equal_func(kinds, parts.kind, g_str_equal, NULL))
            g_free(parts.kind);
        else
            g_ptr_array_add(kinds, parts.kind);
    }
    g_ptr_array_add(kinds, NULL);
    return kinds->pdata[0] ? g_strjoinv(",", (char **)kinds->pdata) : NULL;
}

// "bpf, device ...": all that --allow takes.
static char *allowable(void)
{
    GString *s = g_string_new(NULL);
    size_t n;
    const struct fmt_refusal *refusals = fmt_refusals(&n);

    for (size_t i = 0; i < n; i++)
        if (refusals[i].loss)
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", refusals[i].kind);
    return g_string_free(s, FALSE);
}

static bool allow(const char *kind, GPtrArray *ret, GError **error)
{
    const struct fmt_refusal *refusal = fmt_refusal_find(kind);
    g_autofree char *all = NULL;

    if (refusal && refusal->loss) {
        g_ptr_array_add(ret, (char *)refusal->kind);
        return true;
    }
    all = allowable();
    if (refusal)
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE,
                    "--allow: '%s' (%s) cannot be lost; these can: %s", kind, refusal->meaning,
                    all);
    else
        g_set_error(error, CLI_ERROR, CLI_ERROR_USAGE,
                    "--allow: there is no kind of refusal '%s'; these can be allowed: %s", kind,
                    all);
    return false;
}

bool cli_parse_allow(char *const *kinds, GPtrArray *ret, GError **error)
{
    for (size_t i = 0; kinds && kinds[i]; i++) {
        g_auto(GStrv) words = g_strsplit(kinds[i], ",", -1);

        // Of an empty string there are none.
        if (!words[0] && !allow("", ret, error))
            return false;
        for (size_t j = 0; words[j]; j++)
            if (!allow(words[j], ret, error))
                return false;
    }
    return true;
}

char *cli_allow_help(void)
{
    GString *s = g_string_new("What --allow takes, and what becomes of it in the target (all else "
                              "that is refused\ncannot be lost without a lie):\n");
    size_t n;
    const struct fmt_refusal *refusals = fmt_refusals(&n);

    for (size_t i = 0; i < n; i++)
        if (refusals[i].loss)
            g_string_append_printf(s, "  %-16s %s:\n    %s\n", refusals[i].kind,
                                   refusals[i].meaning, refusals[i].loss);
    return g_string_free(s, FALSE);
}
