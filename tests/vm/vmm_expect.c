// SPDX-License-Identifier: GPL-2.0-or-later
// Asserts that a vCPU holds the registers of vmm_spin.S.
#include "vmm_expect.h"

#include <string.h>

#include "vmm/xsave.h"
#include "vmm_pattern.h"

static uint64_t xsave64(const struct vmm_vcpu *cpu, uint32_t offset)
{
    uint64_t value;

    memcpy(&value, cpu->xsave + offset, sizeof(value));
    return GUINT64_FROM_LE(value);
}

static uint32_t xsave16(const struct vmm_vcpu *cpu, uint32_t offset)
{
    return cpu->xsave[offset] | (uint32_t)cpu->xsave[offset + 1] << 8;
}

void vmm_expect_general(const struct vmm_vcpu *cpu)
{
    for (unsigned i = 0; i < VMM_N_GPRS; i++)
        g_assert_cmphex(cpu->gpr[i], ==, PATTERN_GPR(i));
    g_assert_cmphex(cpu->rflags, ==, PATTERN_RFLAGS);
    g_assert_cmphex(cpu->seg[VMM_CS].selector, ==, 0x33);
    g_assert_cmphex(cpu->seg[VMM_SS].selector, ==, 0x2b);
    g_assert_cmphex(cpu->seg[VMM_FS].base, ==, PATTERN_FS_BASE);
    g_assert_cmphex(cpu->seg[VMM_GS].base, ==, PATTERN_GS_BASE);
    g_assert_false(cpu->halted);
}

void vmm_expect_x87(const struct vmm_vcpu *cpu)
{
    unsigned top = xsave16(cpu, XSAVE_FSW) >> 11 & 7;

    g_assert_cmphex(xsave16(cpu, XSAVE_FCW), ==, PATTERN_FCW);
    g_assert_cmpuint(top, ==, 8 - PATTERN_N_ST);
    g_assert_cmphex(cpu->xsave[XSAVE_FTW], ==, 0xff << top & 0xff);
    for (unsigned i = 0; i < PATTERN_N_ST; i++) {
        unsigned pushed = PATTERN_N_ST - 1 - i;

        g_assert_cmphex(xsave64(cpu, XSAVE_ST + 16 * i), ==, PATTERN_ST_MANTISSA + pushed);
        g_assert_cmphex(xsave16(cpu, XSAVE_ST + 16 * i + 8), ==, PATTERN_ST_EXPONENT + pushed);
    }
}

void vmm_expect_vectors(const struct vmm_vcpu *cpu)
{
    g_assert_cmphex(xsave64(cpu, XSAVE_MXCSR) & UINT32_MAX, ==, PATTERN_MXCSR);
    g_assert_cmphex(xsave64(cpu, XSAVE_XSTATE_BV), ==, cpu->xcr0);
    g_assert_cmphex(cpu->xcr0 & 7, ==, 7);
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned j = 0; j < 32; j++) {
            uint32_t at = j < 16 ? XSAVE_XMM + 16 * i + j : XSAVE_YMM_HI128 + 16 * i + j - 16;

            g_assert_cmphex(cpu->xsave[at], ==, PATTERN_YMM + i + j);
        }
    }
}

void vmm_expect_pkru(const struct vmm_vcpu *cpu)
{
    g_assert_cmphex(xsave64(cpu, XSAVE_PKRU) & UINT32_MAX, ==, PATTERN_PKRU);
}
