// SPDX-License-Identifier: GPL-2.0-or-later
// The vdso: kernel code in user memory, different in every kernel build, at a random address.
//
// While a process is built, its vdso (the running kernel's, with the data pages before it) and a
// piece of scratch memory are parked in the middle of the largest range that the image leaves free.
// At the end it either moves to where the image has it, if the captured code is the same to the
// byte, or it stays and the captured code is put back at the old place as plain memory, with every
// function that it exports replaced by a jump to its counterpart. Addresses that a program has
// looked up, and AT_SYSINFO_EHDR, so stay good.

#include <elf.h>
#include <errno.h>
#include <linux/mman.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

#define USER_START 0x10000ull        // mmap_min_addr of all distributions
#define USER_END   0x7ffffffff000ull // end of user addresses with 4-level page tables
#define PAGE_BYTES 4096ull

static const uint8_t syscall_insn[2] = {0x0f, 0x05};

void agent_vdso_free(struct agent_vdso *vdso)
{
    if (!vdso)
        return;
    g_array_unref(vdso->parts);
    g_free(vdso);
}

struct agent_vdso *agent_vdso_here(GError **error)
{
    g_autofree char *maps = NULL;

    if (!g_file_get_contents("/proc/self/maps", &maps, NULL, error))
        return NULL;

    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    struct agent_vdso *v = g_new0(struct agent_vdso, 1);

    v->parts = g_array_new(false, false, sizeof(struct agent_range));
    for (guint i = 0; lines[i]; i++) {
        const bool code = g_str_has_suffix(lines[i], "[vdso]");
        struct agent_range range;

        if ((!code && !strstr(lines[i], "[vvar")) ||
            sscanf(lines[i], "%" G_GINT64_MODIFIER "x-%" G_GINT64_MODIFIER "x", &range.start,
                   &range.end) != 2)
            continue;
        if (v->parts->len == 0)
            v->vvar = range.start;
        if (code) {
            v->vdso = range.start;
            v->end = range.end;
        }
        g_array_append_val(v->parts, range);
    }
    if (v->vdso == 0) {
        agent_fail(error, "this kernel gives programs no vdso");
        goto fail;
    }

    const uint8_t *code = (const uint8_t *)(uintptr_t)v->vdso;
    const uint8_t *insn = memmem(code, v->end - v->vdso, syscall_insn, sizeof syscall_insn);

    if (!insn) {
        agent_fail(error, "the vdso of this kernel has no syscall instruction");
        goto fail;
    }
    v->syscall_offset = insn - code;
    return v;
fail:
    agent_vdso_free(v);
    return NULL;
}

static int by_start(gconstpointer a, gconstpointer b)
{
    const struct agent_range *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

// Middle of the largest range that neither the image nor `here` uses; far from anything that grows.
static uint64_t choose_park(const AgentProc *p, const struct agent_vdso *here, uint64_t bytes)
{
    g_autoptr(GArray) used = g_array_new(false, false, sizeof(struct agent_range));
    const struct agent_range own = {here->vvar, here->end}, top = {USER_END, USER_END};
    uint64_t at = USER_START, best = 0, best_bytes = 0;

    for (guint i = 0; i < p->vmas->len; i++) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);
        const struct agent_range range = {vma->start, vma->end};

        if (vma->start < USER_END)
            g_array_append_val(used, range);
    }
    g_array_append_val(used, own);
    g_array_append_val(used, top);
    g_array_sort(used, by_start);
    for (guint i = 0; i < used->len; i++) {
        const struct agent_range *range = &g_array_index(used, struct agent_range, i);

        if (range->start > at && range->start - at > best_bytes) {
            best_bytes = range->start - at;
            best = at;
        }
        at = MAX(at, range->end);
    }
    if (best_bytes < bytes + 2 * PAGE_BYTES)
        return 0;
    return (best + (best_bytes - bytes) / 2) & ~(PAGE_BYTES - 1);
}

