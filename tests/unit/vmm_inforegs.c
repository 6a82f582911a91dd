// SPDX-License-Identifier: GPL-2.0-or-later
// The register dump of QEMU's human monitor, and its agreement with the device state.
#include "vmm/inforegs.h"

#include <string.h>

#include "vmm/machine.h"
#include "vmm/vmstate.h"
#include "vmm/xsave.h"
#include "vmm_data.h"
#include "vmm_expect.h"

static GArray *read_recorded(void)
{
    gsize len;
    g_autofree char *text = vmm_data_read("vmm_inforegs/qemu-7.2-two-vcpus", &len);
    g_autoptr(GError) error = NULL;
    GArray *vcpus = vmm_inforegs_parse(text, len, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(vcpus->len, ==, 2);
    return vcpus;
}

static void test_recorded(void)
{
    g_autoptr(GArray) vcpus = read_recorded();
    const struct vmm_vcpu *idle = &g_array_index(vcpus, struct vmm_vcpu, 0);
    const struct vmm_vcpu *spin = &g_array_index(vcpus, struct vmm_vcpu, 1);

    g_assert_true(idle->halted);
    g_assert_false(idle->user_mode);
    g_assert_cmphex(idle->rip, ==, 0xffffffff8ca0dfeb);
    g_assert_cmphex(idle->gpr[VMM_RCX], ==, 0x7fffffff215129ff);
    g_assert_cmphex(idle->xcr0, ==, 7);
    g_assert_true(spin->user_mode);
    vmm_expect_general(spin);
    vmm_expect_x87(spin);
    vmm_expect_vectors(spin);
    g_assert_false(spin->has_kernel_gs_base);
    g_assert_false(spin->has_pkru);
}

static void test_agrees(void)
{
    gsize len;
    g_autofree char *bytes = vmm_data_read("vmm_vmstate/qemu-7.2-two-vcpus", &len);
    g_autoptr(GArray) dump = read_recorded();
    struct vmm_vmstate state;
    struct vmm_vcpu *cpu;

    g_assert_true(vmm_vmstate_parse((const uint8_t *)bytes, len, &state, NULL));
    for (guint i = 0; i < 2; i++)
        g_assert_true(vmm_inforegs_agrees(&g_array_index(dump, struct vmm_vcpu, i),
                                          &g_array_index(state.vcpus, struct vmm_vcpu, i)));
    cpu = &g_array_index(state.vcpus, struct vmm_vcpu, 1);
    cpu->xsave[XSAVE_ST + 3] ^= 1;
    g_assert_false(vmm_inforegs_agrees(&g_array_index(dump, struct vmm_vcpu, 1), cpu));
    cpu->xsave[XSAVE_ST + 3] ^= 1;
    cpu->cr3 ^= 0x1000;
    g_assert_false(vmm_inforegs_agrees(&g_array_index(dump, struct vmm_vcpu, 1), cpu));
    vmm_vmstate_clear(&state);
}

// A vCPU that was never started, as QEMU 7.2 shows it.
static const char real_mode[] =
    "\r\nCPU#0\r\n"
    "EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1\r\n"
    "ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000\r\n"
    "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n"
    "ES =0000 00000000 0000ffff 00009300\r\nCS =f000 ffff0000 0000ffff 00009b00\r\n"
    "SS =0000 00000000 0000ffff 00009300\r\nDS =0000 00000000 0000ffff 00009300\r\n"
    "FS =0000 00000000 0000ffff 00009300\r\nGS =0000 00000000 0000ffff 00009300\r\n"
    "CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000\r\n"
    "EFER=0000000000000000\r\n"
    "FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80\r\n"
    "FPR0=0000000000000000 0000 FPR1=0000000000000000 0000\r\n"
    "FPR2=0000000000000000 0000 FPR3=0000000000000000 0000\r\n"
    "FPR4=0000000000000000 0000 FPR5=0000000000000000 0000\r\n"
    "FPR6=0000000000000000 0000 FPR7=0000000000000000 0000\r\n"
    "XMM00=0000000000000000 0000000000000001 XMM01=0000000000000000 0000000000000000\r\n"
    "XMM02=0000000000000000 0000000000000000 XMM03=0000000000000000 0000000000000000\r\n"
    "XMM04=0000000000000000 0000000000000000 XMM05=0000000000000000 0000000000000000\r\n"
    "XMM06=0000000000000000 0000000000000000 XMM07=0000000000000000 0000000000000002\r\n";

static void test_real_mode(void)
{
    g_autoptr(GArray) vcpus = vmm_inforegs_parse(real_mode, strlen(real_mode), NULL);
    const struct vmm_vcpu *cpu;

    g_assert_nonnull(vcpus);
    cpu = &g_array_index(vcpus, struct vmm_vcpu, 0);
    g_assert_cmphex(cpu->rip, ==, 0xfff0);
    g_assert_cmphex(cpu->gpr[VMM_RDX], ==, 0x60fb1);
    g_assert_cmphex(cpu->seg[VMM_CS].base, ==, 0xffff0000);
    g_assert_cmphex(cpu->xcr0, ==, 3);
    g_assert_cmphex(cpu->xsave[XSAVE_XMM], ==, 1);
    g_assert_cmphex(cpu->xsave[XSAVE_XMM + 7 * 16], ==, 2);
}

// A dump that ends anywhere, or lacks anything, is refused; nothing is read past its end.
static void test_refused(void)
{
    size_t len = strlen(real_mode);

    for (size_t cut = 0; cut + 20 < len; cut++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *exact = g_memdup2(real_mode, cut);

        g_assert_null(vmm_inforegs_parse(exact ? exact : "", cut, &error));
        g_assert_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/inforegs/recorded", test_recorded);
    g_test_add_func("/vmm/inforegs/agrees", test_agrees);
    g_test_add_func("/vmm/inforegs/real-mode", test_real_mode);
    g_test_add_func("/vmm/inforegs/refused", test_refused);
    return g_test_run();
}
