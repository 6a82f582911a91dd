// SPDX-License-Identifier: GPL-2.0-or-later
// The notes of an ELF core: threads, process, auxiliary vector, mapped files.
#include "formats/core_notes.h"

#include <elf.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

// Legacy region of an XSAVE area, Intel SDM volume 1, 13.4.
#define XSAVE_MXCSR_AT     24
#define XSAVE_ST_AT        32
#define XSAVE_XMM_AT       160
#define XSAVE_LEGACY_END   416
#define XSAVE_XCR0_AT      464 // where the kernel tells debuggers: struct _fpx_sw_bytes
#define XSAVE_XSTATE_BV_AT 512
#define XSAVE_LEAST_BYTES  576
#define XSTATE_X87         1u
#define XSTATE_SSE         2u
#define XSTATE_AVX         4u
#define X87_CONTROL_INIT   0x037f
#define MXCSR_INIT         0x1f80

// TASK has the registers in the order of user_regs_struct.
G_STATIC_ASSERT(offsetof(struct fmt_task, gs_sel) - offsetof(struct fmt_task, r15) ==
                offsetof(struct user_regs_struct, gs));
G_STATIC_ASSERT(offsetof(struct fmt_task, orig_rax) - offsetof(struct fmt_task, r15) ==
                offsetof(struct user_regs_struct, orig_rax));
G_STATIC_ASSERT(offsetof(struct fmt_task, fs_base) - offsetof(struct fmt_task, r15) ==
                offsetof(struct user_regs_struct, fs_base));
G_STATIC_ASSERT(sizeof(struct elf_prstatus) == 336 && sizeof(struct elf_prpsinfo) == 136);

static void append_padded(GByteArray *notes, const void *data, size_t len)
{
    static const uint8_t zeros[4];

    g_byte_array_append(notes, data, len);
    g_byte_array_append(notes, zeros, -len & 3);
}

static void add_note(GByteArray *notes, const char *name, uint32_t type, const void *desc,
                     size_t len)
{
    Elf64_Nhdr header = {.n_namesz = strlen(name) + 1, .n_descsz = len, .n_type = type};

    g_byte_array_append(notes, (const uint8_t *)&header, sizeof(header));
    append_padded(notes, name, header.n_namesz);
    append_padded(notes, desc, len);
}

static uint64_t pending_signals(const FmtImage *img, uint64_t owner)
{
    const struct fmt_signal *signal;
    uint64_t set = 0;

    for (size_t i = 0; FMT_NEXT(img, SIGNAL, i, signal); i++) {
        if (signal->owner == owner && signal->signo >= 1 && signal->signo <= 64)
            set |= 1ull << (signal->signo - 1);
    }
    return set;
}

static void add_prstatus(GByteArray *notes, const FmtImage *img, const struct fmt_proc *proc,
                         const struct fmt_task *task)
{
    struct elf_prstatus status = {
        .pr_sigpend = pending_signals(img, task->rec.objref),
        .pr_sighold = task->blocked,
        .pr_pid = task->tid,
        .pr_ppid = proc->ppid,
        .pr_pgrp = proc->pgid,
        .pr_sid = proc->sid,
        .pr_fpvalid = task->xsave != NULL,
    };

    memcpy(&status.pr_reg, &task->r15, sizeof(status.pr_reg));
    add_note(notes, "CORE", NT_PRSTATUS, &status, sizeof(status));
}

// A component that XSTATE_BV does not name is in its initial state, whatever its bytes are.
static void settle_legacy(uint8_t *area, uint64_t xstate_bv)
{
    const uint16_t control = X87_CONTROL_INIT;
    const uint32_t mxcsr = MXCSR_INIT;

    if (!(xstate_bv & XSTATE_X87)) {
        memset(area, 0, XSAVE_MXCSR_AT);
        memset(area + XSAVE_ST_AT, 0, XSAVE_XMM_AT - XSAVE_ST_AT);
        memcpy(area, &control, sizeof(control));
    }
    if (!(xstate_bv & XSTATE_SSE))
        memset(area + XSAVE_XMM_AT, 0, XSAVE_LEGACY_END - XSAVE_XMM_AT);
    if (!(xstate_bv & (XSTATE_SSE | XSTATE_AVX)))
        memcpy(area + XSAVE_MXCSR_AT, &mxcsr, sizeof(mxcsr));
}