// Moves the parts of the vdso so that its data begins at `to`.
static bool move_parts(AgentProc *p, const struct agent_vdso *here, uint64_t from, uint64_t to,
                       GError **error)
{
    for (guint i = 0; i < here->parts->len; i++) {
        const struct agent_range *part = &g_array_index(here->parts, struct agent_range, i);
        const uint64_t offset = part->start - here->vvar, bytes = part->end - part->start;

        if (!agent_remote(&agent_leader(p)->tracee, "mremap of the vdso", SYS_mremap, NULL, error,
                          from + offset, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to + offset))
            return false;
    }
    p->vdso = to + (here->vdso - here->vvar);
    p->site.syscall_ip = p->vdso + here->syscall_offset;
    return true;
}

static bool park(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    struct agent_vdso *here = agent_vdso_here(error);
    bool ok = false;

    if (!here)
        return false;
    // scratch, a hole that stops runaway writes, data and code of the vdso
    const uint64_t bytes = AGENT_SCRATCH_BYTES + PAGE_BYTES + (here->end - here->vvar);

    p->park = choose_park(p, here, bytes);
    if (p->park == 0) {
        agent_fail(error, "process %" G_GUINT64_FORMAT ": no free address range", p->rec->pid);
        goto out;
    }
    if (!agent_remote(t, "mmap", SYS_mmap, NULL, error, p->park, AGENT_SCRATCH_BYTES,
                      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1ull, 0) ||
        !move_parts(p, here, here->vvar, p->park + AGENT_SCRATCH_BYTES + PAGE_BYTES, error))
        goto out;
    p->site.scratch = p->park;
    // Away with the copy of the agent's memory.
    ok = agent_remote(t, "munmap", SYS_munmap, NULL, error, 0, p->park) &&
         agent_remote(t, "munmap", SYS_munmap, NULL, error, p->park + bytes,
                      USER_END - (p->park + bytes));
out:
    agent_vdso_free(here);
    return ok;
}

static const struct fmt_vma *captured_code(const AgentProc *p)
{
    for (guint i = 0; i < p->vmas->len; i++) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);

        if (vma->kind == FMT_VMA_VDSO)
            return vma;
    }
    return NULL;
}

// Start of the data pages that lie right before the code; code->start where there are none.
static uint64_t captured_data(const AgentProc *p, const struct fmt_vma *code)
{
    uint64_t start = code->start;

    for (guint i = p->vmas->len; i-- > 0;) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);

        if (vma->kind == FMT_VMA_VVAR && vma->end == start)
            start = vma->start;
    }
    return start;
}

static bool same_code(const AgentProc *p, const struct fmt_vma *code, const struct agent_vdso *here)
{
    return code->end - code->start == here->end - here->vdso &&
           code->start - captured_data(p, code) == here->vdso - here->vvar &&
           memcmp(p->old_vdso->data, (const void *)(uintptr_t)here->vdso, p->old_vdso->len) == 0;
}

// An exported function of a vdso: offsets from its start.
struct function {
    const char *name;
    uint64_t offset, bytes;
};

