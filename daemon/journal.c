// SPDX-License-Identifier: GPL-2.0-or-later
// The journal: small JSON files, each replaced as a whole.
#include "daemon/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/request.h"

static const char *const names[] = {
    [DAEMON_WAITING] = "waiting", [DAEMON_RUNNING] = "running", [DAEMON_DONE] = "done",
    [DAEMON_FAILED] = "failed",   [DAEMON_REFUSED] = "refused",
};

const char *daemon_state_name(enum daemon_state state)
{
    return names[state];
}

struct daemon_entry *daemon_entry_new(enum daemon_state state, const char *message)
{
    struct daemon_entry *entry = g_new0(struct daemon_entry, 1);

    entry->state = state;
    entry->message = g_strdup(message);
    return entry;
}

struct daemon_entry *daemon_entry_copy(const struct daemon_entry *from)
{
    struct daemon_entry *entry = g_new0(struct daemon_entry, 1);

    *entry = *from;
    entry->request = g_strdup(from->request);
    entry->file = g_strdup(from->file);
    entry->message = g_strdup(from->message);
    return entry;
}

void daemon_entry_free(struct daemon_entry *entry)
{
    if (!entry)
        return;
    g_free(entry->request);
    g_free(entry->file);
    g_free(entry->message);
    g_free(entry);
}

int daemon_journal_lock(const char *folder, bool wait, GError **error)
{
    g_autofree char *path = g_build_filename(folder, "lock", NULL);
    int fd = -1;

    if (g_mkdir_with_parents(folder, 0700) == 0)
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    while (fd >= 0 && flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) < 0) {
        int why = errno;

        if (why == EINTR)
            continue;
        close(fd);
        fd = -1;
        errno = why;
    }
    if (fd < 0)
        g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_STATE, "%s: %s", path,
                    errno == EWOULDBLOCK ? "held by another vmgraftd, or by what one left running"
                                         : g_strerror(errno));
    return fd;
}

char *daemon_journal_path(const char *folder, const char *uuid, const char *id, const char *suffix)
{
    return g_strdup_printf("%s/%s/.%s.%s", folder, uuid, id, suffix);
}

static char *member(json_object *obj, const char *key)
{
    json_object *value;

    return json_object_object_get_ex(obj, key, &value) ? g_strdup(json_object_get_string(value))
                                                       : NULL;
}

static struct daemon_entry *decode(json_object *obj)
{
    g_autoptr(daemon_entry) entry = g_new0(struct daemon_entry, 1);
    g_autofree char *state = member(obj, "state");
    json_object *value;

    entry->request = member(obj, "request");
    entry->file = member(obj, "file");
    entry->message = member(obj, "message");
    if (json_object_object_get_ex(obj, "started_us", &value))
        entry->started_us = json_object_get_int64(value);
    if (json_object_object_get_ex(obj, "pause_ms", &value))
        entry->pause_ms = json_object_get_double(value);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (g_strcmp0(state, names[i]) == 0 && entry->request) {
            entry->state = (enum daemon_state)i;
            return g_steal_pointer(&entry);
        }
    }
    return NULL;
}

struct daemon_entry *daemon_journal_read(const char *folder, const char *uuid, const char *id,
                                         GError **error)
{
    g_autofree char *path = g_build_filename(folder, uuid, id, NULL);
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;
    struct daemon_entry *entry = NULL;
    json_object *obj;

    if (!g_file_get_contents(path, &text, NULL, &why)) {
        if (!g_error_matches(why, G_FILE_ERROR, G_FILE_ERROR_NOENT))
            g_set_error_literal(error, DAEMON_ERROR, DAEMON_ERROR_STATE, why->message);
        return NULL;
    }
    obj = json_tokener_parse(text);
    if (json_object_is_type(obj, json_type_object))
        entry = decode(obj);
    json_object_put(obj);
    if (!entry)
        g_set_error(error, DAEMON_ERROR, DAEMON_ERROR_STATE, "%s: not written by vmgraftd", path);
    return entry;
}

static void sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

bool daemon_journal_write(const char *folder, const char *uuid, const char *id,
                          const struct daemon_entry *entry, GError **error)
{
    g_autofree char *own = g_build_filename(folder, uuid, NULL);
    g_autofree char *path = g_build_filename(own, id, NULL);
    g_autofree char *out = daemon_journal_path(folder, uuid, id, "out");
    g_autofree char *err = daemon_journal_path(folder, uuid, id, "err");
    g_autoptr(GError) why = NULL;
    json_object *obj = json_object_new_object();
    bool written;

    json_object_object_add(obj, "state", json_object_new_string(names[entry->state]));
    json_object_object_add(obj, "request", json_object_new_string(entry->request));
    if (entry->file)
        json_object_object_add(obj, "file", json_object_new_string(entry->file));
    json_object_object_add(obj, "started_us", json_object_new_int64(entry->started_us));
    json_object_object_add(obj, "pause_ms", json_object_new_double(entry->pause_ms));
    if (entry->message)
        json_object_object_add(obj, "message", json_object_new_string(entry->message));
    g_mkdir_with_parents(own, 0700);
    written = g_file_set_contents_full(path, json_object_to_json_string(obj), -1,
                                       G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE,
                                       0600, &why);
    json_object_put(obj);
    if (!written) {
        g_set_error_literal(error, DAEMON_ERROR, DAEMON_ERROR_STATE, why->message);
        return false;
    }
    sync_folder(own);
    if (entry->state != DAEMON_RUNNING) {
        unlink(out);
        unlink(err);
    }
    return true;
}
