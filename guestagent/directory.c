// SPDX-License-Identifier: GPL-2.0-or-later
// Directories that somebody is in the middle of reading: the position behind which the same names
// are still to come.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"

struct entry {
    uint64_t ino;
    int64_t next; // position behind it
    uint16_t reclen;
    uint8_t type;
    char name[];
};

struct listing {
    GPtrArray *names; // of char *
    GArray *next;     // of int64_t: the position behind each
};

static void listing_clear(struct listing *l)
{
    g_ptr_array_unref(l->names);
    g_array_unref(l->next);
}

// Reads on to the end, where the descriptor is left.
static bool list(int fd, struct listing *ret, GError **error)
{
    _Alignas(struct entry) uint8_t data[16384];
    long n;

    *ret = (struct listing){.names = g_ptr_array_new_with_free_func(g_free),
                            .next = g_array_new(false, false, sizeof(int64_t))};
    while ((n = syscall(SYS_getdents64, fd, data, sizeof data)) > 0) {
        for (const uint8_t *at = data; at < data + n;) {
            const struct entry *entry = (const struct entry *)at;

            g_ptr_array_add(ret->names, g_strdup(entry->name));
            g_array_append_val(ret->next, entry->next);
            at += entry->reclen;
        }
    }
    if (n == 0)
        return true;
    listing_clear(ret);
    return agent_fail_errno(error, "getdents64");
}

static GHashTable *unread_of(const struct fmt_file *f)
{
    GHashTable *names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    gsize size = 0;
    const char *data = f->unread ? g_bytes_get_data(f->unread, &size) : NULL;

    for (gsize at = 0; at < size;) {
        char *name = g_strndup(data + at, size - at);

        at += strlen(name) + 1;
        g_hash_table_add(names, name);
    }
    return names;
}

// How many entries come before those that are unread, which must be the last ones; -1 where they
// are not.
static gssize split(const struct listing *l, GHashTable *unread)
{
    const guint n = l->names->len, rest = g_hash_table_size(unread);

    if (rest > n)
        return -1;
    for (guint i = n - rest; i < n; i++)
        if (!g_hash_table_contains(unread, g_ptr_array_index(l->names, i)))
            return -1;
    return (gssize)(n - rest);
}

static bool seek(const struct fmt_file *f, int fd, GError **error)
{
    g_autoptr(GHashTable) unread = unread_of(f);
    struct listing l;

    if (!list(fd, &l, error))
        return false;
    const gssize read = split(&l, unread);
    const int64_t pos = read > 0 ? g_array_index(l.next, int64_t, read - 1) : 0;
    const bool at_end = read == (gssize)l.names->len;

    listing_clear(&l);
    if (read < 0) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_MISMATCH,
                    "the names that are still to be read do not come last here");
        return false;
    }
    // At the end it stays as reading has left it: some file systems know more than the position.
    return at_end || lseek(fd, pos, SEEK_SET) == pos || agent_fail_errno(error, "lseek");
}

bool agent_directory_seek(const struct fmt_file *f, int fd, GError **error)
{
    if (!f->reading)
        return f->pos == 0 || lseek(fd, (off_t)f->pos, SEEK_SET) >= 0 ||
               agent_fail_errno(error, "seek to %" G_GUINT64_FORMAT, f->pos);
    return seek(f, fd, error);
}

void agent_directory_plan(AgentRestore *r, const struct fmt_file *f, const char *path)
{
    g_autoptr(GError) error = NULL;
    const int probe = f->reading ? open(path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC) : -1;

    if (probe < 0)
        return;
    if (!seek(f, probe, &error))
        agent_refuse_file(r, "directory-position", f->rec.objref, "%s: %s", path, error->message);
    else if ((uint64_t)lseek(probe, 0, SEEK_CUR) != f->pos)
        agent_note_file(r, "directory-position", f->rec.objref,
                        "%s has other positions here: what telldir() gave before leads elsewhere",
                        path);
    close(probe);
}
