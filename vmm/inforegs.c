// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the register dump of QEMU's human monitor.
#include "vmm/inforegs.h"

#include <string.h>

#include "vmm/machine.h"
#include "vmm/xsave.h"

/*
 * CPU#0
 * RAX=000000000001ad40 RBX=0000000000000000 ...        EAX=... outside 64-bit mode
 * RIP=ffffffffa3017a0b RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
 * CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
 * CR0=80050033 CR2=00000000004bbbe0 CR3=000000000fc10000 CR4=00751eb0
 * FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80
 * FPR0=0000000000000000 0000 FPR1=0000000000000000 0000
 * YMM00=q3 q2 q1 q0    or XMM00=q1 q0, or Opmask00=... and ZMM00=q7 ... q0, as XCR0 has it
 *
 * See QEMU's target/i386/cpu-dump.c.
 */

// A run of hexadecimal digits, moved over together with spaces in front of it.
static bool take_hex(const char **at, uint64_t *ret)
{
    const char *p = *at + strspn(*at, " ");
    uint64_t value = 0;
    int n = 0;

    for (; n < 16 && g_ascii_isxdigit(p[n]); n++)
        value = value << 4 | (uint64_t)g_ascii_xdigit_value(p[n]);
    if (n == 0)
        return false;
    *at = p + n;
    *ret = value;
    return true;
}

// What follows "KEY=" where that stands alone, at the start of a line or behind a space.
static const char *find_key(const char *block, const char *key)
{
    size_t len = strlen(key);

    for (const char *p = block; (p = strstr(p, key)); p++) {
        if ((p == block || p[-1] == ' ' || p[-1] == '\n') && p[len] == '=')
            return p + len + 1;
    }
    return NULL;
}

static bool read_key(const char *block, const char *key, uint64_t *ret)
{
    const char *at = find_key(block, key);

    return at && take_hex(&at, ret);
}

static bool read_gprs(const char *block, struct vmm_vcpu *cpu)
{
    // In the order of enum vmm_gpr; the dump pads "R8 ".
    static const char *const names[2][VMM_N_GPRS] = {
        {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12",
         "R13", "R14", "R15"},
        {"EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI"},
    };
    bool narrow = find_key(block, "EIP") != NULL;
    bool good = read_key(block, narrow ? "EIP" : "RIP", &cpu->rip) &&
                read_key(block, narrow ? "EFL" : "RFL", &cpu->rflags);

    for (int i = 0; good && i < VMM_N_GPRS && names[narrow][i]; i++)
        good = read_key(block, names[narrow][i], &cpu->gpr[i]);
    return good;
}

static bool read_segments(const char *block, struct vmm_vcpu *cpu)
{
    static const char *const names[VMM_N_SEGS] = {"ES ", "CS ", "SS ", "DS ", "FS ", "GS "};

    for (int i = 0; i < VMM_N_SEGS; i++) {
        const char *at = find_key(block, names[i]);
        uint64_t selector;

        if (!at || !take_hex(&at, &selector) || !take_hex(&at, &cpu->seg[i].base))
            return false;
        cpu->seg[i].selector = (uint16_t)selector;
    }
    return true;
}

static bool read_control(const char *block, struct vmm_vcpu *cpu)
{
    uint64_t cpl, halted;

    if (!read_key(block, "CR0", &cpu->cr0) || !read_key(block, "CR2", &cpu->cr2) ||
        !read_key(block, "CR3", &cpu->cr3) || !read_key(block, "CR4", &cpu->cr4) ||
        !read_key(block, "EFER", &cpu->efer) || !read_key(block, "CPL", &cpl) ||
        !read_key(block, "HLT", &halted))
        return false;
    cpu->user_mode = cpl == 3;
    cpu->halted = halted != 0;
    return true;
}

static bool read_x87(const char *block, struct vmm_vcpu *cpu)
{
    uint64_t fcw, fsw, ftw, mxcsr;

    if (!read_key(block, "FCW", &fcw) || !read_key(block, "FSW", &fsw) ||
        !read_key(block, "FTW", &ftw) || !read_key(block, "MXCSR", &mxcsr))
        return false;
    vmm_xsave_put16(cpu, XSAVE_FCW, (uint16_t)fcw);
    vmm_xsave_put16(cpu, XSAVE_FSW, (uint16_t)fsw);
    vmm_xsave_put16(cpu, XSAVE_FTW, ftw & 0xff);
    vmm_xsave_put32(cpu, XSAVE_MXCSR, (uint32_t)mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        char key[] = {'F', 'P', 'R', (char)('0' + i), '\0'};
        const char *at = find_key(block, key);
        uint64_t mantissa, exponent;

        if (!at || !take_hex(&at, &mantissa) || !take_hex(&at, &exponent))
            return false;
        vmm_xsave_put_st(cpu, i, mantissa, (uint16_t)exponent);
    }
    return true;
}

