// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: the registers of a thread as user mode had them.
#pragma once

#include "introspect/context.h"
#include "introspect/xsave.h"

// struct pt_regs (arch/x86/include/asm/ptrace.h), in its order.
struct intro_regs {
    uint64_t r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs,
        flags, sp, ss;
};
G_STATIC_ASSERT(sizeof(struct intro_regs) == 168);

// Where the kernel saved the registers of user mode when the task entered it, and what they are.
// CORRUPT where there are none: the code and stack segments are not those of user mode.
bool intro_user_regs(IntroKernel *k, struct gva task, struct gva *ret_at, struct intro_regs *ret,
                     GError **error);

// The vCPU that the task is running on; NULL where none has it as its current task.
const struct vmm_vcpu *intro_vcpu_of(struct intro_ctx *c, struct gva task, GError **error);

// Fills the registers, segments and vector state of rec from the vCPU that runs the task in user
// mode ...
bool intro_regs_from_vcpu(struct intro_ctx *c, const struct vmm_vcpu *cpu, struct fmt_task *rec,
                          GError **error);
// ... or from what the kernel has saved of it.
bool intro_regs_from_memory(struct intro_ctx *c, struct gva task, const struct intro_regs *regs,
                            struct fmt_task *rec, GError **error);
