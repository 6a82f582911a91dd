// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the record "cpu" of QEMU's device state.
#include "vmm/vmstate_cpu.h"

#include <string.h>

#include "vmm/machine.h"
#include "vmm/xsave.h"

/*
 * The fields and their order are those of vmstate_x86_cpu in QEMU's target/i386/machine.c, version
 * 12 (the only one since QEMU 1.x); all are big-endian. Subsections follow, each
 *
 *   05  length of its name (one byte)  name  version (4)  fields  [subsections of its own]
 *
 * and none says how long it is: an unknown one ends the reading.
 */
#define N_GPRS 16

#define CR4_OSXSAVE (UINT64_C(1) << 18)

static void read_x87(struct vmm_bytes *b, struct vmm_vcpu *cpu)
{
    vmm_xsave_put16(cpu, XSAVE_FCW, vmm_bytes_u16(b));
    vmm_xsave_put16(cpu, XSAVE_FSW, vmm_bytes_u16(b));
    // fptag_vmstate: already one bit a register, set where it is in use.
    vmm_xsave_put16(cpu, XSAVE_FTW, vmm_bytes_u16(b) & 0xff);
    vmm_bytes_skip(b, 2); // fpregs_format_vmstate
    for (unsigned i = 0; i < 8; i++) {
        uint64_t mantissa = vmm_bytes_u64(b);

        vmm_xsave_put_st(cpu, i, mantissa, vmm_bytes_u16(b));
    }
}

static void read_segment(struct vmm_bytes *b, struct vmm_segment *ret)
{
    ret->selector = (uint16_t)vmm_bytes_u32(b);
    ret->base = vmm_bytes_u64(b);
    vmm_bytes_skip(b, 4 + 4); // limit, flags
}

// Rows of n quadwords each, at row * stride from `offset` on.
static void read_vectors(struct vmm_bytes *b, struct vmm_vcpu *cpu, uint32_t offset, unsigned rows,
                         unsigned n)
{
    for (unsigned i = 0; i < rows * n; i++)
        vmm_xsave_put64(cpu, offset + 8 * i, vmm_bytes_u64(b));
}

static void read_fields(struct vmm_bytes *b, struct vmm_vcpu *cpu)
{
    uint32_t hflags;

    for (int i = 0; i < N_GPRS; i++)
        cpu->gpr[i] = vmm_bytes_u64(b);
    cpu->rip = vmm_bytes_u64(b);
    cpu->rflags = vmm_bytes_u64(b);
    hflags = vmm_bytes_u32(b);
    cpu->user_mode = (hflags & 3) == 3; // HF_CPL_MASK
    read_x87(b, cpu);
    for (int i = 0; i < VMM_N_SEGS; i++)
        read_segment(b, &cpu->seg[i]);
    vmm_bytes_skip(b, 4 * 20);    // LDT, TR, GDT, IDT
    vmm_bytes_skip(b, 4 + 8 + 8); // sysenter_cs, _esp, _eip
    cpu->cr0 = vmm_bytes_u64(b);
    cpu->cr2 = vmm_bytes_u64(b);
    cpu->cr3 = vmm_bytes_u64(b);
    cpu->cr4 = vmm_bytes_u64(b);
    vmm_bytes_skip(b, 8 * 8); // debug registers
    vmm_bytes_skip(b, 4);     // a20_mask
    vmm_xsave_put32(cpu, XSAVE_MXCSR, vmm_bytes_u32(b));
    read_vectors(b, cpu, XSAVE_XMM, 16, 2);
    cpu->efer = vmm_bytes_u64(b);
    vmm_bytes_skip(b, 4 * 8); // star, lstar, cstar, fmask
    cpu->kernel_gs_base = vmm_bytes_u64(b);
    cpu->has_kernel_gs_base = true;
    vmm_bytes_skip(b, 4 + 8 + 4);             // smbase, pat, hflags2
    vmm_bytes_skip(b, 4 * 8 + 4 * 2 + 4 + 1); // vm_hsave .. v_tpr: SVM
    vmm_bytes_skip(b, 11 * 8 + 8 + 8 * 16);   // MTRRs
    vmm_bytes_skip(b, 4 + 4);                 // interrupt_injected, mp_state
    cpu->tsc = vmm_bytes_u64(b);
    vmm_bytes_skip(b, 4 + 4 * 1 + 4);      // exception_nr .. sipi_vector
    vmm_bytes_skip(b, 3 * 8 + 10 * 4 * 8); // mcg_*, mce_banks
    vmm_bytes_skip(b, 3 * 8);              // tsc_aux, system_time_msr, wall_clock_msr
    cpu->xcr0 = vmm_bytes_u64(b);
    if (!(cpu->cr4 & CR4_OSXSAVE)) // then the register is not in use, and FXSAVE has these two
        cpu->xcr0 = XCR0_X87 | XCR0_SSE;
    vmm_bytes_skip(b, 8); // xstate_bv: kept up to date under KVM only
    read_vectors(b, cpu, XSAVE_YMM_HI128, 16, 2);
}

