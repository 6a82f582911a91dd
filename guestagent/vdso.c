// SPDX-License-Identifier: GPL-2.0-or-later
// The vdso: kernel code in user memory, different in every kernel build, at a random address.
//
// While a process is built, its vdso (the running kernel's, with the data pages before it) and a
// piece of scratch memory are parked in the middle of the largest range that the image leaves free.
// At the end it either moves to where the image has it, if the captured code is the same to the
// byte, or it stays and the captured code is put back at the old place as plain memory, with every
// function that it exports replaced by a jump to its counterpart. Addresses that a program has
// looked up, and AT_SYSINFO_EHDR, so stay good.

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/vdso_code.h"

#define USER_START 0x10000ull        // mmap_min_addr of all distributions
#define USER_END   0x7ffffffff000ull // end of user addresses with 4-level page tables
#define PAGE_BYTES 4096ull

static const uint8_t syscall_insn[2] = {0x0f, 0x05}, int80_insn[2] = {0xcd, 0x80};

void agent_vdso_free(struct agent_vdso *vdso)
{
    if (!vdso)
        return;
    g_array_unref(vdso->parts);
    g_free(vdso->code);
    g_free(vdso);
}

// The mappings of /proc/PID/maps that belong to it.
static void find_parts(struct agent_vdso *v, char *const *lines)
{
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
}

static bool read_code(struct agent_vdso *v, pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/mem", pid);
    const size_t size = v->end - v->vdso;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    v->code = g_malloc(size);
    const ssize_t n = fd < 0 ? -1 : pread(fd, v->code, size, (off_t)v->vdso);

    if (fd >= 0)
        close(fd);
    return n == (ssize_t)size || agent_fail_errno(error, "vdso of process %d", pid);
}

struct agent_vdso *agent_vdso_of(pid_t pid, bool ia32, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", pid), *maps = NULL;

    if (!g_file_get_contents(path, &maps, NULL, error))
        return NULL;

    g_auto(GStrv) lines = g_strsplit(maps, "\n", -1);
    struct agent_vdso *v = g_new0(struct agent_vdso, 1);

    v->parts = g_array_new(false, false, sizeof(struct agent_range));
    find_parts(v, lines);
    if (v->vdso == 0) {
        agent_fail(error, "this kernel gives programs no vdso");
        goto fail;
    }
    if (!read_code(v, pid, error))
        goto fail;

    const uint8_t *insn = memmem(v->code, v->end - v->vdso, ia32 ? int80_insn : syscall_insn, 2);

    if (!insn) {
        agent_fail(error, "the vdso of this kernel has no system call instruction");
        goto fail;
    }
    v->syscall_offset = insn - v->code;
    return v;
fail:
    agent_vdso_free(v);
    return NULL;
}

// Where addresses of the process end while it is built.
static uint64_t space_end(const AgentProc *p)
{
    const struct fmt_vma *last = p->vmas->len ? g_ptr_array_index(p->vmas, p->vmas->len - 1) : NULL;

    if (!p->ia32)
        return USER_END;
    return agent_leader(p)->rec->personality & ADDR_LIMIT_3GB &&
                   !(last && last->end > AGENT_IA32_3GB_END)
               ? AGENT_IA32_3GB_END
               : AGENT_IA32_END;
}

static void use(GArray *used, uint64_t start, uint64_t end)
{
    const struct agent_range range = {start, end};

    g_array_append_val(used, range);
}

// Middle of the largest range that neither the image nor what the process needs meanwhile uses; far
// from anything that grows.
static uint64_t choose_park(const AgentProc *p, uint64_t bytes)
{
    g_autoptr(GArray) used = g_array_new(false, false, sizeof(struct agent_range));
    // Calls of i386 reach the lower 4 GiB alone.
    const uint64_t end = agent_ia32_calls(p) ? MIN(space_end(p), AGENT_IA32_END) : space_end(p);
    struct agent_range store;

    for (guint i = 0; i < p->vmas->len; i++) {
        const struct fmt_vma *vma = g_ptr_array_index(p->vmas, i);

        if (vma->start < end)
            use(used, vma->start, vma->end);
    }
    if (p->here->vvar < end)
        use(used, p->here->vvar, p->here->end);
    if (p->stub)
        use(used, 0, agent_stub_end());
    if (agent_cow_store(p, &store))
        use(used, store.start, store.end);
    use(used, end, end);

    const struct agent_range best = agent_range_largest_gap(used, USER_START);
    const uint64_t best_bytes = best.end - best.start;

    if (best_bytes < bytes + 2 * PAGE_BYTES)
        return 0;
    return (best.start + (best_bytes - bytes) / 2) & ~(PAGE_BYTES - 1);
}

