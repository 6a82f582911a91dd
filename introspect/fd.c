// SPDX-License-Identifier: GPL-2.0-or-later
// Descriptor tables (struct files_struct), and who else in the guest has a file open.
#include "introspect/fd.h"

#include "introspect/process.h"
#include "introspect/reader.h"

#define MAX_FDS (1u << 24) // fs.nr_open is 2^20 unless somebody raised it

bool intro_walk_fds(IntroKernel *k, struct gva files, intro_fd_fn fn, void *user, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva fdt = rd_ptr(&r, files, M_files_fdt);
    struct gva fds = rd_ptr(&r, fdt, M_fdt_fd);
    struct gva open_fds = rd_ptr(&r, fdt, M_fdt_open_fds);
    struct gva cloexec = rd_ptr(&r, fdt, M_fdt_close_on_exec);
    uint64_t n = rd(&r, fdt, M_fdt_max_fds);

    if (!rd_done(&r, error))
        return false;
    if (n > MAX_FDS) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "files_struct at %#" G_GINT64_MODIFIER "x: room for %" G_GUINT64_FORMAT
                    " descriptors",
                    files.addr, n);
        return false;
    }
    for (uint64_t base = 0; base < n; base += 64) {
        uint64_t is_open = rd_u64_at(&r, GVA(open_fds.addr + base / 8));
        uint64_t is_cloexec = is_open ? rd_u64_at(&r, GVA(cloexec.addr + base / 8)) : 0;
        for (uint64_t fd = base; is_open; fd++, is_open >>= 1, is_cloexec >>= 1) {
            if (!(is_open & 1))
                continue;
            struct gva file = rd_ptr_at(&r, GVA(fds.addr + fd * 8));
            if (!rd_done(&r, error) || !fn(fd, file, is_cloexec & 1, user, error))
                return false;
        }
        if (!rd_done(&r, error))
            return false;
    }
    return true;
}

struct table {
    struct intro_ctx *c;
    uint64_t files_ref;
};

static bool capture_fd(uint64_t fd, struct gva file, bool cloexec, void *user, GError **error)
{
    struct table *t = user;

    t->c->fd = (int64_t)fd;
    // Reserved, not open yet: accept() and open() of a FIFO hold a number while they wait. Whoever
    // reserved it is in that call, and is either not at rest or enters the call again.
    if (!file.addr)
        return true;
    uint64_t ref = intro_file(t->c, file, error);
    if (!ref) {
        g_prefix_error(error, "descriptor %" G_GUINT64_FORMAT ": ", fd);
        return false;
    }
    struct fmt_fd *rec = fmt_image_add(t->c->img, FMT_FD);
    rec->files = t->files_ref;
    rec->fd = fd;
    rec->file = ref;
    rec->cloexec = cloexec;
    return true;
}

uint64_t intro_files(struct intro_ctx *c, struct gva files, GError **error)
{
    uint64_t known = intro_object_ref(c, files);

    if (known)
        return known;
    if (!intro_check_spinlock(c->k, intro_member_addr(c->k, files, M_files_lock), "files_struct",
                              error))
        return 0;

    struct fmt_files *rec = intro_object_add(c, files, FMT_FILES);
    struct table t = {.c = c, .files_ref = rec->rec.objref};
    bool ok = intro_walk_fds(c->k, files, capture_fd, &t, error);
    c->fd = -1;
    return ok ? t.files_ref : 0;
}

// The process of some task that uses the descriptor table; 0 for none.
static uint64_t pid_of_table(const struct intro_ctx *c, uint64_t files)
{
    const struct fmt_task *task;

    for (size_t i = 0; FMT_NEXT(c->img, TASK, i, task); i++) {
        const struct fmt_proc *proc = fmt_image_by_ref(c->img, task->proc, FMT_PROC);
        if (task->files == files && proc)
            return proc->pid;
    }
    return 0;
}

void intro_blame_holder(struct intro_ctx *c, uint64_t object)
{
    const struct fmt_fd *fd;

    c->pid = c->opt->pid;
    c->fd = -1;
    for (size_t i = 0; FMT_NEXT(c->img, FD, i, fd); i++) {
        const struct fmt_file *file = fmt_image_by_ref(c->img, fd->file, FMT_FILE);
        if (fd->file != object && (!file || file->object != object))
            continue;
        uint64_t pid = pid_of_table(c, fd->files);
        c->pid = pid ? pid : c->opt->pid;
        c->fd = (int64_t)fd->fd;
        return;
    }
}

/* ---- the rest of the guest ---- */

struct survey {
    IntroKernel *k;
    GHashTable *holders;
    const struct intro_process *process;
};

static bool note_holder(uint64_t fd, struct gva file, bool cloexec, void *user, GError **error)
{
    struct survey *s = user;
    struct gva inode;

    if (!file.addr)
        return true;
    if (!intro_get_ptr(s->k, file, M_file_inode, &inode, error))
        return false;
    const uint64_t keys[] = {file.addr, inode.addr};
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (!g_hash_table_contains(s->holders, GSIZE_TO_POINTER(keys[i])))
            g_hash_table_insert(s->holders, GSIZE_TO_POINTER(keys[i]),
                                g_strdup_printf("process %u (%s) as descriptor %" G_GUINT64_FORMAT,
                                                s->process->pid, s->process->comm, fd));
    }
    return true;
}

GHashTable *intro_outside_holders(struct intro_ctx *c, GError **error)
{
    g_autoptr(GPtrArray) processes = intro_list_processes(c->k, false, error);
    g_autoptr(GHashTable) holders = g_hash_table_new_full(NULL, NULL, NULL, g_free);

    if (!processes)
        return NULL;
    for (guint i = 0; i < processes->len; i++) {
        struct survey s = {.k = c->k, .holders = holders, .process = processes->pdata[i]};
        struct gva files;

        if (!intro_get_ptr(c->k, s.process->task, M_task_files, &files, error))
            return NULL;
        if (!files.addr || intro_object_ref(c, files))
            continue;
        if (!intro_walk_fds(c->k, files, note_holder, &s, error)) {
            g_prefix_error(error, "descriptors of process %u: ", s.process->pid);
            return NULL;
        }
    }
    return g_steal_pointer(&holders);
}
