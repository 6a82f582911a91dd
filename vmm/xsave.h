// SPDX-License-Identifier: GPL-2.0-or-later
// Builds the standard-form XSAVE area of a struct vmm_vcpu. Internal to vmm/.
#pragma once

#include "vmm/vcpu.h"

// Intel SDM volume 1, chapter 13; the offsets of the components behind the header are those of
// CPUID leaf 0xD on all known processors and in QEMU (x86_ext_save_areas).
enum {
    XSAVE_FCW = 0,
    XSAVE_FSW = 2,
    XSAVE_FTW = 4, // abridged: bit i set where physical register i is in use
    XSAVE_FOP = 6,
    XSAVE_FIP = 8,
    XSAVE_FDP = 16,
    XSAVE_MXCSR = 24,
    XSAVE_MXCSR_MASK = 28,
    XSAVE_ST = 32, // 16 bytes each, in stack order
    XSAVE_XMM = 160,
    XSAVE_XSTATE_BV = 512,
    XSAVE_YMM_HI128 = 576,
    XSAVE_BNDREGS = 960,
    XSAVE_BNDCSR = 1024,
    XSAVE_OPMASK = 1088,
    XSAVE_ZMM_HI256 = 1152,
    XSAVE_HI16_ZMM = 1664,
    XSAVE_PKRU = 2688,
    XSAVE_TILECFG = 2752,
    XSAVE_TILEDATA = 2816,
};

enum {
    XCR0_X87 = 1 << 0,
    XCR0_SSE = 1 << 1,
    XCR0_AVX = 1 << 2,
    XCR0_MPX = 3 << 3,
    XCR0_AVX512 = 7 << 5,
    XCR0_PKRU = 1 << 9,
    XCR0_AMX = 3 << 17,
};

void vmm_xsave_put16(struct vmm_vcpu *cpu, uint32_t offset, uint16_t value);
void vmm_xsave_put32(struct vmm_vcpu *cpu, uint32_t offset, uint32_t value);
void vmm_xsave_put64(struct vmm_vcpu *cpu, uint32_t offset, uint64_t value);

// Stores physical x87 register `number`; FSW, which holds the top of stack, must have been put.
void vmm_xsave_put_st(struct vmm_vcpu *cpu, unsigned number, uint64_t mantissa, uint16_t exponent);

// Takes the components of cpu->xcr0 that this area can hold into XSTATE_BV and xsave_bytes. False:
// xcr0 has a component that is not known here; *ret_unknown has its bit.
bool vmm_xsave_finish(struct vmm_vcpu *cpu, uint64_t *ret_unknown);