// Moves the parts of the vdso so that its data begins at `to`.
static bool move_parts(AgentProc *p, uint64_t from, uint64_t to, GError **error)
{
    const struct agent_vdso *here = p->here;

    for (guint i = 0; i < here->parts->len; i++) {
        const struct agent_range *part = &g_array_index(here->parts, struct agent_range, i);
        const uint64_t offset = part->start - here->vvar, bytes = part->end - part->start;

        if (!agent_remote(&agent_leader(p)->tracee, "mremap of the vdso", SYS_mremap, NULL, error,
                          from + offset, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to + offset))
            return false;
    }
    p->vdso = to + (here->vdso - here->vvar);
    if (!p->ia32)
        p->site.syscall_ip = p->vdso + here->syscall_offset;
    return true;
}

// A page with both instructions, behind the scratch memory and unmapped with it, for what the vdso
// has not.
static bool put_code(AgentProc *p, uint64_t at, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    if (!agent_remote(t, "mmap", SYS_mmap, NULL, error, at, PAGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1ull, 0) ||
        !agent_remote_write(t, at, agent_entry_code, sizeof agent_entry_code, error) ||
        !agent_remote(t, "mprotect", SYS_mprotect, NULL, error, at, PAGE_BYTES,
                      PROT_READ | PROT_EXEC))
        return false;
    p->site.int80_ip = at + 2;
    if (p->ia32)
        p->site.syscall_ip = at;
    p->site.code_bytes = PAGE_BYTES;
    return true;
}

static bool unmap(const AgentProc *p, uint64_t start, uint64_t end, GError **error)
{
    return start >= end || agent_remote(&agent_leader(p)->tracee, "munmap", SYS_munmap, NULL, error,
                                        start, end - start);
}

// Away with the copy of the agent's memory, or with the stub.
static bool keep_only(const AgentProc *p, struct agent_range park, GError **error)
{
    struct agent_range store = park;
    const bool has_store = agent_cow_store(p, &store);
    const struct agent_range low = store.start < park.start ? store : park;
    const struct agent_range high = store.start < park.start ? park : store;

    return unmap(p, 0, low.start, error) && (!has_store || unmap(p, low.end, high.start, error)) &&
           unmap(p, high.end, space_end(p), error);
}

