// SPDX-License-Identifier: GPL-2.0-or-later
// Puts the agent and its service into a guest's disk, looks for them, and takes them away.
#include "cli/agent_disk.h"

#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/services.h"
#include "guestagent/protocol.h"

#define TEMPORARY       ".vmgraft-agent.new" // beside the file that it becomes
#define SELINUX_CONFIG  "/etc/selinux/config"
#define SELINUX_XATTR   "security.selinux"
#define MAX_AGENT_BYTES (64 << 20)
#define MAX_TEXT_BYTES  (64 << 10)

// In the second line of each script; a file without it is somebody else's.
static const char ours[] = "# Put here by `vmgraft agent install`";

struct link {
    const char *path, *to;
};

// One row for each way to start services. A service is enabled by symbolic links.
static const struct service {
    const char *name;
    const char *resource;
    const char *path;
    int mode;
    const char *enabled; // globs: links of which one is enough for it to start with the guest,
    const char *links;   // and all that are to be taken away
    struct link link[8]; // made where none is there
} services[] = {
    {
        .name = "systemd",
        .resource = "/vmgraft/vmgraft-agent.service",
        .path = "/etc/systemd/system/vmgraft-agent.service",
        .mode = 0644,
        .enabled = "/etc/systemd/system/*.wants/vmgraft-agent.service",
        .links = "/etc/systemd/system/*.wants/vmgraft-agent.service",
        .link = {{"/etc/systemd/system/multi-user.target.wants/vmgraft-agent.service",
                  "/etc/systemd/system/vmgraft-agent.service"}},
    },
    {
        .name = "openrc",
        .resource = "/vmgraft/vmgraft-agent.openrc",
        .path = "/etc/init.d/vmgraft-agent",
        .mode = 0755,
        .enabled = "/etc/runlevels/*/vmgraft-agent",
        .links = "/etc/runlevels/*/vmgraft-agent",
        .link = {{"/etc/runlevels/default/vmgraft-agent", "/etc/init.d/vmgraft-agent"}},
    },
    {
        .name = "sysvinit",
        .resource = "/vmgraft/vmgraft-agent.sysvinit",
        .path = "/etc/init.d/vmgraft-agent",
        .mode = 0755,
        .enabled = "/etc/rc[2-5].d/S[0-9][0-9]vmgraft-agent",
        .links = "/etc/rc[0-6S].d/[SK][0-9][0-9]vmgraft-agent",
        .link = {{"/etc/rc0.d/K01vmgraft-agent", "../init.d/vmgraft-agent"},
                 {"/etc/rc1.d/K01vmgraft-agent", "../init.d/vmgraft-agent"},
                 {"/etc/rc2.d/S99vmgraft-agent", "../init.d/vmgraft-agent"},
                 {"/etc/rc3.d/S99vmgraft-agent", "../init.d/vmgraft-agent"},
                 {"/etc/rc4.d/S99vmgraft-agent", "../init.d/vmgraft-agent"},
                 {"/etc/rc5.d/S99vmgraft-agent", "../init.d/vmgraft-agent"},
                 {"/etc/rc6.d/K01vmgraft-agent", "../init.d/vmgraft-agent"}},
    },
};