static void read_fpop(struct vmm_bytes *b, struct vmm_vcpu *cpu)
{
    vmm_xsave_put16(cpu, XSAVE_FOP, vmm_bytes_u16(b));
    vmm_xsave_put64(cpu, XSAVE_FIP, vmm_bytes_u64(b));
    vmm_xsave_put64(cpu, XSAVE_FDP, vmm_bytes_u64(b));
}

static void read_mpx(struct vmm_bytes *b, struct vmm_vcpu *cpu)
{
    read_vectors(b, cpu, XSAVE_BNDREGS, 4, 2);
    read_vectors(b, cpu, XSAVE_BNDCSR, 1, 2);
    vmm_bytes_skip(b, 8); // msr_bndcfgs: the kernel's
}

static void read_avx512(struct vmm_bytes *b, struct vmm_vcpu *cpu)
{
    read_vectors(b, cpu, XSAVE_OPMASK, 8, 1);
    read_vectors(b, cpu, XSAVE_ZMM_HI256, 16, 4);
    read_vectors(b, cpu, XSAVE_HI16_ZMM, 16, 8);
}

static void read_pkru(struct vmm_bytes *b, struct vmm_vcpu *cpu)
{
    vmm_xsave_put32(cpu, XSAVE_PKRU, vmm_bytes_u32(b));
}

static void read_amx(struct vmm_bytes *b, struct vmm_vcpu *cpu)
{
    for (unsigned i = 0; i < 64 + 8192; i++)
        cpu->xsave[XSAVE_TILECFG + i] = vmm_bytes_u8(b);
}