static bool park(AgentProc *p, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;

    p->here = agent_vdso_of(t->tid, p->ia32, error);
    if (!p->here)
        return false;
    // scratch, code or a hole that stops runaway writes, data and code of the vdso
    const uint64_t vdso_bytes = p->here->end - p->here->vvar;
    const uint64_t bytes = AGENT_SCRATCH_BYTES + PAGE_BYTES + vdso_bytes;

    p->park = choose_park(p, bytes);
    if (p->park == 0)
        return agent_fail(error, "process %" G_GUINT64_FORMAT ": no free address range",
                          p->rec->pid);
    if (!agent_remote(t, "mmap", SYS_mmap, NULL, error, p->park, AGENT_SCRATCH_BYTES,
                      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1ull, 0) ||
        (agent_ia32_calls(p) && !put_code(p, p->park + AGENT_SCRATCH_BYTES, error)) ||
        !move_parts(p, p->here->vvar, p->park + bytes - vdso_bytes, error))
        return false;
    p->site.scratch = p->park;
    return keep_only(p, (struct agent_range){p->park, p->park + bytes}, error);
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

static bool same_code(const AgentProc *p, const struct fmt_vma *code)
{
    const struct agent_vdso *here = p->here;

    return code->end - code->start == here->end - here->vdso &&
           code->start - captured_data(p, code) == here->vdso - here->vvar &&
           memcmp(p->old_vdso->data, here->code, agent_vdso_used(here->code, p->old_vdso->len)) ==
               0;
}

// What follows the code of the vdso: detours.
static bool put_back_rest(AgentProc *p, GError **error)
{
    const size_t used = agent_vdso_used(p->here->code, p->old_vdso->len);
    const size_t rest = agent_vdso_used(p->old_vdso->data, p->old_vdso->len);

    return rest <= used ||
           pwrite(p->mem, p->old_vdso->data + used, rest - used, (off_t)(p->vdso + used)) ==
               (ssize_t)(rest - used) ||
           agent_fail_errno(error, "code in the vdso of process %" G_GUINT64_FORMAT, p->rec->pid);
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

static bool patch(AgentProc *p, const struct fmt_vma *code, GError **error)
{
    g_autoptr(GArray) old = agent_vdso_functions(p->old_vdso->data, p->old_vdso->len);
    g_autoptr(GArray) new = agent_vdso_functions(p->here->code, p->here->end - p->here->vdso);
    // Names are read from the captured bytes while their code is overwritten.
    g_autofree uint8_t *out = g_memdup2(p->old_vdso->data, p->old_vdso->len);

    if (old->len == 0)
        return agent_fail(error, "process %" G_GUINT64_FORMAT ": the captured vdso is no ELF file",
                          p->rec->pid);
    for (guint i = 0; i < old->len; i++) {
        const struct agent_vdso_function *f = &g_array_index(old, struct agent_vdso_function, i);

        if (agent_vdso_stays(f->name))
            continue;
        const size_t bytes = agent_vdso_redirect(out, f, code->start, new, p->vdso, p->ia32);

        if (bytes == 0)
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

// A handler may return into the middle of the old code. For its data it finds zeros: a clock that
// only the kernel can read, which it then asks.
static bool put_back_data(AgentProc *p, const struct fmt_vma *code, GError **error)
{
    const uint64_t start = captured_data(p, code);

    return start == code->start ||
           agent_remote(&agent_leader(p)->tracee, "mmap", SYS_mmap, NULL, error, start,
                        code->start - start, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1ull,
                        0);
}

static bool put_back(AgentProc *p, const struct fmt_vma *code, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const uint64_t bytes = code->end - code->start;

    return put_back_data(p, code, error) &&
           agent_remote(t, "mmap", SYS_mmap, NULL, error, code->start, bytes,
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                        -1ull, 0) &&
           agent_remote_write(t, code->start, p->old_vdso->data, bytes, error) &&
           agent_remote(t, "mprotect", SYS_mprotect, NULL, error, code->start, bytes,
                        PROT_READ | PROT_EXEC);
}

static bool at_call(const AgentProc *p, uint64_t offset)
{
    const uint8_t *code = p->old_vdso->data, *insns[] = {syscall_insn, int80_insn};

    for (int i = 0; i < 2; i++)
        if ((offset + 2 <= p->old_vdso->len && memcmp(code + offset, insns[i], 2) == 0) ||
            (offset >= 2 && memcmp(code + offset - 2, insns[i], 2) == 0))
            return true;
    return false;
}

// Whether `offset` lies inside of a function of this name, past its first instruction.
static bool inside(const AgentProc *p, uint64_t offset, const char *name)
{
    g_autoptr(GArray) all = agent_vdso_functions(p->old_vdso->data, p->old_vdso->len);

    for (guint i = 0; i < all->len; i++) {
        const struct agent_vdso_function *f = &g_array_index(all, struct agent_vdso_function, i);

        if (strcmp(agent_vdso_base_name(f->name), name) == 0 && offset > f->offset &&
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

    if (!code) // the program has unmapped it, or the source kernel gave none
        return agent_detours_make(p, error);
    if (!p->old_vdso || p->old_vdso->len != code->end - code->start) {
        g_set_error(error, AGENT_ERROR, AGENT_ERROR_IMAGE,
                    "process %" G_GUINT64_FORMAT ": the image lacks contents of the vdso",
                    p->rec->pid);
        return false;
    }
    const bool same = same_code(p, code);

    if (!check_threads(p, code, same, error))
        return false;
    return (same ? move_parts(p, p->vdso - (p->here->vdso - p->here->vvar), captured_data(p, code),
                              error) &&
                       put_back_rest(p, error)
                 : patch(p, code, error) && put_back(p, code, error)) &&
           agent_detours_make(p, error);
}

const struct agent_aspect agent_aspect_vdso = {
    .name = "vdso",
    .per_mm = true,
    .build = park,
    .finish = finish,
};
