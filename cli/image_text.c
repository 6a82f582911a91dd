// SPDX-License-Identifier: GPL-2.0-or-later
// An image for people.
#include "cli/image_text.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cli/cli.h"

static void print_line(const char *name, const char *value)
{
    g_autofree char *text = cli_printable(value);

    printf("%-9s %s\n", name, text);
}

static void print_head(const FmtImage *img)
{
    const struct fmt_head *head = fmt_image_head((FmtImage *)img);
    time_t seconds = (time_t)(head->realtime_ns / 1000000000);
    g_autoptr(GDateTime) when = g_date_time_new_from_unix_utc(seconds);
    g_autofree char *time = when ? g_date_time_format_iso8601(when) : NULL;
    g_autofree char *size = cli_format_bytes(head->n_pages * 4096);
    g_autofree char *kernel = g_strdup_printf("%s %s", head->release, head->machine);

    print_line("source", head->source);
    print_line("host", head->hostname);
    print_line("kernel", kernel);
    print_line("taken", time);
    if (head->pause_ns > 0)
        printf("%-9s %.1f ms\n", "paused", (double)head->pause_ns / 1e6);
    if (head->n_pages > 0)
        printf("%-9s %" G_GUINT64_FORMAT " pages, %s\n", "contents", head->n_pages, size);
    print_line("written", head->writer);
    if (head->forensic)
        puts("forensic  recorded as found; cannot be restored");
}

static void print_notes(const FmtImage *img)
{
    static const char *const levels[] = {"note", "lost", "refused"};
    const struct fmt_note *note;

    for (size_t i = 0; FMT_NEXT(img, NOTE, i, note); i++) {
        g_autofree char *text = cli_printable(note->text);

        printf("%-9s ", note->level < G_N_ELEMENTS(levels) ? levels[note->level] : "note");
        if (note->pid > 0)
            printf("pid %" G_GUINT64_FORMAT " ", note->pid);
        if (note->fd >= 0)
            printf("fd %" G_GINT64_FORMAT " ", note->fd);
        printf("%s: %s\n", note->kind, text);
    }
}

static void print_tasks(const FmtImage *img, const struct fmt_proc *proc)
{
    static const char *const states[] = {"user mode", "preempted", "system call", "frozen"};
    const struct fmt_task *task;

    for (size_t i = 0; FMT_NEXT(img, TASK, i, task); i++) {
        g_autofree char *comm = cli_printable(task->comm);

        if (task->proc != proc->rec.objref)
            continue;
        printf("  thread %7" G_GUINT64_FORMAT "  %-16s %-11s rip %016" G_GINT64_MODIFIER
               "x rsp %016" G_GINT64_MODIFIER "x",
               task->tid, comm, task->state < G_N_ELEMENTS(states) ? states[task->state] : "?",
               task->rip, task->rsp);
        if (task->syscall >= 0)
            printf(" call %" G_GINT64_FORMAT, task->syscall);
        putchar('\n');
    }
}

static const char *vma_name(const FmtImage *img, const struct fmt_vma *vma)
{
    const struct fmt_file *file = fmt_image_by_ref(img, vma->object, FMT_FILE);
    const struct fmt_shm *shm = fmt_image_by_ref(img, vma->object, FMT_SHM);

    if (file && file->path)
        return file->path;
    if (shm)
        return shm->name ? shm->name : "(shared memory)";
    if (vma->kind == FMT_VMA_VDSO)
        return "[vdso]";
    if (vma->kind == FMT_VMA_VVAR)
        return "[vvar]";
    return vma->name ? vma->name : "";
}

static void print_vmas(const FmtImage *img, const struct fmt_proc *proc)
{
    const struct fmt_vma *vma;

    for (size_t i = 0; FMT_NEXT(img, VMA, i, vma); i++) {
        g_autofree char *name = cli_printable(vma_name(img, vma));

        if (vma->mm != proc->mm)
            continue;
        printf("  map  %012" G_GINT64_MODIFIER "x-%012" G_GINT64_MODIFIER "x %c%c%c%c %s\n",
               vma->start, vma->end, vma->flags & FMT_VMA_READ ? 'r' : '-',
               vma->flags & FMT_VMA_WRITE ? 'w' : '-', vma->flags & FMT_VMA_EXEC ? 'x' : '-',
               fmt_vma_is_shared(vma) ? 's' : 'p', name);
    }
}

// What a descriptor leads to.
static char *describe_file(const FmtImage *img, const struct fmt_file *file)
{
    const struct fmt_pipe *pipe = fmt_image_by_ref(img, file->object, FMT_PIPE);
    const struct fmt_shm *shm = fmt_image_by_ref(img, file->object, FMT_SHM);

    if (pipe)
        return g_strdup_printf("pipe:[%" G_GUINT64_FORMAT "] %" G_GSIZE_FORMAT " bytes in it",
                               pipe->ino, pipe->data ? g_bytes_get_size(pipe->data) : 0);
    if (shm)
        return g_strdup_printf("memfd:%s", shm->name ? shm->name : "");
    return g_strdup_printf("%s%s at %" G_GUINT64_FORMAT, file->path ? file->path : "?",
                           file->deleted ? " (deleted)" : "", file->pos);
}

static void print_fds(const FmtImage *img, const struct fmt_proc *proc)
{
    const struct fmt_task *task, *leader = NULL;
    const struct fmt_fd *fd;

    for (size_t i = 0; FMT_NEXT(img, TASK, i, task) && !leader; i++) {
        if (task->proc == proc->rec.objref)
            leader = task;
    }
    for (size_t i = 0; leader && FMT_NEXT(img, FD, i, fd); i++) {
        const struct fmt_file *file = fmt_image_by_ref(img, fd->file, FMT_FILE);
        g_autofree char *what = file ? describe_file(img, file) : g_strdup("?");
        g_autofree char *text = cli_printable(what);

        if (fd->files == leader->files)
            printf("  fd   %3" G_GUINT64_FORMAT " %c%c %s\n", fd->fd,
                   file && file->mode & 1 ? 'r' : '-', file && file->mode & 2 ? 'w' : '-', text);
    }
}

void cli_print_image(const FmtImage *img)
{
    const struct fmt_proc *proc;

    print_head(img);
    print_notes(img);
    for (size_t i = 0; FMT_NEXT(img, PROC, i, proc); i++) {
        g_autofree char *name = cli_printable(proc->cmdline ? proc->cmdline : proc->comm);

        printf("\npid %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT ": %s\n", proc->pid, proc->ppid,
               name);
        print_tasks(img, proc);
        print_fds(img, proc);
        print_vmas(img, proc);
    }
}