// Each is version 1. Those that hold user state are read, of the others only the size matters. A
// missing one means that its fields have their reset values: zero, for all that are read.
static const struct subsection {
    const char *name;
    uint16_t size_bytes;
    void (*read)(struct vmm_bytes *b, struct vmm_vcpu *cpu);
} subsections[] = {
    // clang-format off
    {"cpu/exception_info",              3 + 8, NULL},
    {"cpu/async_pf_msr",                8, NULL},
    {"cpu/async_pf_int_msr",            8, NULL},
    {"cpu/async_pv_eoi_msr",            8, NULL},
    {"cpu/steal_time_msr",              8, NULL},
    {"cpu/poll_control_msr",            8, NULL},
    {"cpu/fpop_ip_dp",                  2 + 8 + 8, read_fpop},
    {"cpu/msr_tsc_adjust",              8, NULL},
    {"cpu/msr_tscdeadline",             8, NULL},
    {"cpu/msr_ia32_misc_enable",        8, NULL},
    {"cpu/msr_ia32_feature_control",    8, NULL},
    {"cpu/msr_architectural_pmu",       (4 + 3 + 2 * 18) * 8, NULL},
    {"cpu/mpx",                         (8 + 2 + 1) * 8, read_mpx},
    {"cpu/msr_hyperv_hypercall",        2 * 8, NULL},
    {"cpu/msr_hyperv_vapic",            8, NULL},
    {"cpu/msr_hyperv_time",             8, NULL},
    {"cpu/msr_hyperv_crash",            5 * 8, NULL},
    {"cpu/msr_hyperv_runtime",          8, NULL},
    {"cpu/msr_hyperv_synic",            (3 + 16) * 8, NULL},
    {"cpu/msr_hyperv_stimer",           (4 + 4) * 8, NULL},
    {"cpu/msr_hyperv_reenlightenment",  3 * 8, NULL},
    {"cpu/avx512",                      (8 + 16 * 4 + 16 * 8) * 8, read_avx512},
    {"cpu/xss",                         8, NULL},
    {"cpu/umwait",                      4, NULL},
    {"cpu/tsc_khz",                     8, NULL},
    {"cpu/msr_smi_count",               8, NULL},
    {"cpu/pkru",                        4, read_pkru},
    {"cpu/pkrs",                        4, NULL},
    {"cpu/spec_ctrl",                   8, NULL},
    {"cpu/amd_tsc_scale_msr",           8, NULL},
    {"cpu/mcg_ext_ctl",                 8, NULL},
    {"cpu/intel_pt",                    (5 + 8) * 8, NULL},
    {"cpu/virt_ssbd",                   8, NULL},
    {"cpu/svn_npt",                     8 + 4, NULL},
    {"cpu/svm_guest",                   4, NULL},
    {"cpu/nested_state",                2 + 2 + 4, NULL},
    {"cpu/kvm_nested_state/vmx",        8 + 8 + 2, NULL},
    {"cpu/kvm_nested_state/vmx/vmcs12", 4096, NULL},
    {"cpu/kvm_nested_state/vmx/shadow_vmcs12", 4096, NULL},
    {"cpu/kvm_nested_state/svm",        8 + 4096, NULL},
    {"cpu/msr_tsx_ctrl",                4, NULL},
    {"cpu/intel_sgx",                   4 * 8, NULL},
    {"cpu/pdptrs",                      4 * 8, NULL},
    {"cpu/msr_xfd",                     2 * 8, NULL},
    {"cpu/fred",                        10 * 8, NULL},
    {"cpu/intel_amx_xtile",             64 + 8192, read_amx},
    {"cpu/arch_lbr",                    2 * 8 + 32 * 3 * 8, NULL},
    {"cpu/triple_fault",                1, NULL},
    // clang-format on
};

static bool read_subsection(struct vmm_bytes *b, struct vmm_vcpu *cpu, GError **error)
{
    const char *name;
    uint8_t len;
    uint32_t version;

    vmm_bytes_skip(b, 1);
    len = vmm_bytes_u8(b);
    name = (const char *)b->data + b->at;
    vmm_bytes_skip(b, len);
    version = vmm_bytes_u32(b);
    if (b->failed)
        return true; // the caller looks
    for (size_t i = 0; version == 1 && i < G_N_ELEMENTS(subsections); i++) {
        const struct subsection *known = &subsections[i];

        if (strlen(known->name) != len || memcmp(known->name, name, len) != 0)
            continue;
        if (known->read)
            known->read(b, cpu);
        else
            vmm_bytes_skip(b, known->size_bytes);
        return true;
    }
    g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                "vCPU %u: its state has the part \"%.*s\" version %u, which is not known",
                cpu->index, (int)len, name, version);
    return false;
}

bool vmm_vmstate_read_cpu(struct vmm_bytes *b, struct vmm_vcpu *ret, GError **error)
{
    uint64_t unknown;

    read_fields(b, ret);
    while (!b->failed && b->at < b->len && b->data[b->at] == VMM_VMSTATE_SUBSECTION) {
        if (!read_subsection(b, ret, error))
            return false;
    }
    if (b->failed) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED, "vCPU %u: its state ends too early",
                    ret->index);
        return false;
    }
    ret->has_pkru = ret->xcr0 & XCR0_PKRU;
    if (!vmm_xsave_finish(ret, &unknown)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "vCPU %u: XCR0 enables components that are not known: 0x%" G_GINT64_MODIFIER
                    "x",
                    ret->index, unknown);
        return false;
    }
    return true;
}
