// SPDX-License-Identifier: GPL-2.0-or-later
// Writes a process as an ELF core.
//
// A mapping becomes one segment, or several that follow each other: a debugger looks into the file
// for what a segment does not hold, so what the image does not know (pages of a file that were
// never asked for) must not look like zeros. Memory without a file that was never touched is zeros,
// and those are holes in the core.
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "formats/core_notes.h"
#include "formats/export.h"
#include "formats/outfile.h"

// Untouched memory is left out rather than made a hole from this size on: reservations of
// sanitizers and language runtimes are larger than a file may be.
#define HOLE_MAX_BYTES (1ull << 30)

struct segment {
    const struct fmt_vma *vma;
    uint64_t start;
    uint64_t end;
    bool held;       // the core holds its contents
    uint64_t offset; // in the core, of a held one
};

struct core {
    const FmtImage *img;
    const struct fmt_proc *proc;
    const char *path;
    int fd;
    GByteArray *notes;
    GArray *segments; // struct segment
    uint64_t notes_at;
    uint64_t size_bytes;
};

static void add_segment(struct core *core, const struct fmt_vma *vma, uint64_t start, uint64_t end,
                        bool held)
{
    struct segment *last = core->segments->len > 0 ? &g_array_index(core->segments, struct segment,
                                                                    core->segments->len - 1)
                                                   : NULL;

    if (start == end)
        return;
    if (last && last->vma == vma && last->held == held) {
        last->end = end;
        return;
    }
    struct segment segment = {.vma = vma, .start = start, .end = end, .held = held};
    g_array_append_val(core->segments, segment);
}

// Whether pages that the image does not have were never touched, and so read as zeros.
static bool gaps_are_zeros(const struct fmt_vma *vma)
{
    return vma->kind == FMT_VMA_ANON || vma->kind == FMT_VMA_SHM;
}

static void plan_vma(struct core *core, const struct fmt_vma *vma)
{
    uint64_t at = vma->start;
    struct fmt_run run;

    while (fmt_image_next_run(core->img, vma, at, &run)) {
        add_segment(core, vma, at, run.start,
                    gaps_are_zeros(vma) && run.start - at < HOLE_MAX_BYTES);
        add_segment(core, vma, run.start, run.end,
                    run.data || run.end - run.start < HOLE_MAX_BYTES);
        at = run.end;
    }
    add_segment(core, vma, at, vma->end, gaps_are_zeros(vma) && vma->end - at < HOLE_MAX_BYTES);
}

static void plan_segments(struct core *core)
{
    const struct fmt_vma *vma;

    for (size_t i = 0; FMT_NEXT(core->img, VMA, i, vma); i++) {
        if (vma->mm == core->proc->mm)
            plan_vma(core, vma);
    }
}

// More program headers than e_phnum can say are counted in the one section header.
static bool many_headers(const struct core *core)
{
    return core->segments->len + 1 >= PN_XNUM;
}

static void plan_offsets(struct core *core)
{
    uint64_t at = sizeof(Elf64_Ehdr) + (core->segments->len + 1) * sizeof(Elf64_Phdr);

    core->notes_at = at + (many_headers(core) ? sizeof(Elf64_Shdr) : 0);
    at = core->notes_at + core->notes->len;
    at += -at % FMT_PAGE_BYTES;
    for (size_t i = 0; i < core->segments->len; i++) {
        struct segment *s = &g_array_index(core->segments, struct segment, i);

        s->offset = at;
        if (s->held)
            at += s->end - s->start;
    }
    core->size_bytes = at;
}

static Elf64_Phdr load_header(const struct segment *s)
{
    return (Elf64_Phdr){
        .p_type = PT_LOAD,
        .p_flags = (s->vma->flags & FMT_VMA_READ ? PF_R : 0) |
                   (s->vma->flags & FMT_VMA_WRITE ? PF_W : 0) |
                   (s->vma->flags & FMT_VMA_EXEC ? PF_X : 0),
        .p_offset = s->offset,
        .p_vaddr = s->start,
        .p_filesz = s->held ? s->end - s->start : 0,
        .p_memsz = s->end - s->start,
        .p_align = FMT_PAGE_BYTES,
    };
}

