// SPDX-License-Identifier: GPL-2.0-or-later
// Address spaces (struct mm_struct).
#include "introspect/mm.h"

#include <string.h>

#include "introspect/process.h"
#include "introspect/segment.h"
#include "introspect/task.h"

#define MAX_VMAS        (1u << 20) // sysctl vm.max_map_count is 65530 unless raised
#define MMF_DISABLE_THP 24         // include/linux/sched/coredump.h
// MMF_DISABLE_THP_EXCEPT_ADVISED, since 6.18; how prctl() says it
#define MMF_DISABLE_THP_ADVISED 23
#define THP_EXCEPT_ADVISED      2
#define MMF_DUMPABLE            3 // bits 0 and 1
// Since 6.3, 6.6 and 6.4; the last was 29 until the second came.
#define MMF_HAS_MDWE            28
#define MMF_HAS_MDWE_NO_INHERIT 29
#define MMF_VM_MERGE_ANY        30

// enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES }, include/linux/mm_types_task.h
static const unsigned resident_counters[] = {0, 1, 3};

// A percpu_counter: the sum so far and what each CPU has not added yet.
static int64_t percpu_counter(IntroReader *r, struct gva counter)
{
    int64_t sum = rd(r, counter, M_percpu_counter_count);
    uint64_t counters = rd(r, counter, M_percpu_counter_counters);
    struct gva offsets;

    if (r->error || !intro_symbol(r->k, "__per_cpu_offset", &offsets, &r->error))
        return 0;
    for (unsigned cpu = 0; cpu < intro_n_cpus(r->k); cpu++)
        sum += (int32_t)rd_u32_at(r, GVA(counters + rd_u64_at(r, GVA(offsets.addr + 8 * cpu))));
    return sum;
}

uint64_t intro_mm_rss_bytes(IntroReader *r, struct gva mm)
{
    bool percpu = intro_place(r->k, M_mm_rss_stat)->alternative == 0 &&
                  intro_sizeof(r->k, T_mm_rss_stat) == 0;
    int64_t pages = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(resident_counters); i++) {
        unsigned n = resident_counters[i];
        if (percpu)
            pages += percpu_counter(
                r, rd_elem(r, mm, M_mm_rss_stat, n, intro_sizeof(r->k, T_percpu_counter)));
        else
            pages += (int64_t)rd_u64_at(r, rd_elem(r, mm, M_mm_rss_stat, n, 8));
    }
    return MAX(pages, 0) * (uint64_t)VMM_PAGE_BYTES;
}

// Before the maple tree: mm->mmap and vm_next.
static bool walk_vma_list(IntroKernel *k, struct gva mm, intro_node_fn fn, void *user,
                          GError **error)
{
    struct gva vma;

    if (!intro_get_ptr(k, mm, M_mm_mmap, &vma, error))
        return false;
    for (size_t n = 0; vma.addr; n++) {
        if (n >= MAX_VMAS) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                        "mappings of mm_struct at %" G_GINT64_MODIFIER "x: a loop", mm.addr);
            return false;
        }
        if (!fn(vma, user, error) || !intro_get_ptr(k, vma, M_vma_next, &vma, error))
            return false;
    }
    return true;
}

bool intro_walk_vmas(IntroKernel *k, struct gva mm, intro_node_fn fn, void *user, GError **error)
{
    if (intro_has(k, M_mm_mt))
        return intro_walk_maple(k, intro_member_addr(k, mm, M_mm_mt), MAX_VMAS, fn, user, error);
    return walk_vma_list(k, mm, fn, user, error);
}

static GBytes *read_auxv(IntroReader *r, struct gva mm)
{
    const struct intro_place *place = intro_place(r->k, M_mm_saved_auxv);
    uint64_t auxv[128];
    size_t n = MIN(place->size_bytes / 8, G_N_ELEMENTS(auxv)) & ~(size_t)1;

    rd_bytes(r, mm, M_mm_saved_auxv, auxv, n * 8);
    for (size_t i = 0; i + 1 < n; i += 2)
        if (auxv[i] == 0)
            return g_bytes_new(auxv, (i + 2) * 8);
    return g_bytes_new(auxv, n * 8);
}

