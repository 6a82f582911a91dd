// SPDX-License-Identifier: GPL-2.0-or-later
// Address spaces: /proc/PID/smaps, pagemap and mem.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/oracle/oracle.h"

#define PAGE_BYTES     4096ull
#define PAGEMAP_HERE   (3ull << 62) // present or swapped
#define PAGEMAP_SHARED (1ull << 61) // page of a file or of shared memory

// The two letters of smaps' VmFlags.
static const struct {
    const char *letters;
    uint64_t flag;
} vm_flags[] = {
    {"rd", FMT_VMA_READ},       {"wr", FMT_VMA_WRITE},       {"ex", FMT_VMA_EXEC},
    {"sh", FMT_VMA_SHARED},     {"ms", FMT_VMA_MAYSHARE},    {"mr", FMT_VMA_MAYREAD},
    {"mw", FMT_VMA_MAYWRITE},   {"me", FMT_VMA_MAYEXEC},     {"gd", FMT_VMA_GROWSDOWN},
    {"lo", FMT_VMA_LOCKED},     {"nr", FMT_VMA_NORESERVE},   {"dc", FMT_VMA_DONTCOPY},
    {"wf", FMT_VMA_WIPEONFORK}, {"dd", FMT_VMA_DONTDUMP},    {"hg", FMT_VMA_HUGEPAGE},
    {"nh", FMT_VMA_NOHUGEPAGE}, {"mg", FMT_VMA_MERGEABLE},   {"ht", FMT_VMA_HUGETLB},
    {"sr", FMT_VMA_SEQ_READ},   {"rr", FMT_VMA_RAND_READ},   {"ac", FMT_VMA_ACCOUNT},
    {"sf", FMT_VMA_SYNC},       {"lf", FMT_VMA_LOCKONFAULT},
};

static uint64_t parse_flags(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    uint64_t flags = 0;

    for (guint i = 0; words[i]; i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(vm_flags); j++) {
            if (strcmp(words[i], vm_flags[j].letters) == 0)
                flags |= vm_flags[j].flag;
        }
    }
    return flags;
}

// Runs of equal kind become one extent; its data follows in one block that the image holds.
struct run {
    FmtImage *img;
    uint64_t owner, start, n_pages;
    enum fmt_pages_kind kind;
    GByteArray *data;
};

static void flush(struct run *run)
{
    if (run->n_pages == 0)
        return;
    GBytes *bytes = g_byte_array_free_to_bytes(run->data);

    fmt_image_add_extent(run->img, run->owner, run->start, run->n_pages, run->kind,
                         run->kind == FMT_PAGES_ZERO ? NULL : g_bytes_get_data(bytes, NULL));
    fmt_image_hold(run->img, bytes);
    run->n_pages = 0;
    run->data = g_byte_array_new();
}

static void add_page(struct run *run, uint64_t at, const uint8_t *page, enum fmt_pages_kind kind)
{
    static const uint8_t zeros[PAGE_BYTES];

    if (kind == FMT_PAGES_DATA && memcmp(page, zeros, PAGE_BYTES) == 0)
        kind = FMT_PAGES_ZERO;
    if (run->n_pages && (run->kind != kind || run->start + run->n_pages * PAGE_BYTES != at))
        flush(run);
    if (run->n_pages == 0) {
        run->start = at;
        run->kind = kind;
    }
    if (kind != FMT_PAGES_ZERO)
        g_byte_array_append(run->data, page, PAGE_BYTES);
    run->n_pages++;
}

static void run_begin(struct run *run, FmtImage *img, uint64_t owner)
{
    *run = (struct run){.img = img, .owner = owner, .data = g_byte_array_new()};
}

static void run_end(struct run *run)
{
    flush(run);
    g_byte_array_unref(run->data);
}

bool oracle_file_pages(struct oracle *o, uint64_t owner, int fd, uint64_t start, uint64_t bytes,
                       enum fmt_pages_kind kind)
{
    uint8_t page[PAGE_BYTES];
    struct run run;

    run_begin(&run, o->img, owner);
    for (uint64_t at = start; at < start + bytes; at += PAGE_BYTES) {
        const ssize_t n = pread(fd, page, sizeof page, (off_t)at);

        if (n <= 0)
            break;
        memset(page + n, 0, sizeof page - n);
        add_page(&run, at, page, kind);
    }
    run_end(&run);
    return true;
}