// Where quadword `q` of vector register `i` belongs.
static uint32_t vector_offset(unsigned i, unsigned q)
{
    if (i >= 16)
        return XSAVE_HI16_ZMM + 64 * (i - 16) + 8 * q;
    if (q >= 4)
        return XSAVE_ZMM_HI256 + 32 * i + 8 * (q - 4);
    if (q >= 2)
        return XSAVE_YMM_HI128 + 16 * i + 8 * (q - 2);
    return XSAVE_XMM + 16 * i + 8 * q;
}

// Registers NAME00.. of n quadwords, the highest first; outside 64-bit mode the dump has 8 of them.
static bool read_vectors(const char *block, struct vmm_vcpu *cpu, const char *name,
                         unsigned n_registers, unsigned n)
{
    for (unsigned i = 0; i < n_registers; i++) {
        g_autofree char *key = g_strdup_printf("%s%02u", name, i);
        const char *at = find_key(block, key);

        if (!at)
            return i >= 8;
        for (unsigned q = n; q-- > 0;) {
            uint64_t value;

            if (!take_hex(&at, &value))
                return false;
            vmm_xsave_put64(cpu, vector_offset(i, q), value);
        }
    }
    return true;
}

static bool read_masks(const char *block, struct vmm_vcpu *cpu)
{
    for (unsigned i = 0; i < 8; i++) {
        g_autofree char *key = g_strdup_printf("Opmask%02u", i);
        uint64_t value;

        if (!read_key(block, key, &value))
            return false;
        vmm_xsave_put64(cpu, XSAVE_OPMASK + 8 * i, value);
    }
    return true;
}

static bool read_vector_state(const char *block, struct vmm_vcpu *cpu)
{
    cpu->xcr0 = XCR0_X87 | XCR0_SSE;
    if (find_key(block, "ZMM00")) {
        cpu->xcr0 |= XCR0_AVX | XCR0_AVX512;
        return read_masks(block, cpu) && read_vectors(block, cpu, "ZMM", 32, 8);
    }
    if (find_key(block, "YMM00")) {
        cpu->xcr0 |= XCR0_AVX;
        return read_vectors(block, cpu, "YMM", 16, 4);
    }
    return read_vectors(block, cpu, "XMM", 16, 2);
}

static bool read_block(const char *block, struct vmm_vcpu *cpu)
{
    uint64_t unknown;

    return read_gprs(block, cpu) && read_segments(block, cpu) && read_control(block, cpu) &&
           read_x87(block, cpu) && read_vector_state(block, cpu) && vmm_xsave_finish(cpu, &unknown);
}

GArray *vmm_inforegs_parse(const char *text, size_t len, GError **error)
{
    g_autofree char *copy = g_strndup(text, len);
    g_autoptr(GArray) vcpus = g_array_new(FALSE, FALSE, sizeof(struct vmm_vcpu));
    g_autofree struct vmm_vcpu *cpu = g_new(struct vmm_vcpu, 1);
    char *at = strstr(copy, "CPU#");

    while (at) {
        char *next = strstr(at + 4, "\nCPU#");

        if (next)
            *next++ = '\0';
        memset(cpu, 0, sizeof(*cpu));
        cpu->index = (uint32_t)g_ascii_strtoull(at + 4, NULL, 10);
        if (!read_block(at, cpu) ||
            (vcpus->len > 0 &&
             g_array_index(vcpus, struct vmm_vcpu, vcpus->len - 1).index >= cpu->index)) {
            g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL,
                        "the register dump of vCPU %u cannot be read", cpu->index);
            return NULL;
        }
        g_array_append_vals(vcpus, cpu, 1);
        at = next;
    }
    if (vcpus->len == 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "the register dump shows no vCPU");
        return NULL;
    }
    return g_steal_pointer(&vcpus);
}

bool vmm_inforegs_agrees(const struct vmm_vcpu *dump, const struct vmm_vcpu *state)
{
    const uint64_t low = UINT32_MAX;

    // The low halves of the registers below R8: a dump outside 64-bit mode has no more.
    for (int i = 0; i < VMM_R8; i++) {
        if ((dump->gpr[i] & low) != (state->gpr[i] & low))
            return false;
    }
    for (int i = 0; i < VMM_N_SEGS; i++) {
        if (dump->seg[i].selector != state->seg[i].selector)
            return false;
    }
    return dump->index == state->index && (dump->rip & low) == (state->rip & low) &&
           (dump->rflags & low) == (state->rflags & low) &&
           (dump->cr0 & low) == (state->cr0 & low) && (dump->cr3 & low) == (state->cr3 & low) &&
           dump->user_mode == state->user_mode &&
           memcmp(dump->xsave, state->xsave, XSAVE_FOP) == 0 &&
           memcmp(dump->xsave + XSAVE_ST, state->xsave + XSAVE_ST, 128) == 0;
}
