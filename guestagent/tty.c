// SPDX-License-Identifier: GPL-2.0-or-later
// Pseudo terminals: pairs under the number they had, their open files, controlling terminals.
//
// A pair is made with the first of its files, and all of them are opened then: those that were hung
// up first, as nothing but a hangup makes such a file. The agent keeps the slave open until the
// processes are there: their session takes it as its terminal.

#include "guestagent/tty.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/fork.h"

#define PTMX       "/dev/ptmx"
#define PTMX_RDEV  makedev(5, 2)
#define MAX_NUMBER (1 << 20)

// Neither side lives: all files of the slave are hung up.
static bool is_dead(const struct fmt_tty *rec)
{
    return rec->state & (FMT_TTY_MASTER_CLOSED | FMT_TTY_OUTSIDE);
}

static const struct fmt_tty_file *side_of(AgentRestore *r, const struct fmt_file *f,
                                          const struct fmt_tty **ret_tty)
{
    const struct fmt_tty_file *side = fmt_image_by_ref(r->img, f->object, FMT_TTY_FILE);

    *ret_tty = side ? fmt_image_by_ref(r->img, side->tty, FMT_TTY) : NULL;
    return side;
}

// The next FILE of a pair, from *at on.
static const struct fmt_file *next_file(AgentRestore *r, const struct fmt_tty *rec, size_t *at,
                                        const struct fmt_tty_file **ret_side)
{
    const struct fmt_file *f;

    for (; FMT_NEXT(r->img, FILE, *at, f); (*at)++) {
        const struct fmt_tty *tty = NULL;

        if (f->kind != FMT_FILE_TTY || !g_hash_table_contains(r->files, &f->rec.objref))
            continue;
        *ret_side = side_of(r, f, &tty);
        if (tty != rec)
            continue;
        (*at)++;
        return f;
    }
    return NULL;
}

// A master under this number, or any: those below it are taken for a moment. -1 with errno.
static int obtain(const char *path, uint64_t number, bool exactly)
{
    g_autoptr(GArray) others = g_array_new(false, false, sizeof(int));
    int fd = -1, got = -1, error = 0;

    while ((fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)) >= 0) {
        if (ioctl(fd, TIOCGPTN, &got) < 0 || got >= (int)number)
            break;
        g_array_append_val(others, fd);
    }
    error = errno;
    if (fd >= 0 && got != (int)number && exactly) {
        close(fd);
        fd = -1;
        error = EBUSY;
    }
    for (guint i = 0; i < others->len; i++)
        close(g_array_index(others, int, i));
    errno = error;
    return fd;
}

/* ---- plan ---- */

static void plan_master(AgentRestore *r, const struct fmt_file *f, uint64_t pid, int64_t fd)
{
    const char *path = f->path ? f->path : PTMX;
    struct stat st;

    if ((f->mode & 3) != 3)
        agent_refuse(r, "pty", pid, fd, "%s is not open for both reading and writing", path);
    else if (stat(path, &st) < 0)
        agent_refuse(r, "file-missing", pid, fd, "%s: %s", path, g_strerror(errno));
    else if (!S_ISCHR(st.st_mode) || st.st_rdev != PTMX_RDEV)
        agent_refuse(r, "file-type", pid, fd, "%s makes no pseudo terminals on this machine", path);
}

static void plan_slave(AgentRestore *r, const struct fmt_file *f, uint64_t pid, int64_t fd)
{
    g_autofree char *folder = g_path_get_dirname(f->path ? f->path : "/dev/pts/");
    struct statfs fs;

    if (statfs(folder, &fs) < 0)
        agent_refuse(r, "file-missing", pid, fd, "%s: %s", folder, g_strerror(errno));
    else if (fs.f_type != DEVPTS_SUPER_MAGIC)
        agent_refuse(r, "file-type", pid, fd, "no devpts is mounted at %s", folder);
}

