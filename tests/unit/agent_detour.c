// SPDX-License-Identifier: GPL-2.0-or-later
// What tells a detour (guestagent/detour.c) from other code, and who cannot have one.
#include <string.h>

#include "guestagent/bpf.h"
#include "guestagent/vdso_code.h"

#define BYTES(text) text, sizeof(text) - 1
#define LOAD        "\x49\xba\x2c\1\0\0\0\0\0\0" // mov $300, %r10
#define LOAD_RCX    "\x48\xb9\x34\x12\x40\0\0\0\0\0"
#define JUMP        "\xff\x25\0\0\0\0\x34\x12\x40\0\0\0\0\0"
#define LOAD32      "\xbe\x2c\1\0\0" // mov $300, %esi
#define JUMP32      "\xe9\x34\x12\0\0"

static const struct {
    const char *name;
    const char *code;
    size_t bytes;
    bool is;
} codes[] = {
    {"of one register", BYTES(LOAD LOAD_RCX JUMP), true},
    {"of two registers", BYTES(LOAD_RCX LOAD LOAD_RCX JUMP), true},
    {"of i386", BYTES(LOAD32 JUMP32), true},
    {"of two registers of i386", BYTES(LOAD32 LOAD32 JUMP32), true},
    {"a jump alone", BYTES(JUMP), false},
    {"a jump of i386 alone", BYTES(JUMP32), false},
    {"loads alone", BYTES(LOAD LOAD_RCX), false},
    {"loads of i386 alone", BYTES(LOAD32 LOAD32), false},
    {"the C library's", BYTES("\x48\x3d\x01\xf0\xff\xff\x73\x01\xc3"), false},
    {"cut off in a load", BYTES("\x49\xba\x2c\1"), false},
    {"cut off in the jump", BYTES(LOAD "\xff\x25\0\0"), false},
    {"nothing", BYTES(""), false},
};

static void test_code(const void *data)
{
    const size_t i = GPOINTER_TO_SIZE(data);
    // Of its own size, so that a look beyond its end is found.
    g_autofree uint8_t *code = g_memdup2(codes[i].code, codes[i].bytes);

    g_assert_true(agent_vdso_is_detour(code, codes[i].bytes) == codes[i].is);
}

static void test_end(void)
{
    g_assert_cmpuint(agent_vdso_used((const uint8_t *)"a\0b\0\0", 5), ==, 3);
    g_assert_cmpuint(agent_vdso_used((const uint8_t *)"ab", 2), ==, 2);
    g_assert_cmpuint(agent_vdso_used((const uint8_t *)"\0\0", 2), ==, 0);
    g_assert_cmpuint(agent_vdso_used(NULL, 0), ==, 0);
}

static bool sees_place(uint32_t offset)
{
    const struct sock_filter insns[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset),
                                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};

    return agent_bpf_sees_place(insns, G_N_ELEMENTS(insns));
}

static void test_filter(void)
{
    g_assert_false(sees_place(offsetof(struct seccomp_data, nr)));
    g_assert_false(sees_place(offsetof(struct seccomp_data, arch)));
    g_assert_true(sees_place(offsetof(struct seccomp_data, instruction_pointer)));
    g_assert_true(sees_place(offsetof(struct seccomp_data, instruction_pointer) + 4));
    g_assert_false(sees_place(offsetof(struct seccomp_data, args)));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(codes); i++) {
        g_autofree char *path = g_strconcat("/agent/detour/", codes[i].name, NULL);

        g_test_add_data_func(path, GSIZE_TO_POINTER(i), test_code);
    }
    g_test_add_func("/agent/detour/where it may be", test_end);
    g_test_add_func("/agent/detour/filter", test_filter);
    return g_test_run();
}
