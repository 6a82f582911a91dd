// SPDX-License-Identifier: GPL-2.0-or-later
// The registers of a thread as user mode had them: from its vCPU, or from where the kernel saved
// them.
#include "introspect/regs.h"

#include <string.h>

#include "introspect/reader.h"

#define THREAD_BYTES_DEFAULT 16384
#define FRED_PADDING_BYTES   16 // CONFIG_X86_FRED (6.9) keeps two words above the registers
#define RPL_MASK             3
#define RPL_USER             3

// Size of a kernel stack, from the one that the image holds for init_task.
static uint64_t thread_bytes(IntroKernel *k)
{
    static const char *const bounds[][2] = {
        {"__start_init_stack", "__end_init_stack"}, // since 6.10
        {"__start_init_task", "__end_init_task"},
    };
    struct gva start, end;

    for (size_t i = 0; i < G_N_ELEMENTS(bounds); i++)
        if (intro_symbol(k, bounds[i][0], &start, NULL) &&
            intro_symbol(k, bounds[i][1], &end, NULL) && end.addr > start.addr &&
            end.addr - start.addr <= 1u << 20)
            return end.addr - start.addr;
    return THREAD_BYTES_DEFAULT;
}

bool intro_user_regs(IntroKernel *k, struct gva task, struct gva *ret_at, struct intro_regs *ret,
                     GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    uint64_t top = rd(&r, task, M_task_stack) + thread_bytes(k);

    if (!rd_done(&r, error))
        return false;
    for (unsigned padding = 0; padding <= FRED_PADDING_BYTES; padding += FRED_PADDING_BYTES) {
        struct intro_regs regs;
        struct gva at = GVA(top - padding - sizeof(regs));
        if (!intro_read(k, at, &regs, sizeof(regs), error))
            return false;
        uint16_t cs = (uint16_t)regs.cs, ss = (uint16_t)regs.ss;
        // Most have 0x33 or 0x23 and 0x2b, but a program may have segments of its own.
        if ((cs & RPL_MASK) != RPL_USER || (ss & RPL_MASK) != RPL_USER)
            continue;
        regs.cs = cs;
        regs.ss = ss;
        *ret = regs;
        *ret_at = at;
        return true;
    }
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                "task_struct at %" G_GINT64_MODIFIER "x: no registers of user mode on its stack",
                task.addr);
    return false;
}

/*
 * Which task a vCPU runs: the kernel's per-CPU base is in GS while the CPU is in the kernel and in
 * KERNEL_GS_BASE while it is in user mode. In the few instructions around SWAPGS neither holds:
 * then the vCPU runs no task that we would know, and the task's on_cpu flag makes the take a RETRY.
 */
static bool current_of(struct intro_ctx *c, const struct vmm_vcpu *cpu, struct gva *ret,
                       GError **error)
{
    uint64_t base = cpu->user_mode ? cpu->kernel_gs_base : cpu->seg[VMM_GS].base;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva offsets;

    *ret = GVA(0);
    if (!intro_symbol(c->k, "__per_cpu_offset", &offsets, error))
        return false;
    for (unsigned i = 0; i < intro_n_cpus(c->k); i++) {
        struct gva current;
        if (rd_u64_at(&r, GVA(offsets.addr + 8 * i)) != base)
            continue;
        // current_task; from 6.2 to 6.14 the first member of the per-CPU pcpu_hot.
        if (!intro_percpu(c->k, "current_task", i, &current, NULL) &&
            !intro_percpu(c->k, "pcpu_hot", i, &current, error))
            return false;
        *ret = rd_ptr_at(&r, current);
        break;
    }
    return rd_done(&r, error);
}

const struct vmm_vcpu *intro_vcpu_of(struct intro_ctx *c, struct gva task, GError **error)
{
    for (guint i = 0; i < c->vcpus->len; i++) {
        const struct vmm_vcpu *cpu = &g_array_index(c->vcpus, struct vmm_vcpu, i);
        struct gva current;
        if (!current_of(c, cpu, &current, error))
            return NULL;
        if (current.addr == task.addr)
            return cpu;
    }
    return NULL;
}

bool intro_regs_from_vcpu(struct intro_ctx *c, const struct vmm_vcpu *cpu, struct fmt_task *rec,
                          GError **error)
{
    const uint64_t *g = cpu->gpr;

    rec->r15 = g[VMM_R15], rec->r14 = g[VMM_R14], rec->r13 = g[VMM_R13], rec->r12 = g[VMM_R12];
    rec->r11 = g[VMM_R11], rec->r10 = g[VMM_R10], rec->r9 = g[VMM_R9], rec->r8 = g[VMM_R8];
    rec->rbp = g[VMM_RBP], rec->rbx = g[VMM_RBX], rec->rax = g[VMM_RAX], rec->rcx = g[VMM_RCX];
    rec->rdx = g[VMM_RDX], rec->rsi = g[VMM_RSI], rec->rdi = g[VMM_RDI], rec->rsp = g[VMM_RSP];
    rec->orig_rax = UINT64_MAX;
    rec->rip = cpu->rip;
    rec->eflags = cpu->rflags;
    rec->cs = cpu->seg[VMM_CS].selector;
    rec->ss = cpu->seg[VMM_SS].selector;
    rec->ds_sel = cpu->seg[VMM_DS].selector;
    rec->es_sel = cpu->seg[VMM_ES].selector;
    rec->fs_sel = cpu->seg[VMM_FS].selector;
    rec->gs_sel = cpu->seg[VMM_GS].selector;
    rec->fs_base = cpu->seg[VMM_FS].base;
    rec->gs_base = cpu->seg[VMM_GS].base;

    struct intro_xsave_layout layout;
    if (!intro_xsave_layout(c->k, &layout, error))
        return false;
    // The vCPU's area may hold more components than user programs can: expand() takes only those.
    rec->xsave = intro_xsave_expand(&layout, cpu->xsave, cpu->xsave_bytes, error);
    return rec->xsave != NULL;
}

bool intro_regs_from_memory(struct intro_ctx *c, struct gva task, const struct intro_regs *regs,
                            struct fmt_task *rec, GError **error)
{
    struct intro_xsave_layout layout;
    g_auto(IntroReader) r = INTRO_READER(c->k);

    rec->r15 = regs->r15, rec->r14 = regs->r14, rec->r13 = regs->r13, rec->r12 = regs->r12;
    rec->r11 = regs->r11, rec->r10 = regs->r10, rec->r9 = regs->r9, rec->r8 = regs->r8;
    rec->rbp = regs->bp, rec->rbx = regs->bx, rec->rax = regs->ax, rec->rcx = regs->cx;
    rec->rdx = regs->dx, rec->rsi = regs->si, rec->rdi = regs->di, rec->rsp = regs->sp;
    rec->orig_rax = regs->orig_ax;
    rec->rip = regs->ip;
    rec->eflags = regs->flags;
    rec->cs = regs->cs;
    rec->ss = regs->ss;
    rec->ds_sel = rd(&r, task, M_thread_ds);
    rec->es_sel = rd(&r, task, M_thread_es);
    rec->fs_sel = rd(&r, task, M_thread_fsindex);
    rec->gs_sel = rd(&r, task, M_thread_gsindex);
    rec->fs_base = rd(&r, task, M_thread_fsbase);
    rec->gs_base = rd(&r, task, M_thread_gsbase);
    if (!rd_done(&r, error) || !intro_xsave_layout(c->k, &layout, error))
        return false;
    rec->xsave = intro_xsave_of_task(c->k, task, &layout, error);
    return rec->xsave != NULL;
}