static bool private_pages(struct oracle *o, struct oracle_proc *p, const struct fmt_vma *vma,
                          GError **error)
{
    g_autofree char *pagemap_path = g_strdup_printf("/proc/%d/pagemap", p->pid);
    g_autofree char *mem_path = g_strdup_printf("/proc/%d/mem", p->pid);
    const int pagemap = open(pagemap_path, O_RDONLY | O_CLOEXEC);
    const int mem = open(mem_path, O_RDONLY | O_CLOEXEC);
    uint8_t page[PAGE_BYTES];
    bool ok = pagemap >= 0 && mem >= 0;
    struct run run;

    run_begin(&run, o->img, vma->mm);
    for (uint64_t at = vma->start; ok && at < vma->end; at += PAGE_BYTES) {
        uint64_t entry = 0;
        const bool code = vma->kind == FMT_VMA_VDSO;

        ok = pread(pagemap, &entry, 8, (off_t)(at / PAGE_BYTES * 8)) == 8;
        if (!(entry & PAGEMAP_HERE) && !code)
            continue;
        // Of a memfd: its owner has it.
        if (vma->kind == FMT_VMA_SHM && entry & PAGEMAP_SHARED)
            continue;
        ok = ok && pread(mem, page, sizeof page, (off_t)at) == sizeof page;
        const bool clean = vma->kind == FMT_VMA_FILE && entry & PAGEMAP_SHARED;

        if (ok)
            add_page(&run, at, page, clean ? FMT_PAGES_CLEAN : FMT_PAGES_DATA);
    }
    run_end(&run);
    if (!ok)
        oracle_fail(error, mem_path);
    if (pagemap >= 0)
        close(pagemap);
    if (mem >= 0)
        close(mem);
    return ok;
}

// What shared mappings show of a file: contents are added once all mappings are known.
struct window {
    uint64_t inode, start, end;
    enum fmt_pages_kind kind;
    int fd;
};

GArray *oracle_windows_new(void)
{
    return g_array_new(false, true, sizeof(struct window));
}

static bool shared_file_pages(struct oracle *o, const struct fmt_vma *vma, const char *link)
{
    const struct fmt_file *f = fmt_image_by_ref(o->img, vma->object, FMT_FILE);
    const struct fmt_inode *inode = fmt_image_by_ref(o->img, f->object, FMT_INODE);
    struct window w = {
        .inode = f->object,
        .start = vma->offset_bytes,
        .end = MIN(vma->offset_bytes + (vma->end - vma->start), inode->size_bytes),
        .kind = vma->flags & FMT_VMA_WRITE ? FMT_PAGES_DATA : FMT_PAGES_CLEAN,
        .fd = open(link, O_RDONLY | O_CLOEXEC),
    };

    if (w.fd < 0)
        return false;
    g_array_append_val(o->windows, w);
    return true;
}

// The window of this file that shows the page; one that is written to where there are several.
static const struct window *window_of(const struct oracle *o, uint64_t inode, uint64_t at)
{
    const struct window *found = NULL;

    for (guint i = 0; i < o->windows->len; i++) {
        const struct window *w = &g_array_index(o->windows, struct window, i);
        if (w->inode == inode && at >= w->start && at < w->end &&
            (!found || w->kind == FMT_PAGES_DATA))
            found = w;
    }
    return found;
}

void oracle_shared_files(struct oracle *o)
{
    const struct fmt_inode *inode;

    for (size_t i = 0; FMT_NEXT(o->img, INODE, i, inode); i++)
        for (uint64_t at = 0; at < inode->size_bytes; at += PAGE_BYTES) {
            const struct window *w = window_of(o, inode->rec.objref, at);
            if (w)
                oracle_file_pages(o, w->inode, w->fd, at, PAGE_BYTES, w->kind);
        }
}