static bool fail(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static bool fail(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s", text);
    return false;
}

static bool fail_path(CliDisk *disk, const char *doing, const char *path, GError **error)
{
    g_autofree char *what = g_strdup_printf("cannot %s %s", doing, path);

    return cli_disk_fail(disk, what, error);
}

// What /sbin/init is says more than what is installed beside it.
static const struct service *find_service(CliDisk *disk, GError **error)
{
    static const struct {
        const char *path, *means;
    } hints[] = {
        {"/sbin/openrc", "openrc"},
        {"/usr/sbin/openrc", "openrc"},
        {"/etc/rc2.d", "sysvinit"},
    };
    guestfs_h *g = cli_disk_handle(disk);
    char *init = guestfs_realpath(g, "/sbin/init");
    const char *name = init && g_str_has_suffix(init, "/systemd") ? "systemd" : NULL;

    free(init);
    for (size_t i = 0; !name && i < G_N_ELEMENTS(hints); i++) {
        if (guestfs_exists(g, hints[i].path) == 1)
            name = hints[i].means;
    }
    for (size_t i = 0; name && i < G_N_ELEMENTS(services); i++) {
        if (strcmp(services[i].name, name) == 0)
            return &services[i];
    }
    fail(error, "%s starts its services neither by systemd nor OpenRC nor sysvinit",
         cli_disk_system(disk));
    return NULL;
}

// A file of the guest; NULL without an error where it is missing, or is none.
static char *read_text(CliDisk *disk, const char *path)
{
    guestfs_h *g = cli_disk_handle(disk);
    size_t len;
    char *raw, *text;

    if (guestfs_is_file_opts(g, path, GUESTFS_IS_FILE_OPTS_FOLLOWSYMLINKS, 1, -1) != 1 ||
        guestfs_filesize(g, path) > MAX_TEXT_BYTES)
        return NULL;
    raw = guestfs_read_file(g, path, &len);
    text = raw ? g_strndup(raw, len) : NULL;
    free(raw);
    return text;
}

// The version that an agent's file says it is of; NULL: it is no agent's.
static char *find_version(const char *bytes, size_t len)
{
    const char *mark = AGENT_VERSION_MARK, *end = bytes + len;
    const char *at = memmem(bytes, len, mark, strlen(mark)), *stop;

    if (!at)
        return NULL;
    at += strlen(mark);
    for (stop = at; stop < end && (g_ascii_isalnum(*stop) || *stop == '.'); stop++)
        ;
    return stop > at ? g_strndup(at, (gsize)(stop - at)) : NULL;
}

// *ret: NULL where there is no such file, or it is no agent.
static bool read_version(CliDisk *disk, char **ret, GError **error)
{
    guestfs_h *g = cli_disk_handle(disk);
    struct stat st;
    void *bytes;
    int fd;

    *ret = NULL;
    if (guestfs_is_file(g, CLI_AGENT_PATH) != 1 ||
        guestfs_filesize(g, CLI_AGENT_PATH) > MAX_AGENT_BYTES)
        return true;
    fd = memfd_create("vmgraft-agent", MFD_CLOEXEC);
    if (fd < 0)
        return fail(error, "no memory for a file of the guest");
    g_autofree char *here = g_strdup_printf("/proc/self/fd/%d", fd);
    if (guestfs_download(g, CLI_AGENT_PATH, here) < 0) {
        close(fd);
        return fail_path(disk, "read", CLI_AGENT_PATH, error);
    }
    bytes = fstat(fd, &st) == 0 && st.st_size > 0
                ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)
                : MAP_FAILED;
    if (bytes != MAP_FAILED) {
        *ret = find_version(bytes, (size_t)st.st_size);
        munmap(bytes, (size_t)st.st_size);
    }
    close(fd);
    return true;
}

static bool is_enabled(CliDisk *disk, const struct service *s)
{
    g_autoptr(CliDiskList) found = guestfs_glob_expand(cli_disk_handle(disk), s->enabled);

    return found && found[0];
}

static bool look(CliDisk *disk, const struct service *s, struct cli_agent_disk *ret, GError **error)
{
    g_autofree char *script = read_text(disk, s->path);

    if (!read_version(disk, &ret->version, error))
        return false;
    ret->service = s->name;
    ret->scripted = script != NULL;
    ret->enabled = script && is_enabled(disk, s);
    return true;
}

bool cli_agent_disk_look(CliDisk *disk, struct cli_agent_disk *ret, GError **error)
{
    const struct service *s = find_service(disk, error);

    return s && look(disk, s, ret, error);
}

void cli_agent_disk_clear(struct cli_agent_disk *state)
{
    g_free(state->version);
    *state = (struct cli_agent_disk){0};
}

struct labels {
    bool used;    // the guest has SELinux switched on
    bool missing; // and something was written for which there was no label to take
};

static bool uses_selinux(CliDisk *disk)
{
    g_autofree char *config = read_text(disk, SELINUX_CONFIG);

    return config && g_regex_match_simple("^\\s*SELINUX\\s*=\\s*(enforcing|permissive)\\b", config,
                                          G_REGEX_MULTILINE, 0);
}