#define MAX_IOCTX (1u << 20) // there are no more than fs.aio-max-nr

// Whether a context of asynchronous I/O lives; the table stays when they are gone.
static bool has_aio(IntroReader *r, struct gva mm)
{
    struct gva table = GVA(rd_opt(r, mm, M_mm_ioctx_table, 0));

    if (!table.addr || !intro_has(r->k, M_kioctx_table_nr) ||
        !intro_has(r->k, M_kioctx_table_table))
        return table.addr != 0;
    const uint64_t n = MIN(rd(r, table, M_kioctx_table_nr), MAX_IOCTX);
    for (uint64_t i = 0; i < n && !r->error; i++)
        if (rd_u64_at(r, rd_elem(r, table, M_kioctx_table_table, i, 8)))
            return true;
    return false;
}

// What other tasks do with this address space is not ours to carry.
static bool check_users(struct intro_ctx *c, struct gva mm, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    const bool aio = has_aio(&r, mm), lam = rd_opt(&r, mm, M_mm_lam, 0);

    if (!rd_done(&r, error))
        return false;
    if (aio)
        intro_refuse(c, "aio", "has an asynchronous I/O context (io_setup)");
    if (lam)
        intro_refuse(c, "lam", "has tags in addresses (ARCH_ENABLE_TAGGED_ADDR)");
    return true;
}

struct vma_walk {
    struct intro_ctx *c;
    struct gva mm;
    uint64_t ref;
};

static bool capture_vma(struct gva vma, void *user, GError **error)
{
    struct vma_walk *w = user;

    return intro_mapping(w->c, vma, w->mm, w->ref, error);
}

#define DUMP_FILTER(flags)  ((flags) >> 2 & 0x1ff)
#define DUMP_FILTER_DEFAULT 0x33 // private and shared anonymous, ELF headers, private huge pages

static void read_fields(IntroReader *r, struct gva mm, struct fmt_mm *rec)
{
    rec->start_code = rd(r, mm, M_mm_start_code);
    rec->end_code = rd(r, mm, M_mm_end_code);
    rec->start_data = rd(r, mm, M_mm_start_data);
    rec->end_data = rd(r, mm, M_mm_end_data);
    rec->start_brk = rd(r, mm, M_mm_start_brk);
    rec->brk = rd(r, mm, M_mm_brk);
    rec->start_stack = rd(r, mm, M_mm_start_stack);
    rec->arg_start = rd(r, mm, M_mm_arg_start);
    rec->arg_end = rd(r, mm, M_mm_arg_end);
    rec->env_start = rd(r, mm, M_mm_env_start);
    rec->env_end = rd(r, mm, M_mm_env_end);
    rec->vdso = rd(r, mm, M_mm_context_vdso);
    rec->auxv = read_auxv(r, mm);
    rec->membarrier = rd_opt(r, mm, M_mm_membarrier_state, 0);

    // Key 0 is everybody's.
    rec->pkeys = rd_opt(r, mm, M_mm_context_pkeys, 0) & 0xfffe;
    rec->execute_only_pkey = (int64_t)rd_opt(r, mm, M_mm_context_execute_only_pkey, 0);

    uint64_t flags = rd(r, mm, M_mm_flags);
    bool mdwe = intro_has(r->k, M_vma_flags_rename) && flags >> MMF_HAS_MDWE & 1;
    bool bit29 = intro_has(r->k, M_vma_flags_rename) && flags >> MMF_HAS_MDWE_NO_INHERIT & 1;
    rec->mdwe = mdwe | (mdwe && bit29) << 1;
    rec->merge_any =
        intro_has(r->k, M_vma_flags_rename) && (flags >> MMF_VM_MERGE_ANY & 1 || (bit29 && !mdwe));
    rec->dump_filter_xor = DUMP_FILTER(flags) ^ DUMP_FILTER_DEFAULT;
    rec->dumpable = flags & MMF_DUMPABLE;
    // Bit 23 meant something else while the flags were one word.
    if (flags >> MMF_DISABLE_THP & 1)
        rec->thp_disable = 1;
    else if (intro_place(r->k, M_mm_flags)->alternative == 0 &&
             flags >> MMF_DISABLE_THP_ADVISED & 1)
        rec->thp_disable = 1 | THP_EXCEPT_ADVISED;
    rec->def_flags =
        intro_vma_flags(rd(r, mm, M_mm_def_flags)) & (FMT_VMA_LOCKED | FMT_VMA_LOCKONFAULT);
}