static bool identify(struct oracle *o, struct oracle_proc *p, struct fmt_vma *vma, const char *name)
{
    g_autofree char *link =
        g_strdup_printf("/proc/%d/map_files/%lx-%lx", p->pid, vma->start, vma->end);

    if (strcmp(name, "[vdso]") == 0) {
        vma->kind = FMT_VMA_VDSO;
        vma->name = g_strdup(name);
    } else if (g_str_has_prefix(name, "[vvar")) {
        vma->kind = FMT_VMA_VVAR;
        vma->name = g_strdup(name);
    } else if (g_str_has_prefix(name, "[anon:")) {
        vma->name = g_strndup(name + 6, strlen(name) - 7);
    } else if (g_str_has_prefix(name, "/memfd:")) {
        g_autofree char *memfd = g_strndup(name + 7, strlen(name) - 7 - strlen(" (deleted)"));

        vma->kind = FMT_VMA_SHM;
        vma->object = oracle_shm(o, link, memfd, FMT_SHM_MEMFD);
    } else if (g_str_has_prefix(name, "/dev/zero (deleted)") ||
               g_str_has_prefix(name, "[anon_shmem")) {
        vma->kind = FMT_VMA_SHM;
        vma->object = oracle_shm(o, link, NULL, FMT_SHM_ANON);
    } else if (name[0] == '/') {
        vma->kind = FMT_VMA_FILE;
        vma->object = oracle_mapped_file(o, link);
        if (vma->object && vma->flags & FMT_VMA_SHARED)
            return shared_file_pages(o, vma, link);
    }
    return vma->object != 0 || (vma->kind != FMT_VMA_FILE && vma->kind != FMT_VMA_SHM);
}

static bool mapping(struct oracle *o, struct oracle_proc *p, const char *line, uint64_t pkey,
                    const char *flags, GError **error)
{
    uint64_t start, end, offset;
    int name_at = 0;

    sscanf(line, "%lx-%lx %*s %lx %*s %*s %n", &start, &end, &offset, &name_at);
    if (start >= 1ull << 63) // vsyscall
        return true;
    struct fmt_vma *vma = fmt_image_add(o->img, FMT_VMA);

    vma->mm = p->rec->mm;
    vma->start = start;
    vma->end = end;
    vma->offset_bytes = offset;
    vma->flags = parse_flags(flags);
    vma->pkey = pkey;
    if (!identify(o, p, vma, line + name_at))
        return oracle_fail(error, line);
    if (vma->kind == FMT_VMA_VDSO)
        ((struct fmt_mm *)fmt_image_by_ref(o->img, p->rec->mm, FMT_MM))->vdso = start;
    if (vma->flags & FMT_VMA_SHARED || vma->kind == FMT_VMA_VVAR)
        return true;
    return private_pages(o, p, vma, error);
}

static uint64_t stat_field(char **fields, unsigned number)
{
    return strtoull(fields[number - 3], NULL, 10);
}

static void describe(struct oracle *o, struct oracle_proc *p, struct fmt_mm *mm)
{
    g_autofree char *text = oracle_proc_file(p->pid, "stat");
    g_auto(GStrv) f = g_strsplit(strrchr(text, ')') + 2, " ", -1);
    g_autofree char *auxv_path = g_strdup_printf("/proc/%d/auxv", p->pid);
    g_autofree char *exe = g_strdup_printf("/proc/%d/exe", p->pid);
    char *auxv = NULL;
    gsize bytes = 0;

    mm->start_code = stat_field(f, 26);
    mm->end_code = stat_field(f, 27);
    mm->start_stack = stat_field(f, 28);
    mm->start_data = stat_field(f, 45);
    mm->end_data = stat_field(f, 46);
    mm->start_brk = stat_field(f, 47);
    mm->arg_start = stat_field(f, 48);
    mm->arg_end = stat_field(f, 49);
    mm->env_start = stat_field(f, 50);
    mm->env_end = stat_field(f, 51);
    if (g_file_get_contents(auxv_path, &auxv, &bytes, NULL))
        mm->auxv = g_bytes_new_take(auxv, bytes);
    mm->exe = oracle_mapped_file(o, exe);
}

bool oracle_memory(struct oracle *o, struct oracle_proc *p, GError **error)
{
    g_autofree char *smaps = oracle_proc_file(p->pid, "smaps");
    g_auto(GStrv) lines = g_strsplit(smaps ? smaps : "", "\n", -1);
    struct fmt_mm *mm = fmt_image_add(o->img, FMT_MM);
    const char *header = NULL;
    unsigned long pkey = 0;

    p->rec->mm = mm->rec.objref;
    describe(o, p, mm);
    for (guint i = 0; lines[i]; i++) {
        uint64_t start, end;

        if (sscanf(lines[i], "%lx-%lx ", &start, &end) == 2)
            header = lines[i];
        else if (header && sscanf(lines[i], "ProtectionKey: %lu", &pkey) == 1)
            continue;
        else if (header && g_str_has_prefix(lines[i], "VmFlags:") &&
                 !mapping(o, p, header, pkey, lines[i] + strlen("VmFlags:"), error))
            return false;
    }
    return true;
}
