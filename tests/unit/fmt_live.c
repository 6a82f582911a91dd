// SPDX-License-Identifier: GPL-2.0-or-later
// Makes an image of a live process by ptrace and /proc, for tests of the exporters.
#include "fmt_live.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static char *proc_file(pid_t pid, const char *name, gsize *len)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", pid, name);
    char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, len, NULL));
    return text;
}

static int compare_tids(const void *a, const void *b)
{
    return *(const pid_t *)a - *(const pid_t *)b;
}

static GArray *stop_threads(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    GArray *tids = g_array_new(false, false, sizeof(pid_t));
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        pid_t tid = atoi(name);

        g_assert_cmpint(ptrace(PTRACE_SEIZE, tid, 0, 0), ==, 0);
        g_assert_cmpint(ptrace(PTRACE_INTERRUPT, tid, 0, 0), ==, 0);
        g_assert_cmpint(waitpid(tid, NULL, __WALL), ==, tid);
        g_array_append_val(tids, tid);
    }
    g_array_sort(tids, compare_tids);
    return tids;
}

static void release_threads(GArray *tids)
{
    for (size_t i = 0; i < tids->len; i++)
        g_assert_cmpint(ptrace(PTRACE_DETACH, g_array_index(tids, pid_t, i), 0, 0), ==, 0);
    g_array_unref(tids);
}

static void add_task(FmtImage *img, const struct fmt_proc *proc, pid_t tid)
{
    struct fmt_task *task = fmt_image_add(img, FMT_TASK);
    static uint8_t area[64 << 10];
    struct user_regs_struct regs;
    struct iovec iov = {&regs, sizeof(regs)};

    g_assert_cmpint(ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &iov), ==, 0);
    memcpy(&task->r15, &regs, sizeof(regs));
    iov = (struct iovec){area, sizeof(area)};
    g_assert_cmpint(ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &iov), ==, 0);
    task->xsave = g_bytes_new(area, iov.iov_len);
    task->proc = proc->rec.objref;
    task->tid = tid;
    memcpy(&((struct fmt_cpu *)fmt_image_nth(img, FMT_CPU, 0))->xcr0, area + 464, 8);
}

// Bits of /proc/PID/pagemap.
#define PAGE_PRESENT (1ull << 63)
#define PAGE_OF_FILE (1ull << 61)

static void *read_proc(pid_t pid, const char *name, size_t len, off_t offset)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *data = g_malloc(len);

    g_assert_cmpint(pread(fd, data, len, offset), ==, len);
    close(fd);
    return data;
}

// Pages of files that were not written to are left to the debugger.
static void add_contents(FmtImage *img, pid_t pid, const struct fmt_vma *vma)
{
    size_t n = (vma->end - vma->start) / FMT_PAGE_BYTES;
    g_autofree uint64_t *map = read_proc(pid, "pagemap", n * sizeof(uint64_t),
                                         vma->start / FMT_PAGE_BYTES * sizeof(uint64_t));

    for (size_t i = 0; i < n; i++) {
        uint64_t at = vma->start + i * FMT_PAGE_BYTES;

        if (vma->kind == FMT_VMA_FILE && (!(map[i] & PAGE_PRESENT) || (map[i] & PAGE_OF_FILE)))
            continue;
        void *page = read_proc(pid, "mem", FMT_PAGE_BYTES, at);
        fmt_image_hold(img, g_bytes_new_take(page, FMT_PAGE_BYTES));
        fmt_image_add_extent(img, vma->mm, at, 1, FMT_PAGES_DATA, page);
    }
}

// One line of /proc/PID/maps.
static void add_vma(FmtImage *img, pid_t pid, const struct fmt_mm *mm, const char *line)
{
    char perms[5], path[512] = "";
    unsigned long start, end, offset;

    g_assert_cmpint(
        sscanf(line, "%lx-%lx %4s %lx %*s %*s %511[^\n]", &start, &end, perms, &offset, path), >=,
        4);
    if (strcmp(path, "[vsyscall]") == 0)
        return;

    struct fmt_file *file = path[0] == '/' ? fmt_image_add(img, FMT_FILE) : NULL;
    struct fmt_vma *vma = fmt_image_add(img, FMT_VMA);
    *vma = (struct fmt_vma){
        .rec = vma->rec,
        .mm = mm->rec.objref,
        .start = start,
        .end = end,
        .offset_bytes = offset,
        .flags = (perms[0] == 'r' ? FMT_VMA_READ : 0) | (perms[1] == 'w' ? FMT_VMA_WRITE : 0) |
                 (perms[2] == 'x' ? FMT_VMA_EXEC : 0),
        .kind = file                              ? FMT_VMA_FILE
                : g_str_has_prefix(path, "[vvar") ? FMT_VMA_VVAR
                                                  : FMT_VMA_ANON,
    };
    if (file) {
        file->path = g_strdup(path);
        vma->object = file->rec.objref;
    }
    if (perms[0] == 'r' && vma->kind != FMT_VMA_VVAR)
        add_contents(img, pid, vma);
}

FmtImage *live_image(pid_t pid, bool (*ready)(const FmtImage *img))
{
    FmtImage *img = fmt_image_new();
    GArray *tids = stop_threads(pid);
    struct fmt_mm *mm = fmt_image_add(img, FMT_MM);
    struct fmt_proc *proc = fmt_image_add(img, FMT_PROC);
    gsize auxv_len;
    g_autofree char *maps = proc_file(pid, "maps", NULL);
    char *auxv = proc_file(pid, "auxv", &auxv_len);
    g_auto(GStrv) lines = g_strsplit(g_strchomp(maps), "\n", -1);

    fmt_image_add(img, FMT_CPU);
    fmt_image_head(img)->root_pid = pid;
    mm->auxv = g_bytes_new_take(auxv, auxv_len);
    proc->pid = pid;
    proc->ppid = getpid();
    proc->mm = mm->rec.objref;
    proc->comm = g_strdup("fmt_subject");
    proc->cmdline =
        g_strdup("fmt_subject with a command line that is longer than the eighty bytes of psargs");
    for (size_t i = 0; i < tids->len; i++)
        add_task(img, proc, g_array_index(tids, pid_t, i));
    if (ready(img)) {
        for (size_t i = 0; lines[i]; i++)
            add_vma(img, pid, mm, lines[i]);
    } else {
        g_clear_pointer(&img, fmt_image_unref);
    }
    release_threads(tids);
    return img;
}