uint64_t intro_mm(struct intro_ctx *c, struct gva mm, GError **error)
{
    uint64_t ref = intro_object_ref(c, mm);
    if (ref)
        return ref;
    if (!intro_check_rwsem_write(c->k, intro_member_addr(c->k, mm, M_mm_mmap_lock), "mmap_lock",
                                 error) ||
        !check_users(c, mm, error))
        return 0;

    struct fmt_mm *rec = intro_object_add(c, mm, FMT_MM);
    g_auto(IntroReader) r = INTRO_READER(c->k);
    read_fields(&r, mm, rec);
    struct gva exe = rd_ptr(&r, mm, M_mm_exe_file);
    if (!rd_done(&r, error) || !intro_segments_mm(c, mm, rec, error))
        return 0;
    if (exe.addr && !(rec->exe = intro_file(c, exe, error)))
        return 0;

    struct vma_walk walk = {c, mm, rec->rec.objref};
    if (!intro_walk_vmas(c->k, mm, capture_vma, &walk, error)) {
        g_prefix_error(error, "mappings of process %" G_GUINT64_FORMAT ": ", c->pid);
        return 0;
    }
    return rec->rec.objref;
}

/* ---- who else ---- */

static uint64_t n_threads(const struct intro_ctx *c, uint64_t mm_ref)
{
    const struct fmt_task *task;
    uint64_t n = 0;

    for (size_t i = 0; FMT_NEXT(c->img, TASK, i, task); i++) {
        const struct fmt_proc *proc = fmt_image_by_ref(c->img, task->proc, FMT_PROC);
        n += proc && proc->mm == mm_ref;
    }
    return n;
}

// The first process of the tree that uses it is named.
static void blame_user(struct intro_ctx *c, uint64_t mm_ref)
{
    const struct fmt_proc *proc;

    c->pid = c->opt->pid;
    for (size_t i = 0; FMT_NEXT(c->img, PROC, i, proc); i++) {
        if (proc->mm != mm_ref)
            continue;
        c->pid = proc->pid;
        return;
    }
}

// Refuses where a process outside of the tree (whose signal_struct we have not met) uses the mm.
static bool check_outside(struct intro_ctx *c, struct gva mm, GError **error)
{
    g_autoptr(GPtrArray) processes = intro_list_processes(c->k, false, error);

    for (guint i = 0; processes && i < processes->len; i++) {
        const struct intro_process *p = processes->pdata[i];
        g_auto(IntroReader) r = INTRO_READER(c->k);
        bool shares = rd(&r, p->task, M_task_mm) == mm.addr;
        struct gva signal = rd_ptr(&r, p->task, M_task_signal);

        if (!rd_done(&r, error))
            return false;
        if (shares && !intro_object_ref(c, signal))
            intro_refuse(c, "shared-mm",
                         "shares its memory with process %u (%s), outside of the tree", p->pid,
                         p->comm);
    }
    return processes != NULL;
}

static bool check_peers(struct intro_ctx *c, GError **error)
{
    GHashTableIter iter;
    void *at, *ref;

    g_hash_table_iter_init(&iter, c->objects);
    while (g_hash_table_iter_next(&iter, &at, &ref)) {
        struct gva mm = GVA(GPOINTER_TO_SIZE(at));
        uint64_t users;

        if (!fmt_image_by_ref(c->img, GPOINTER_TO_SIZE(ref), FMT_MM))
            continue;
        blame_user(c, GPOINTER_TO_SIZE(ref));
        // Others may look into it for a moment: that counts as well, so ask who.
        if (!intro_get(c->k, mm, M_mm_users, &users, error) ||
            (users > n_threads(c, GPOINTER_TO_SIZE(ref)) && !check_outside(c, mm, error)))
            return false;
    }
    return true;
}

bool intro_mm_check_peers(struct intro_ctx *c, GError **error)
{
    bool ok = check_peers(c, error);

    c->pid = c->opt->pid;
    return ok;
}
