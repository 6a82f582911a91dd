// SPDX-License-Identifier: GPL-2.0-or-later
// A file that appears under its name whole or not at all.
#include "formats/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "formats/image.h"

struct FmtOutfile {
    char *path;   // final name, symbolic links resolved
    char *folder; // where it lies
    char *temp;   // name until commit, NULL while it has none
    int fd;
};

bool fmt_set_write_error(GError **error, const char *path, int errnum)
{
    const char *advice = "";

    if (errnum == ENOSPC)
        advice = "; free some space there or choose another folder";
    else if (errnum == EDQUOT)
        advice = "; the user's quota there is used up";
    else if (errnum == EFBIG)
        advice = "; the file system or `ulimit -f` takes no larger file";
    else if (errnum == EPIPE)
        advice = ": the reader is gone";
    g_set_error(error, FMT_ERROR, FMT_ERROR_IO, "cannot write %s: %s%s", path, g_strerror(errnum),
                advice);
    return false;
}

static bool resolve(FmtOutfile *out, const char *path, GError **error)
{
    struct stat st;

    if (stat(path, &st) == 0) {
        if (!S_ISREG(st.st_mode)) {
            g_set_error(error, FMT_ERROR, FMT_ERROR_IO, "cannot write %s: it is not a regular file",
                        path);
            return false;
        }
        char *real = realpath(path, NULL);

        if (!real)
            return fmt_set_write_error(error, path, errno);
        out->path = g_strdup(real);
        free(real);
    } else if (errno == ENOENT) {
        out->path = g_strdup(path);
    } else {
        return fmt_set_write_error(error, path, errno);
    }
    out->folder = g_path_get_dirname(out->path);
    return true;
}

static char *temp_name(const FmtOutfile *out)
{
    g_autofree char *base = g_path_get_basename(out->path);

    return g_strdup_printf("%s/.%.200s.%08x%08x", out->folder, base, g_random_int(),
                           g_random_int());
}

static bool open_temp(FmtOutfile *out, GError **error)
{
    out->fd = open(out->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    while (out->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EEXIST)) {
        g_free(out->temp);
        out->temp = temp_name(out);
        out->fd = open(out->temp, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    }
    if (out->fd >= 0)
        return true;
    g_clear_pointer(&out->temp, g_free);
    return fmt_set_write_error(error, out->path, errno);
}

char *fmt_size_text(uint64_t bytes)
{
    g_autofree char *text = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    g_auto(GStrv) parts = g_strsplit(text, "\u00a0", -1);

    return g_strjoinv(" ", parts);
}

static bool have_room(const FmtOutfile *out, uint64_t size_bytes, GError **error)
{
    struct statvfs fs;

    if (size_bytes == 0 || fallocate(out->fd, 0, 0, size_bytes) == 0 || errno != ENOSPC)
        return true;

    int errnum = errno;
    g_autofree char *want = fmt_size_text(size_bytes);
    fmt_set_write_error(error, out->path, errnum);
    if (fstatvfs(out->fd, &fs) == 0) {
        g_autofree char *have = fmt_size_text((uint64_t)fs.f_bavail * fs.f_frsize);

        g_prefix_error(error, "%s are needed in %s, %s are free: ", want, out->folder, have);
    }
    return false;
}

FmtOutfile *fmt_outfile_new(const char *path, uint64_t size_bytes, GError **error)
{
    g_autoptr(FmtOutfile) out = g_new0(FmtOutfile, 1);

    out->fd = -1;
    if (!resolve(out, path, error) || !open_temp(out, error) || !have_room(out, size_bytes, error))
        return NULL;
    return g_steal_pointer(&out);
}

void fmt_outfile_free(FmtOutfile *out)
{
    if (!out)
        return;
    if (out->temp)
        unlink(out->temp);
    if (out->fd >= 0)
        close(out->fd);
    g_free(out->temp);
    g_free(out->folder);
    g_free(out->path);
    g_free(out);
}

int fmt_outfile_fd(const FmtOutfile *out)
{
    return out->fd;
}

// A file without a name gets a temporary one: only rename can replace what is there.
static bool give_name(FmtOutfile *out)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", out->fd);

    while (!out->temp) {
        g_autofree char *name = temp_name(out);

        if (linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0)
            out->temp = g_steal_pointer(&name);
        else if (errno != EEXIST)
            return false;
    }
    return true;
}

static bool sync_folder(const FmtOutfile *out)
{
    int dir = open(out->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = dir >= 0 && (fsync(dir) == 0 || errno == EINVAL);
    int errnum = errno;

    if (dir >= 0)
        close(dir);
    errno = errnum;
    return ok;
}

bool fmt_outfile_commit(FmtOutfile *out, GError **error)
{
    if (fsync(out->fd) != 0 || !give_name(out) || rename(out->temp, out->path) != 0)
        return fmt_set_write_error(error, out->path, errno);
    g_clear_pointer(&out->temp, g_free);
    if (!sync_folder(out))
        return fmt_set_write_error(error, out->path, errno);
    return true;
}
