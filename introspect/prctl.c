// SPDX-License-Identifier: GPL-2.0-or-later
// What prctl sets for a thread and the kernel keeps as single bits here and there.
#include "introspect/process.h"
#include "introspect/task.h"

// task_struct.flags, include/linux/sched.h: those values since 5.10 at least.
#define PF_MCE_PROCESS 0x00000080u
#define PF_IO_FLUSHER  0x00180000u // PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE
#define PF_MCE_EARLY   0x08000000u
#define PF_KTHREAD     0x00200000u

// Bits of thread_info.flags, arch/x86/include/asm/thread_info.h. No type names them, and they moved
// in 6.18. Since long before that every thread that is off the CPU has NEED_FPU_LOAD set.
struct tif {
    unsigned need_fpu_load, nocpuid, notsc;
};
static const struct tif tif_old = {14, 15, 16}, tif_new = {19, 20, 21};

static bool has_bit(uint64_t word, unsigned bit)
{
    return word >> bit & 1;
}

// Whether the task tells by what it has set: of user mode, and off the CPU. NULL where not.
static const struct tif *tif_by(IntroReader *r, struct gva task)
{
    if (!task.addr || rd(r, task, M_task_on_cpu) || rd(r, task, M_task_flags) & PF_KTHREAD)
        return NULL;
    return has_bit(rd(r, task, M_thread_info_flags), tif_new.need_fpu_load) ? &tif_new : &tif_old;
}

static const struct tif *tif_of(IntroReader *r, struct gva task)
{
    const struct tif *tif = tif_by(r, task);
    struct gva init;

    if (!tif)
        tif = tif_by(r, rd_ptr(r, task, M_task_real_parent));
    if (!tif && intro_find_process(r->k, 1, &init, NULL))
        tif = tif_by(r, init);
    return tif;
}

static bool read_thread_info(struct intro_ctx *c, IntroReader *r, struct gva task,
                             struct fmt_task *rec)
{
    const uint64_t flags = rd(r, task, M_thread_info_flags);

    if (!has_bit(flags, tif_old.notsc) && !has_bit(flags, tif_new.notsc) &&
        !has_bit(flags, tif_old.nocpuid) && !has_bit(flags, tif_new.nocpuid))
        return !r->error;
    const struct tif *tif = tif_of(r, task);

    if (r->error)
        return false;
    if (!tif) {
        g_set_error(&r->error, INTRO_ERROR, INTRO_ERROR_BUSY,
                    "thread %" G_GUINT64_FORMAT ": the meaning of its flags cannot be told",
                    rec->tid);
        return false;
    }
    rec->no_tsc = has_bit(flags, tif->notsc);
    if (has_bit(flags, tif->nocpuid))
        intro_refuse(c, "cpuid", "may not use the CPUID instruction (ARCH_SET_CPUID)");
    return true;
}

// PFA_SPEC_* of task_struct.atomic_flags, include/linux/sched.h: those bits since 5.1.
static const struct {
    unsigned bit;
    enum fmt_speculation flag;
} speculation[] = {
    {3, FMT_SPECULATION_SSB_DISABLE}, {4, FMT_SPECULATION_SSB_FORCE},
    {7, FMT_SPECULATION_SSB_NOEXEC},  {5, FMT_SPECULATION_IB_DISABLE},
    {6, FMT_SPECULATION_IB_FORCE},
};

static void read_dispatch(IntroReader *r, struct gva task, struct fmt_task *rec)
{
    int64_t bit;

    if (!intro_has(r->k, M_thread_info_syscall_work) || !intro_has(r->k, M_dispatch_selector) ||
        !intro_constant(r->k, C_SYSCALL_WORK_BIT_SYSCALL_USER_DISPATCH, &bit))
        return;
    rec->dispatch = has_bit(rd(r, task, M_thread_info_syscall_work), (unsigned)bit & 63);
    if (!rec->dispatch)
        return;
    rec->dispatch_selector = rd(r, task, M_dispatch_selector);
    rec->dispatch_start = rd(r, task, M_dispatch_offset);
    rec->dispatch_bytes = rd(r, task, M_dispatch_len);
}

bool intro_prctl(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    const uint64_t flags = rd(&r, task, M_task_flags);
    const uint64_t atomic_flags = rd(&r, task, M_task_atomic_flags);

    rec->io_flusher = (flags & PF_IO_FLUSHER) == PF_IO_FLUSHER;
    if (flags & PF_MCE_PROCESS)
        rec->mce_kill = flags & PF_MCE_EARLY ? FMT_MCE_EARLY : FMT_MCE_LATE;
    for (size_t i = 0; i < G_N_ELEMENTS(speculation); i++)
        if (has_bit(atomic_flags, speculation[i].bit))
            rec->speculation |= speculation[i].flag;
    read_dispatch(&r, task, rec);
    read_thread_info(c, &r, task, rec);
    return rd_done(&r, error);
}