// Functions in the dynamic symbol table of the vdso at `image`; every access is checked, the
// captured one comes from outside.
static GArray *functions(const uint8_t *image, size_t len)
{
    GArray *ret = g_array_new(false, true, sizeof(struct function));
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)image;

    if (len < sizeof *eh || memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0 || eh->e_shoff > len ||
        (uint64_t)eh->e_shnum * sizeof(Elf64_Shdr) > len - eh->e_shoff)
        return ret;
    const Elf64_Shdr *sh = (const Elf64_Shdr *)(image + eh->e_shoff);

    for (unsigned i = 0; i < eh->e_shnum; i++) {
        if (sh[i].sh_type != SHT_DYNSYM || sh[i].sh_link >= eh->e_shnum)
            continue;
        const Elf64_Shdr *str = &sh[sh[i].sh_link];

        if (sh[i].sh_offset > len || sh[i].sh_size > len - sh[i].sh_offset ||
            str->sh_offset > len || str->sh_size > len - str->sh_offset || str->sh_size == 0 ||
            image[str->sh_offset + str->sh_size - 1] != 0)
            continue;
        const Elf64_Sym *sym = (const Elf64_Sym *)(image + sh[i].sh_offset);

        for (size_t j = 0; j < sh[i].sh_size / sizeof *sym; j++) {
            struct function f = {.offset = sym[j].st_value, .bytes = sym[j].st_size};

            if (ELF64_ST_TYPE(sym[j].st_info) != STT_FUNC || sym[j].st_name >= str->sh_size ||
                f.offset > len || f.bytes > len - f.offset)
                continue;
            f.name = (const char *)image + str->sh_offset + sym[j].st_name;
            g_array_append_val(ret, f);
        }
    }
    return ret;
}

// What a function of the old vdso does where the running kernel has no counterpart.
static const struct {
    const char *name;
    uint32_t nr;
} plain_calls[] = {
    {"clock_gettime", SYS_clock_gettime},
    {"gettimeofday", SYS_gettimeofday},
    {"time", SYS_time},
    {"getcpu", SYS_getcpu},
    {"clock_getres", SYS_clock_getres},
    {"getrandom", SYS_getrandom},
};

static const char *base_name(const char *name)
{
    return g_str_has_prefix(name, "__vdso_") ? name + strlen("__vdso_") : name;
}

#define JUMP_BYTES 14 // jmp *0(%rip); .quad target: the longest of what we put in

static size_t redirect(uint8_t *code, const char *name, const GArray *new, uint64_t new_base)
{
    for (guint i = 0; i < new->len; i++) {
        const struct function *f = &g_array_index(new, struct function, i);
        const uint64_t target = new_base + f->offset;

        if (strcmp(f->name, name) != 0)
            continue;
        memcpy(code, "\xff\x25\0\0\0\0", 6);
        memcpy(code + 6, &target, sizeof target);
        return JUMP_BYTES;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(plain_calls); i++) {
        if (strcmp(plain_calls[i].name, base_name(name)) != 0)
            continue;
        code[0] = 0xb8; // mov $nr, %eax; syscall; ret
        memcpy(code + 1, &plain_calls[i].nr, 4);
        memcpy(code + 5, "\x0f\x05\xc3", 3);
        return 8;
    }
    return 0;
}

static bool thread_between(const AgentProc *p, uint64_t start, uint64_t end)
{
    for (guint i = 0; i < p->tasks->len; i++) {
        const AgentTask *t = g_ptr_array_index(p->tasks, i);

        if (t->rec->rip > start && t->rec->rip < end)
            return true;
    }
    return false;
}

static bool patch(AgentProc *p, const struct fmt_vma *code, const struct agent_vdso *here,
                  GError **error)
{
    g_autoptr(GArray) old = functions(p->old_vdso->data, p->old_vdso->len);
    g_autoptr(GArray) new =
        functions((const uint8_t *)(uintptr_t)here->vdso, here->end - here->vdso);
    // Names are read from the captured bytes while their code is overwritten.
    g_autofree uint8_t *out = g_memdup2(p->old_vdso->data, p->old_vdso->len);

    if (old->len == 0)
        return agent_fail(error, "process %" G_GUINT64_FORMAT ": the captured vdso is no ELF file",
                          p->rec->pid);
    for (guint i = 0; i < old->len; i++) {
        const struct function *f = &g_array_index(old, struct function, i);
        const size_t bytes =
            f->bytes < JUMP_BYTES ? 0 : redirect(out + f->offset, f->name, new, p->vdso);

        if (bytes == 0 && !g_str_has_suffix(f->name, "sgx_enter_enclave"))
            return agent_fail(error,
                              "process %" G_GUINT64_FORMAT
                              ": this kernel cannot stand in for %s of the captured vdso",
                              p->rec->pid, f->name);
        if (thread_between(p, code->start + f->offset, code->start + f->offset + bytes))
            return agent_fail(error,
                              "process %" G_GUINT64_FORMAT
                              ": a thread is at the start of %s in the captured vdso; capture it "
                              "again",
                              p->rec->pid, f->name);
    }
    memcpy(p->old_vdso->data, out, p->old_vdso->len);
    return true;
}