// The label of the directory is what the policy gives to its programs and units as well; where it
// is not, or there is none, the guest labels its files anew.
static bool label(CliDisk *disk, struct labels *labels, const char *path, const char *like,
                  GError **error)
{
    guestfs_h *g = cli_disk_handle(disk);
    size_t len = 0;
    char *value;
    bool good;

    if (!labels->used)
        return true;
    value = like ? guestfs_lgetxattr(g, like, SELINUX_XATTR, &len) : NULL;
    if (!value) {
        labels->missing = true;
        return true;
    }
    good = guestfs_lsetxattr(g, SELINUX_XATTR, value, (int)len, path) == 0;
    free(value);
    return good || fail_path(disk, "label", path, error);
}

// Where a file's contents come from: a file of the host, or bytes.
struct contents {
    const char *file;
    const char *bytes;
    gsize len;
    const char *sha256;
};

static bool is_the_same(CliDisk *disk, const char *path, const struct contents *from, int mode)
{
    guestfs_h *g = cli_disk_handle(disk);
    struct guestfs_statns *st;
    char *sum;
    bool same;

    if (guestfs_is_file(g, path) != 1)
        return false;
    st = guestfs_lstatns(g, path);
    same = st && (st->st_mode & 07777) == mode && st->st_uid == 0 && st->st_gid == 0;
    guestfs_free_statns(st);
    if (!same)
        return false;
    sum = guestfs_checksum(g, "sha256", path);
    same = g_strcmp0(sum, from->sha256) == 0;
    free(sum);
    return same;
}

static bool write_beside(CliDisk *disk, const char *temporary, const struct contents *from,
                         int mode)
{
    guestfs_h *g = cli_disk_handle(disk);

    return guestfs_rm_f(g, temporary) == 0 &&
           (from->file ? guestfs_upload(g, from->file, temporary)
                       : guestfs_write(g, temporary, from->bytes, from->len)) == 0 &&
           guestfs_chown(g, 0, 0, temporary) == 0 && guestfs_chmod(g, mode, temporary) == 0;
}

// Replaces the file as a whole, unless it is so already.
static bool put_file(CliDisk *disk, const char *path, const struct contents *from, int mode,
                     bool label_of_directory, struct labels *labels, bool *changed, GError **error)
{
    guestfs_h *g = cli_disk_handle(disk);
    g_autofree char *directory = g_path_get_dirname(path);
    g_autofree char *temporary = g_build_filename(directory, TEMPORARY, NULL);

    if (is_the_same(disk, path, from, mode))
        return true;
    if (guestfs_mkdir_p(g, directory) < 0)
        return fail_path(disk, "make", directory, error);
    if (!write_beside(disk, temporary, from, mode)) {
        fail_path(disk, "write", path, error);
        guestfs_rm_f(g, temporary);
        return false;
    }
    // On the disk before it has the name: a power cut must not leave an empty file under it.
    if (!label(disk, labels, temporary, label_of_directory ? directory : NULL, error) ||
        guestfs_sync(g) < 0 || guestfs_rename(g, temporary, path) < 0) {
        if (!error || !*error)
            fail_path(disk, "write", path, error);
        guestfs_rm_f(g, temporary);
        return false;
    }
    *changed = true;
    return true;
}

static bool enable(CliDisk *disk, const struct service *s, struct labels *labels, bool *changed,
                   GError **error)
{
    guestfs_h *g = cli_disk_handle(disk);

    if (is_enabled(disk, s))
        return true;
    for (const struct link *link = s->link; link < &s->link[8] && link->path; link++) {
        g_autofree char *directory = g_path_get_dirname(link->path);

        if (guestfs_mkdir_p(g, directory) < 0 || guestfs_ln_sf(g, link->to, link->path) < 0)
            return fail_path(disk, "make", link->path, error);
        if (!label(disk, labels, link->path, directory, error))
            return false;
    }
    *changed = true;
    return true;
}

static bool check_ours(CliDisk *disk, const struct service *s, GError **error)
{
    g_autofree char *script = read_text(disk, s->path), *version = NULL;
    guestfs_h *g = cli_disk_handle(disk);

    if (!read_version(disk, &version, error))
        return false;
    if (guestfs_exists(g, CLI_AGENT_PATH) == 1 && !version)
        return fail(error, "%s in the guest is no agent, and stays as it is", CLI_AGENT_PATH);
    if (guestfs_exists(g, s->path) == 1 && (!script || !strstr(script, ours)))
        return fail(error, "%s in the guest is not vmgraft's, and stays as it is", s->path);
    return true;
}