// Also by a slave that has no name any more.
static bool is_taken(uint64_t number)
{
    const int fd = obtain(PTMX, number, true);

    if (fd >= 0)
        close(fd);
    return fd < 0;
}

static void plan_pair(AgentRestore *r, const struct fmt_tty *rec, uint64_t pid, int64_t fd)
{
    const struct fmt_tty_file *side;
    unsigned n_masters = 0;
    const char *why;

    for (size_t at = 0; next_file(r, rec, &at, &side);)
        n_masters += side->side == FMT_TTY_MASTER;
    if (rec->index >= MAX_NUMBER || n_masters != !is_dead(rec))
        agent_refuse(r, "pty", pid, fd, "the image of a terminal contradicts itself");
    else if (is_dead(rec) && is_taken(rec->index))
        agent_note(r, "pty-taken", pid, fd,
                   "it was hung up, and shows another number than %" G_GUINT64_FORMAT, rec->index);
    else if (is_taken(rec->index))
        agent_refuse(r, "pty-taken", pid, fd,
                     "/dev/pts/%" G_GUINT64_FORMAT " is in use on this machine", rec->index);
    if (!is_dead(rec) && !agent_tty_state_plan(rec, &why))
        agent_refuse(r, "pty", pid, fd, "/dev/pts/%" G_GUINT64_FORMAT ": %s", rec->index, why);
}

static void plan(AgentRestore *r, const struct fmt_file *f)
{
    const struct fmt_tty *rec;
    const struct fmt_tty_file *side = side_of(r, f, &rec), *first_side;
    uint64_t pid;
    int64_t fd;
    size_t at = 0;

    agent_file_user(r, f->rec.objref, &pid, &fd);
    if (!side || !rec || side->side > FMT_TTY_CONTROLLING) {
        agent_refuse(r, "pty", pid, fd, "the image lacks the terminal");
        return;
    }
    if (side->side == FMT_TTY_MASTER)
        plan_master(r, f, pid, fd);
    else if (side->side == FMT_TTY_SLAVE)
        plan_slave(r, f, pid, fd);
    if (next_file(r, rec, &at, &first_side) == f)
        plan_pair(r, rec, pid, fd);
}

/* ---- pairs ---- */

// The agent's own.
static int open_slave(AgentRestore *r, const struct agent_tty *t, GError **error)
{
    const int fd = ioctl(t->master, TIOCGPTPEER, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0) {
        agent_fail_errno(error, "slave of a terminal");
        return -1;
    }
    return agent_fd_up(r, fd, error);
}

// As /dev/tty by a process that has it for its terminal. A child of ours shares our descriptors.
static int open_controlling(AgentRestore *r, const struct agent_tty *t, const struct fmt_file *f,
                            GError **error)
{
    const int flags = (int)(f->flags & (AGENT_OPEN_FLAGS | O_ACCMODE)) | O_CLOEXEC;
    int report[2], fd = -1;

    if (pipe2(report, O_CLOEXEC | O_NONBLOCK) < 0) {
        agent_fail_errno(error, "pipe");
        return -1;
    }
    const pid_t child = agent_fork_high(CLONE_FILES);

    if (child == 0) {
        if (setsid() >= 0 && ioctl(t->slave, TIOCSCTTY, 0) == 0)
            fd = open("/dev/tty", flags);
        _exit(write(report[1], &fd, sizeof fd) != sizeof fd);
    }
    if (child > 0)
        while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
            ;
    if (child < 0 || read(report[0], &fd, sizeof fd) != sizeof fd)
        fd = -1;
    close(report[0]);
    close(report[1]);
    if (fd < 0) {
        agent_fail(error, "it cannot be opened as a controlling terminal");
        return -1;
    }
    return agent_fd_up(r, fd, error);
}

