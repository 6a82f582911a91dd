// SPDX-License-Identifier: GPL-2.0-or-later
// What one virtual CPU holds while the guest is paused.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

// Order of the x86 encoding, which is QEMU's and the instruction set's: ax cx dx bx sp bp si di
// r8..r15
enum vmm_gpr {
    VMM_RAX,
    VMM_RCX,
    VMM_RDX,
    VMM_RBX,
    VMM_RSP,
    VMM_RBP,
    VMM_RSI,
    VMM_RDI,
    VMM_R8,
    VMM_R9,
    VMM_R10,
    VMM_R11,
    VMM_R12,
    VMM_R13,
    VMM_R14,
    VMM_R15,
    VMM_N_GPRS,
};

enum vmm_seg { VMM_ES, VMM_CS, VMM_SS, VMM_DS, VMM_FS, VMM_GS, VMM_N_SEGS };

struct vmm_segment {
    uint16_t selector;
    uint64_t base;
};

// Standard (not compacted) XSAVE area: legacy 512 bytes, 64 bytes of header, then components at the
// offsets that CPUID leaf 0xD gives on Intel and AMD machines. The largest user component that QEMU
// knows (AMX tile data) ends at 11008.
#define VMM_XSAVE_MAX_BYTES 11008

struct vmm_vcpu {
    uint32_t index;           // as in query-cpus-fast
    uint64_t gpr[VMM_N_GPRS]; // enum vmm_gpr
    uint64_t rip;
    uint64_t rflags;
    struct vmm_segment seg[VMM_N_SEGS];
    uint64_t cr0, cr2, cr3, cr4, efer;
    // MSR_KERNEL_GS_BASE: the user's GS base while the CPU is in the kernel.
    uint64_t kernel_gs_base;
    uint64_t tsc;         // 0 where the source does not say
    bool halted;          // waits in HLT or MWAIT
    bool user_mode;       // CPL 3
    uint64_t xcr0;        // XSAVE components enabled by the guest
    uint32_t xsave_bytes; // how much of xsave[] is used
    // False where this QEMU's device state could not be read and the monitor's register dump had to
    // do: kernel_gs_base, PKRU (and its XSTATE_BV bit), FOP, FIP, FDP and tsc are then zero, not
    // known; xcr0 is what the dump implies.
    bool has_kernel_gs_base;
    bool has_pkru; // also false where the guest has not enabled PKRU
    // The user-visible vector state in standard XSAVE form with XSTATE_BV set for each component in
    // xcr0 (components in their initial state may be marked either way). Includes PKRU where xcr0
    // has bit 9.
    uint8_t xsave[VMM_XSAVE_MAX_BYTES];
};

// What a capture learns about time on a paused machine. Nanoseconds.
struct vmm_clock {
    uint64_t
        virtual_ns; // QEMU_CLOCK_VIRTUAL at the pause: HPET, ACPI PM timer and TCG's TSC run on it
    int64_t tcg_ticks; // what RDTSC returns under TCG before the vCPU's offset; 0 under KVM
    bool tcg;
    bool has_hpet; // the HPET main counter at the pause (10 ns a tick)
    uint64_t hpet_counter;
    bool has_kvmclock; // KVM's guest clock at the pause
    uint64_t kvmclock_ns;
    int64_t host_realtime_ns; // CLOCK_REALTIME of the host when the machine was found paused
};