static void add_vector_state(GByteArray *notes, const FmtImage *img, const struct fmt_task *task)
{
    const struct fmt_cpu *cpu = fmt_image_nth(img, FMT_CPU, 0);
    gsize len = 0;
    const void *data = task->xsave ? g_bytes_get_data(task->xsave, &len) : NULL;

    if (len < XSAVE_LEAST_BYTES)
        return;

    g_autofree uint8_t *area = g_memdup2(data, len);
    uint64_t xstate_bv, xcr0;
    memcpy(&xstate_bv, area + XSAVE_XSTATE_BV_AT, sizeof(xstate_bv));
    xcr0 = cpu && cpu->xcr0 ? cpu->xcr0 : xstate_bv | XSTATE_X87 | XSTATE_SSE;
    memcpy(area + XSAVE_XCR0_AT, &xcr0, sizeof(xcr0));
    settle_legacy(area, xstate_bv);
    add_note(notes, "CORE", NT_FPREGSET, area, sizeof(struct user_fpregs_struct));
    add_note(notes, "LINUX", NT_X86_XSTATE, area, len);
}

static void add_prpsinfo(GByteArray *notes, const FmtImage *img, const struct fmt_proc *proc,
                         const struct fmt_task *leader)
{
    static const char letters[] = {
        [FMT_PROC_ALIVE] = 'R', [FMT_PROC_STOPPED] = 'T', [FMT_PROC_ZOMBIE] = 'Z'};
    const struct fmt_cred *cred = leader ? fmt_image_by_ref(img, leader->cred, FMT_CRED) : NULL;
    struct elf_prpsinfo info = {
        .pr_sname = proc->state < sizeof(letters) ? letters[proc->state] : '.',
        .pr_zomb = proc->state == FMT_PROC_ZOMBIE,
        .pr_nice = leader ? leader->nice : 0,
        .pr_uid = cred ? cred->uid : 0,
        .pr_gid = cred ? cred->gid : 0,
        .pr_pid = proc->pid,
        .pr_ppid = proc->ppid,
        .pr_pgrp = proc->pgid,
        .pr_sid = proc->sid,
    };

    g_strlcpy(info.pr_fname, proc->comm ? proc->comm : "", sizeof(info.pr_fname));
    g_strlcpy(info.pr_psargs, proc->cmdline ? proc->cmdline : "", sizeof(info.pr_psargs));
    add_note(notes, "CORE", NT_PRPSINFO, &info, sizeof(info));
}

static void append_word(GByteArray *words, uint64_t word)
{
    g_byte_array_append(words, (const uint8_t *)&word, sizeof(word));
}

// NT_FILE: count, page size, {start, end, offset in pages} of each mapping, then their paths.
static void add_mapped_files(GByteArray *notes, const FmtImage *img, uint64_t mm)
{
    g_autoptr(GByteArray) words = g_byte_array_new();
    g_autoptr(GByteArray) paths = g_byte_array_new();
    const struct fmt_vma *vma;
    uint64_t n = 0;

    append_word(words, 0);
    append_word(words, FMT_PAGE_BYTES);
    for (size_t i = 0; FMT_NEXT(img, VMA, i, vma); i++) {
        const struct fmt_file *file = fmt_image_by_ref(img, vma->object, FMT_FILE);

        if (vma->mm != mm || !file || !file->path)
            continue;
        n++;
        append_word(words, vma->start);
        append_word(words, vma->end);
        append_word(words, vma->offset_bytes / FMT_PAGE_BYTES);
        g_byte_array_append(paths, (const uint8_t *)file->path, strlen(file->path) + 1);
    }
    memcpy(words->data, &n, sizeof(n));
    g_byte_array_append(words, paths->data, paths->len);
    if (n > 0)
        add_note(notes, "CORE", NT_FILE, words->data, words->len);
}

GByteArray *fmt_core_notes(const FmtImage *img, const struct fmt_proc *proc)
{
    const struct fmt_mm *mm = fmt_image_by_ref(img, proc->mm, FMT_MM);
    GByteArray *notes = g_byte_array_new();
    const struct fmt_task *task;
    bool first = true;

    for (size_t i = 0; FMT_NEXT(img, TASK, i, task); i++) {
        if (task->proc != proc->rec.objref)
            continue;
        add_prstatus(notes, img, proc, task);
        if (first) {
            // What belongs to the process comes with the first thread.
            add_prpsinfo(notes, img, proc, task);
            if (mm->auxv)
                add_note(notes, "CORE", NT_AUXV, g_bytes_get_data(mm->auxv, NULL),
                         g_bytes_get_size(mm->auxv));
            add_mapped_files(notes, img, proc->mm);
        }
        add_vector_state(notes, img, task);
        first = false;
    }
    return notes;
}
