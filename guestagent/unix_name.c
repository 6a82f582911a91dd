// SPDX-License-Identifier: GPL-2.0-or-later
// Names of unix sockets: abstract ones, and paths, which are bound as the program wrote them.

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/unix.h"

/*
 * getsockname() gives back the very bytes that were given to bind(): a path from a directory or
 * root that may no longer be anybody's, perhaps of an inode that was renamed or unlinked since. So
 * a child of ours binds the socket below a directory of its own, with that as its root or working
 * directory. The directory lies beside the place where the inode belongs, and at the end it is
 * moved there; one that was unlinked goes with the directory. Until then the inode is reached
 * through a descriptor, and a socket that was left behind at the place, which nobody listens on,
 * is kept aside in case all is undone.
 */

static const char *const scratch[] = {"/tmp", "/dev/shm", "/run", "/"};

static const char *name_of(const struct agent_sock *s, gsize *ret_len)
{
    return g_bytes_get_data(s->unix_rec->name, ret_len);
}

static bool is_abstract(const struct agent_sock *s)
{
    gsize len;

    return name_of(s, &len)[0] == '\0';
}

static socklen_t own_address(const struct agent_sock *s, struct sockaddr_un *ret)
{
    gsize len;
    const char *name = name_of(s, &len);

    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    memcpy(ret->sun_path, name, MIN(len, sizeof ret->sun_path));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + MIN(len, sizeof ret->sun_path));
}

/* ---- plan ---- */

// Whether a socket of this machine has the address. One of datagrams asks, so that nobody finds a
// connection: others answer that it is of the wrong type.
static bool is_in_use(const struct sockaddr_un *addr, socklen_t len)
{
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int failed = connect(fd, (const struct sockaddr *)addr, len) < 0 ? errno : 0;

    close(fd);
    return failed == 0 || failed == EPROTOTYPE || failed == EPERM || failed == EACCES;
}

// An abstract name; each type of socket has its own names.
static bool is_taken(const struct sockaddr_un *addr, socklen_t len, uint64_t type)
{
    const int fd = socket(AF_UNIX, (int)type | SOCK_CLOEXEC, 0);
    const bool taken = bind(fd, (const struct sockaddr *)addr, len) < 0 && errno == EADDRINUSE;

    close(fd);
    return taken;
}

static void plan_path(AgentRestore *r, const struct agent_sock *s, uint64_t pid, int64_t fd)
{
    const char *path = s->unix_rec->path;
    g_autofree char *dir = g_path_get_dirname(path);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;

    if (!agent_way_plan(r, dir)) {
        agent_refuse(r, "file-missing", pid, fd, "%s, where a socket is to be, is no directory",
                     dir);
        return;
    }
    if (lstat(path, &st) < 0)
        return;
    const int at = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);

    g_snprintf(addr.sun_path, sizeof addr.sun_path, "/proc/self/fd/%d", at);
    if (!S_ISSOCK(st.st_mode))
        agent_refuse(r, "socket-name", pid, fd, "%s, where a socket is to be, is something else",
                     path);
    else if (at < 0 || is_in_use(&addr, sizeof addr))
        agent_refuse(r, "socket-name", pid, fd, "%s is a socket that is in use on this machine",
                     path);
    if (at >= 0)
        close(at);
}

void agent_sock_name_plan(AgentRestore *r, const struct agent_sock *s)
{
    struct sockaddr_un addr;
    uint64_t pid;
    int64_t fd;
    gsize len;

    agent_file_user(r, agent_sock_file(r, s), &pid, &fd);
    name_of(s, &len);
    if (len == 0 || len > sizeof addr.sun_path ||
        (!is_abstract(s) && memchr(name_of(s, &len), 0, len)))
        agent_refuse(r, "socket", pid, fd, "a socket has an impossible name");
    else if (is_abstract(s) && is_taken(&addr, own_address(s, &addr), s->rec->type))
        agent_refuse(r, "socket-name", pid, fd,
                     "the abstract name @%.*s of a socket is in use on this machine", (int)len - 1,
                     addr.sun_path + 1);
    else if (s->unix_rec->path)
        plan_path(r, s, pid, fd);
}

/* ---- bind ---- */

// The directories of a path, "." dropped; a root has no parent.
static GPtrArray *components(const char *name)
{
    GPtrArray *ret = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) words = g_strsplit(name, "/", -1);

    for (char **word = words; *word; word++) {
        if (**word && strcmp(*word, ".") != 0)
            g_ptr_array_add(ret, g_strdup(*word));
    }
    return ret;
}

/*
 * Makes the directories that lead to `name` below `dir`, and returns where the last component will
 * be. *ret_cwd is where to begin with a relative name: so deep that ".." stays inside.
 */