static bool open_file(AgentRestore *r, const struct agent_tty *t, const struct fmt_file *f,
                      const struct fmt_tty_file *side, GError **error)
{
    const int flags = (int)(f->flags & (AGENT_OPEN_FLAGS | O_ACCMODE));
    const int fd = side->side == FMT_TTY_MASTER        ? agent_fd_up(r, dup(t->master), error)
                   : side->side == FMT_TTY_CONTROLLING ? open_controlling(r, t, f, error)
                                                       : agent_reopen(r, t->slave, flags, error);

    if (fd < 0 || (side->side == FMT_TTY_MASTER && !agent_fd_status(fd, f, error)))
        return false;
    agent_file_set_fd(r, f->rec.objref, fd);
    return true;
}

// Those of the slave that were hung up, or the others. *ret_n counts them.
static bool open_files(AgentRestore *r, const struct agent_tty *t, bool hung_up, unsigned *ret_n,
                       GError **error)
{
    const struct fmt_tty_file *side;
    const struct fmt_file *f;

    *ret_n = 0;
    for (size_t at = 0; (f = next_file(r, t->rec, &at, &side));) {
        if ((side->side != FMT_TTY_MASTER && (side->hung_up || is_dead(t->rec))) != hung_up)
            continue;
        (*ret_n)++;
        if (!open_file(r, t, f, side, error))
            return false;
    }
    return true;
}

// The node has the owner that it had.
static bool dress(const struct agent_tty *t, GError **error)
{
    const struct fmt_tty *rec = t->rec;
    const struct timespec times[2] = {{rec->atime_ns / 1000000000, rec->atime_ns % 1000000000},
                                      {rec->mtime_ns / 1000000000, rec->mtime_ns % 1000000000}};

    if (!rec->mode)
        return true;
    return (fchown(t->slave, (uid_t)rec->uid, (gid_t)rec->gid) == 0 &&
            fchmod(t->slave, rec->mode & 07777) == 0 && futimens(t->slave, times) == 0) ||
           agent_fail_errno(error, "owner of a terminal");
}

static bool open_pair(AgentRestore *r, struct agent_tty *t, const char *path, GError **error)
{
    const int unlocked = 0;

    t->master = agent_fd_up(r, obtain(path, t->rec->index, !is_dead(t->rec)), error);
    if (t->master < 0) {
        g_prefix_error(error, "/dev/pts/%" G_GUINT64_FORMAT ": ", t->rec->index);
        return false;
    }
    if (ioctl(t->master, TIOCSPTLCK, &unlocked) < 0)
        return agent_fail_errno(error, "TIOCSPTLCK");
    t->slave = open_slave(r, t, error);
    return t->slave >= 0 && dress(t, error);
}

static void close_side(AgentRestore *r, int *fd)
{
    if (*fd >= 0)
        agent_fd_close(r, *fd);
    *fd = -1;
}

static bool make_pair(AgentRestore *r, struct agent_tty *t, const char *path, GError **error)
{
    unsigned n;

    if (!open_pair(r, t, path, error) || !open_files(r, t, true, &n, error))
        return false;
    if (is_dead(t->rec)) {
        close_side(r, &t->slave);
        close_side(r, &t->master); // hangs up
        return true;
    }
    if (n > 0) {
        if (ioctl(t->slave, TIOCVHANGUP) < 0)
            return agent_fail_errno(error, "TIOCVHANGUP");
        close_side(r, &t->slave);
        if ((t->slave = open_slave(r, t, error)) < 0)
            return false;
    }
    return agent_tty_state(t, error) && dress(t, error) && open_files(r, t, false, &n, error);
}

static struct agent_tty *find(AgentRestore *r, const struct fmt_tty *rec)
{
    return g_hash_table_lookup(r->objects, &rec->rec.objref);
}

static int open_tty(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_tty *rec;
    const struct fmt_tty_file *side;
    const struct fmt_file *other;
    const char *path = PTMX;

    side_of(r, f, &rec);
    if (find(r, rec))
        return agent_file_fd(r, f->rec.objref);
    for (size_t at = 0; (other = next_file(r, rec, &at, &side));)
        if (side->side == FMT_TTY_MASTER && other->path)
            path = other->path;
    struct agent_tty *t = g_new0(struct agent_tty, 1);
    t->rec = rec;
    t->master = t->slave = -1;
    g_hash_table_insert(r->objects, (void *)&rec->rec.objref, t);
    return make_pair(r, t, path, error) ? agent_file_fd(r, f->rec.objref) : -1;
}