static bool relabel(CliDisk *disk, const struct labels *labels, GPtrArray *notes, GError **error)
{
    if (!labels->missing)
        return true;
    if (guestfs_touch(cli_disk_handle(disk), "/.autorelabel") < 0)
        return fail_path(disk, "make", "/.autorelabel", error);
    g_ptr_array_add(notes, g_strdup("the guest gives its files SELinux labels anew when it starts "
                                    "next (/.autorelabel), which takes a while"));
    return true;
}

bool cli_agent_disk_install(CliDisk *disk, const char *file, GPtrArray *notes, bool *ret_changed,
                            GError **error)
{
    const struct service *s = find_service(disk, error);
    struct labels labels = {.used = uses_selinux(disk)};
    g_autoptr(GBytes) script = NULL;
    g_autoptr(GMappedFile) agent = NULL;
    bool changed = false;

    if (!s || !check_ours(disk, s, error))
        return false;
    agent = g_mapped_file_new(file, FALSE, error);
    script = g_resource_lookup_data(services_get_resource(), s->resource, 0, error);
    if (!agent || !script)
        return false;
    const char *text = g_bytes_get_data(script, NULL);
    g_autofree char *agent_sum =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, (guchar *)g_mapped_file_get_contents(agent),
                                    g_mapped_file_get_length(agent));
    g_autofree char *script_sum = g_compute_checksum_for_bytes(G_CHECKSUM_SHA256, script);
    const struct contents program = {.file = file, .sha256 = agent_sum};
    const struct contents unit = {
        .bytes = text, .len = g_bytes_get_size(script), .sha256 = script_sum};
    // An init script has a label of its own, a unit that of its directory.
    bool as_directory = strcmp(s->name, "systemd") == 0;

    if (!put_file(disk, CLI_AGENT_PATH, &program, 0755, true, &labels, &changed, error) ||
        !put_file(disk, s->path, &unit, s->mode, as_directory, &labels, &changed, error) ||
        !enable(disk, s, &labels, &changed, error) || !relabel(disk, &labels, notes, error))
        return false;
    *ret_changed = changed;
    return true;
}

// Removes the file if it is there.
static bool remove_file(CliDisk *disk, const char *path, bool *changed, GError **error)
{
    guestfs_h *g = cli_disk_handle(disk);
    struct guestfs_statns *st = guestfs_lstatns(g, path);

    if (!st)
        return true;
    guestfs_free_statns(st);
    if (guestfs_rm(g, path) < 0)
        return fail_path(disk, "remove", path, error);
    *changed = true;
    return true;
}

// What a run that was killed has left beside a file.
static bool remove_temporary(CliDisk *disk, const char *path, bool *changed, GError **error)
{
    g_autofree char *directory = g_path_get_dirname(path);
    g_autofree char *temporary = g_build_filename(directory, TEMPORARY, NULL);

    return remove_file(disk, temporary, changed, error);
}

bool cli_agent_disk_remove(CliDisk *disk, GPtrArray *notes, bool *ret_changed, GError **error)
{
    const struct service *s = find_service(disk, error);
    g_autofree char *script = s ? read_text(disk, s->path) : NULL, *version = NULL;
    g_autoptr(CliDiskList) links = NULL;
    bool changed = false;

    if (!s || !read_version(disk, &version, error))
        return false;
    if (script && !strstr(script, ours)) {
        g_ptr_array_add(notes, g_strdup_printf("%s is not vmgraft's, and stays", s->path));
    } else {
        links = guestfs_glob_expand(cli_disk_handle(disk), s->links);
        for (CliDiskList *at = links; at && *at; at++) {
            if (!remove_file(disk, *at, &changed, error))
                return false;
        }
        if (script && !remove_file(disk, s->path, &changed, error))
            return false;
    }
    if ((version && !remove_file(disk, CLI_AGENT_PATH, &changed, error)) ||
        !remove_temporary(disk, CLI_AGENT_PATH, &changed, error) ||
        !remove_temporary(disk, s->path, &changed, error))
        return false;
    *ret_changed = changed;
    return true;
}