static bool put_back(AgentProc *p, const struct fmt_vma *code, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const uint64_t bytes = code->end - code->start;

    return agent_remote(t, "mmap", SYS_mmap, NULL, error, code->start, bytes,
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                        -1ull, 0) &&
           agent_remote_write(t, code->start, p->old_vdso->data, bytes, error) &&
           agent_remote(t, "mprotect", SYS_mprotect, NULL, error, code->start, bytes,
                        PROT_READ | PROT_EXEC);
}

static bool at_call(const AgentProc *p, uint64_t offset)
{
    const uint8_t *code = p->old_vdso->data;

    return (offset + 2 <= p->old_vdso->len && memcmp(code + offset, syscall_insn, 2) == 0) ||
           (offset >= 2 && memcmp(code + offset - 2, syscall_insn, 2) == 0);
}

// Whether `offset` lies inside of a function of this name, past its first instruction.
static bool inside(const AgentProc *p, uint64_t offset, const char *name)
{
    g_autoptr(GArray) all = functions(p->old_vdso->data, p->old_vdso->len);

    for (guint i = 0; i < all->len; i++) {
        const struct function *f = &g_array_index(all, struct function, i);

        if (strcmp(base_name(f->name), name) == 0 && offset > f->offset &&
            offset < f->offset + f->bytes)
            return true;
    }
    return false;
}

/*
 * A thread caught in the middle of reading a clock holds half of a reading that is worth nothing
 * with this machine's data. It goes on well where it is at a system call. With the same code it
 * also does where it comes from outside of a time namespace and is in one now: the sequence count
 * of its data is then odd here and was even there, so it notices and reads again, or it had the
 * whole reading already. time() alone does not look at the count.
 */
static bool check_threads(const AgentProc *p, const struct fmt_vma *code, bool same, GError **error)
{
    const bool noticed =
        same && p->r->timens && !p->rec->timens_monotonic_ns && !p->rec->timens_boottime_ns;

    for (guint i = 0; i < p->tasks->len; i++) {
        const AgentTask *t = g_ptr_array_index(p->tasks, i);
        const uint64_t offset = t->rec->rip - code->start;

        if (t->rec->rip < code->start || t->rec->rip >= code->end || at_call(p, offset) ||
            (noticed && !inside(p, offset, "time")))
            continue;
        return agent_fail(
            error, "thread %" G_GUINT64_FORMAT " was reading a clock in the vdso; capture it again",
            t->rec->tid);
    }
    return true;
}

static bool finish(AgentProc *p, GError **error)
{
    const struct fmt_vma *code = captured_code(p);
    bool ok;

    if (!code) // the program has unmapped it, or the source kernel gave none
        return true;
    if (!p->old_vdso || p->old_vdso->len != code->end - code->start) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE,
                    "process %" G_GUINT64_FORMAT ": the image lacks contents of the vdso",
                    p->rec->pid);
        return false;
    }
    struct agent_vdso *here = agent_vdso_here(error);

    if (!here)
        return false;
    const bool same = same_code(p, code, here);

    if (!check_threads(p, code, same, error))
        ok = false;
    else if (same)
        ok =
            move_parts(p, here, p->vdso - (here->vdso - here->vvar), captured_data(p, code), error);
    else
        ok = patch(p, code, here, error) && put_back(p, code, error);
    agent_vdso_free(here);
    return ok;
}

const struct agent_aspect agent_aspect_vdso = {
    .name = "vdso",
    .build = park,
    .finish = finish,
};