/* ---- when the processes are there ---- */

static bool set_exclusive(int fd, bool on, GError **error)
{
    return !on || ioctl(fd, TIOCEXCL) == 0 || agent_fail_errno(error, "TIOCEXCL");
}

// Whether the image has the slave open, other than hung up.
static bool is_slave_open(AgentRestore *r, const struct fmt_tty *rec)
{
    const struct fmt_tty_file *side;
    const struct fmt_file *f;

    for (size_t at = 0; (f = next_file(r, rec, &at, &side));)
        if (side->side != FMT_TTY_MASTER && !side->hung_up)
            return true;
    return false;
}

// A master whose slave was never open waits for it; once the slave was open and is not, it gets
// errors. A slave that could not be opened once more (here: since it is locked) does not tell its
// master when it is closed.
static bool forget_slave(const struct agent_tty *t, GError **error)
{
    const int locked = 1;
    int fd;

    if (ioctl(t->master, TIOCSPTLCK, &locked) < 0)
        return agent_fail_errno(error, "TIOCSPTLCK");
    fd = ioctl(t->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == EIO)
        return true;
    close(fd);
    return agent_fail(error, "a terminal that is locked can be opened");
}

static bool settle(AgentRestore *r, const struct fmt_file *f, GError **error)
{
    const struct fmt_tty *rec;

    side_of(r, f, &rec);
    struct agent_tty *t = find(r, rec);
    const int locked = (rec->state & FMT_TTY_LOCKED) != 0;
    const bool never_open = !(rec->state & FMT_TTY_SLAVE_CLOSED) && !is_slave_open(r, rec);

    if (t->slave < 0)
        return true; // dead, or settled with another file
    if (!set_exclusive(t->master, rec->state & FMT_TTY_MASTER_EXCLUSIVE, error) ||
        !set_exclusive(t->slave, rec->state & FMT_TTY_SLAVE_EXCLUSIVE, error))
        return false;
    if (rec->state & FMT_TTY_MASTER_STOPPED && ioctl(t->master, TCXONC, TCOOFF) < 0)
        return agent_fail_errno(error, "TCXONC");
    if (never_open && !forget_slave(t, error))
        return false;
    if (ioctl(t->master, TIOCSPTLCK, &locked) < 0)
        return agent_fail_errno(error, "TIOCSPTLCK");
    close_side(r, &t->slave);
    return true;
}

/* ---- controlling terminals ---- */

// That of its session, where both go along.
static const struct fmt_tty *terminal_of(const AgentProc *p)
{
    const struct fmt_tty *rec = fmt_image_by_ref(p->r->img, p->rec->terminal, FMT_TTY);

    return rec && !is_dead(rec) && rec->session == p->rec->sid && p->sid == p->rec->sid ? rec
                                                                                        : NULL;
}

bool agent_tty_is_lost(const AgentProc *p)
{
    return p->rec->terminal && !terminal_of(p);
}

uint64_t agent_tty_pgid(const AgentProc *p)
{
    const struct fmt_tty *rec = terminal_of(p);

    return rec && rec->session == p->rec->pid ? rec->pgrp : 0;
}

int agent_tty_fd(const AgentProc *p)
{
    const struct fmt_tty *rec = terminal_of(p);
    const struct agent_tty *t = rec ? find(p->r, rec) : NULL;

    return t ? t->slave : -1;
}

const struct agent_file_kind agent_file_tty = {
    .kind = FMT_FILE_TTY,
    .name = "terminal",
    .plan = plan,
    .open = open_tty,
    .later = {[AGENT_FILE_ARM] = settle},
};