static char *make_way(const char *dir, const char *name, char **ret_cwd)
{
    g_autoptr(GPtrArray) words = components(name);
    g_autoptr(GString) at = g_string_new(dir);
    const bool absolute = name[0] == '/';

    for (guint i = 0; !absolute && i < words->len; i++) {
        if (strcmp(g_ptr_array_index(words, i), "..") == 0)
            g_string_append(at, "/d");
    }
    if (g_mkdir_with_parents(at->str, 0700) < 0)
        return NULL;
    *ret_cwd = g_strdup(at->str);
    for (guint i = 0; i < words->len; i++) {
        const char *word = g_ptr_array_index(words, i);

        if (strcmp(word, "..") == 0) {
            if (at->len > strlen(dir))
                g_string_truncate(at, (gsize)(strrchr(at->str, '/') - at->str));
            continue;
        }
        g_string_append_printf(at, "/%s", word);
        if (i + 1 < words->len && mkdir(at->str, 0700) < 0 && errno != EEXIST)
            return NULL;
    }
    return g_strdup(at->str);
}

// In a child, which alone changes its root.
static bool bind_below(const char *dir, const char *cwd, const struct agent_sock *s)
{
    struct sockaddr_un addr;
    const socklen_t len = own_address(s, &addr);
    const pid_t child = fork();
    int status = 0;

    if (child == 0) {
        const bool moved = addr.sun_path[0] == '/' ? chroot(dir) == 0 : chdir(cwd) == 0;

        _exit(moved && bind(s->fd, (struct sockaddr *)&addr, len) == 0 ? 0 : errno);
    }
    if (child < 0)
        return false;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
    return errno == 0;
}

static char *make_dir(const char *real)
{
    g_autofree char *parent = real ? g_path_get_dirname(real) : NULL;

    for (size_t i = 0; i < (real ? 1 : G_N_ELEMENTS(scratch)); i++) {
        g_autofree char *dir = g_strconcat(real ? parent : scratch[i], "/.vmgraft-XXXXXX", NULL);

        if (mkdtemp(dir))
            return g_steal_pointer(&dir);
    }
    return NULL;
}

static bool bind_path(AgentRestore *r, struct agent_sock *s, GError **error)
{
    gsize len;
    const char *bytes = name_of(s, &len);
    g_autofree char *name = g_strndup(bytes, len), *cwd = NULL;
    struct agent_sock_name *n = &s->name;

    n->dir = make_dir(s->unix_rec->path);
    n->real = n->dir ? g_strdup(s->unix_rec->path) : NULL;
    if (!n->dir || !(n->staged = make_way(n->dir, name, &cwd)) || !bind_below(n->dir, cwd, s))
        return agent_fail_errno(error, "bind a socket to %s", name);
    n->at = agent_fd_up(r, open(n->staged, O_PATH | O_NOFOLLOW | O_CLOEXEC), error);
    if (n->at < 0)
        return false;
    if (!n->real) {
        agent_sock_name_clear(n, false);
        return true;
    }
    if (chmod(n->staged, s->unix_rec->path_mode & 07777) < 0 ||
        lchown(n->staged, (uid_t)s->unix_rec->path_uid, (gid_t)s->unix_rec->path_gid) < 0)
        return agent_fail_errno(error, "%s", n->staged);
    return true;
}

bool agent_sock_name_bind(AgentRestore *r, struct agent_sock *s, GError **error)
{
    struct sockaddr_un addr;

    if (!is_abstract(s))
        return bind_path(r, s, error);
    if (bind(s->fd, (struct sockaddr *)&addr, own_address(s, &addr)) < 0)
        return agent_fail_errno(error, "bind a socket to @%s", addr.sun_path + 1);
    return true;
}

socklen_t agent_sock_name_address(const struct agent_sock *s, struct sockaddr_un *ret)
{
    if (is_abstract(s))
        return own_address(s, ret);
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    g_snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d", s->name.at);
    return sizeof *ret;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    remove(path);
    return 0;
}

static void remove_dir(struct agent_sock_name *name)
{
    if (name->dir)
        nftw(name->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    g_clear_pointer(&name->dir, g_free);
}

bool agent_sock_name_place(struct agent_sock_name *name, GError **error)
{
    struct stat st;

    if (!name->real)
        return true;
    if (lstat(name->real, &st) == 0) {
        g_autofree char *aside = g_strconcat(name->dir, "/.aside", NULL);

        if (!S_ISSOCK(st.st_mode))
            return agent_fail(error, "%s is no longer a socket", name->real);
        if (rename(name->real, aside) < 0)
            return agent_fail_errno(error, "%s", name->real);
        name->aside = g_steal_pointer(&aside);
    }
    if (rename(name->staged, name->real) < 0)
        return agent_fail_errno(error, "%s", name->real);
    name->placed = true;
    // Whoever watches the place is not listening yet.
    if (!name->aside)
        remove_dir(name);
    return true;
}

void agent_sock_name_clear(struct agent_sock_name *name, bool kept)
{
    if (!kept && name->placed)
        unlink(name->real);
    if (!kept && name->aside)
        rename(name->aside, name->real);
    remove_dir(name);
    g_clear_pointer(&name->staged, g_free);
    g_clear_pointer(&name->real, g_free);
    g_clear_pointer(&name->aside, g_free);
    name->placed = false;
}