// Everything before the contents: ELF header, program headers, section header if need be, notes.
static GByteArray *headers(const struct core *core)
{
    uint32_t n = core->segments->len + 1;
    uint64_t shoff = sizeof(Elf64_Ehdr) + n * sizeof(Elf64_Phdr);
    Elf64_Ehdr elf = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_CORE,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_shoff = many_headers(core) ? shoff : 0,
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = many_headers(core) ? PN_XNUM : n,
        .e_shentsize = many_headers(core) ? sizeof(Elf64_Shdr) : 0,
        .e_shnum = many_headers(core) ? 1 : 0,
    };
    Elf64_Phdr note = {
        .p_type = PT_NOTE, .p_offset = core->notes_at, .p_filesz = core->notes->len, .p_align = 4};
    Elf64_Shdr count = {.sh_info = n, .sh_size = 1};
    GByteArray *bytes = g_byte_array_new();

    g_byte_array_append(bytes, (const uint8_t *)&elf, sizeof(elf));
    g_byte_array_append(bytes, (const uint8_t *)&note, sizeof(note));
    for (size_t i = 0; i < core->segments->len; i++) {
        Elf64_Phdr load = load_header(&g_array_index(core->segments, struct segment, i));

        g_byte_array_append(bytes, (const uint8_t *)&load, sizeof(load));
    }
    if (many_headers(core))
        g_byte_array_append(bytes, (const uint8_t *)&count, sizeof(count));
    g_byte_array_append(bytes, core->notes->data, core->notes->len);
    return bytes;
}

static bool write_at(const struct core *core, const void *data, uint64_t len, uint64_t offset,
                     GError **error)
{
    const uint8_t *from = data;

    while (len > 0) {
        ssize_t n = pwrite(core->fd, from, len, offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fmt_set_write_error(error, core->path, errno);
        from += n;
        len -= n;
        offset += n;
    }
    return true;
}

static bool write_segment(const struct core *core, const struct segment *s, GError **error)
{
    uint64_t at = s->start;
    struct fmt_run run;

    while (s->held && fmt_image_next_run(core->img, s->vma, at, &run) && run.start < s->end) {
        uint64_t end = MIN(run.end, s->end);

        if (run.data &&
            !write_at(core, run.data, end - run.start, s->offset + (run.start - s->start), error))
            return false;
        at = end;
    }
    return true;
}

static bool write_core(struct core *core, GError **error)
{
    g_autoptr(GByteArray) head = headers(core);

    if (ftruncate(core->fd, core->size_bytes) != 0)
        return fmt_set_write_error(error, core->path, errno);
    if (!write_at(core, head->data, head->len, 0, error))
        return false;
    for (size_t i = 0; i < core->segments->len; i++) {
        if (!write_segment(core, &g_array_index(core->segments, struct segment, i), error))
            return false;
    }
    return true;
}

static const struct fmt_proc *find_proc(const FmtImage *img, uint64_t pid, GError **error)
{
    const struct fmt_head *head = fmt_image_nth(img, FMT_HEAD, 0);
    const struct fmt_proc *proc;

    pid = pid ? pid : head->root_pid;
    for (size_t i = 0; FMT_NEXT(img, PROC, i, proc); i++) {
        if (proc->pid != pid)
            continue;
        if (fmt_image_by_ref(img, proc->mm, FMT_MM))
            return proc;
        g_set_error(error, FMT_ERROR, FMT_ERROR_ABSENT,
                    "process %" PRIu64 " of the image has no memory: it is a zombie", pid);
        return NULL;
    }
    g_set_error(error, FMT_ERROR, FMT_ERROR_ABSENT, "the image has no process %" PRIu64, pid);
    return NULL;
}

bool fmt_export_core(const FmtImage *img, uint64_t pid, const char *path, GError **error)
{
    struct core core = {.img = img, .path = path, .proc = find_proc(img, pid, error)};

    if (!core.proc)
        return false;

    g_autoptr(FmtOutfile) out = fmt_outfile_new(path, 0, error);
    if (!out)
        return false;
    core.fd = fmt_outfile_fd(out);
    core.notes = fmt_core_notes(img, core.proc);
    core.segments = g_array_new(false, false, sizeof(struct segment));
    plan_segments(&core);
    plan_offsets(&core);

    bool ok = write_core(&core, error) && fmt_outfile_commit(out, error);
    g_byte_array_unref(core.notes);
    g_array_unref(core.segments);
    return ok;
}
