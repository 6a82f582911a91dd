// SPDX-License-Identifier: GPL-2.0-or-later
// Builds the standard-form XSAVE area of a vCPU.
#include "vmm/xsave.h"

// Where each component that a user can own ends.
static const struct {
    uint8_t bit;
    uint16_t end_bytes;
} components[] = {
    {0, 576},  {1, 576},  {2, 832},  {3, 1024},  {4, 1088},   {5, 1152},
    {6, 1664}, {7, 2688}, {9, 2696}, {17, 2816}, {18, 11008},
};

void vmm_xsave_put16(struct vmm_vcpu *cpu, uint32_t offset, uint16_t value)
{
    for (int i = 0; i < 2; i++)
        cpu->xsave[offset + i] = (uint8_t)(value >> 8 * i);
}

void vmm_xsave_put32(struct vmm_vcpu *cpu, uint32_t offset, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        cpu->xsave[offset + i] = (uint8_t)(value >> 8 * i);
}

void vmm_xsave_put64(struct vmm_vcpu *cpu, uint32_t offset, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        cpu->xsave[offset + i] = (uint8_t)(value >> 8 * i);
}

void vmm_xsave_put_st(struct vmm_vcpu *cpu, unsigned number, uint64_t mantissa, uint16_t exponent)
{
    unsigned top = cpu->xsave[XSAVE_FSW + 1] >> 3 & 7;
    uint32_t offset = XSAVE_ST + 16 * ((number - top) & 7);

    vmm_xsave_put64(cpu, offset, mantissa);
    vmm_xsave_put16(cpu, offset + 8, exponent);
}

bool vmm_xsave_finish(struct vmm_vcpu *cpu, uint64_t *ret_unknown)
{
    uint64_t left = cpu->xcr0;
    uint32_t end_bytes = 576;

    for (size_t i = 0; i < G_N_ELEMENTS(components); i++) {
        uint64_t bit = UINT64_C(1) << components[i].bit;

        if (left & bit)
            end_bytes = MAX(end_bytes, components[i].end_bytes);
        left &= ~bit;
    }
    if (left != 0) {
        *ret_unknown = left;
        return false;
    }
    vmm_xsave_put32(cpu, XSAVE_MXCSR_MASK, 0xffff);
    vmm_xsave_put64(cpu, XSAVE_XSTATE_BV, cpu->xcr0);
    cpu->xsave_bytes = end_bytes;
    return true;
}
