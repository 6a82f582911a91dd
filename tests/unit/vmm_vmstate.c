// SPDX-License-Identifier: GPL-2.0-or-later
// QEMU's device state stream: a recorded one, and what others may hold.
#include "vmm/vmstate.h"

#include <string.h>

#include "vmm/machine.h"
#include "vmm/xsave.h"
#include "vmm_data.h"
#include "vmm_expect.h"

static GByteArray *read_recorded(void)
{
    gsize len;
    char *data = vmm_data_read("vmm_vmstate/qemu-7.2-two-vcpus", &len);

    return g_byte_array_new_take((guint8 *)data, len);
}

static bool parse(const GByteArray *stream, struct vmm_vmstate *ret, GError **error)
{
    return vmm_vmstate_parse(stream->data, stream->len, ret, error);
}

static void expect_refused(const GByteArray *stream, const char *reason)
{
    g_autoptr(GError) error = NULL;
    struct vmm_vmstate state;

    g_assert_false(parse(stream, &state, &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, reason));
}

// Where vCPU 1's section starts in the recording, and its footer.
static gsize find(const GByteArray *stream, const void *what, gsize len, gsize from)
{
    const uint8_t *at = memmem(stream->data + from, stream->len - from, what, len);

    g_assert_nonnull(at);
    return (gsize)(at - stream->data);
}

static gsize second_cpu(const GByteArray *stream)
{
    return find(stream, "\3cpu\0\0\0\1\0\0\0\x0c", 12, 0) - 5;
}

static gsize second_cpu_footer(const GByteArray *stream)
{
    gsize start = second_cpu(stream);
    uint8_t footer[5] = {0x7e};

    memcpy(footer + 1, stream->data + start + 1, 4);
    return find(stream, footer, sizeof(footer), start);
}

static void insert(GByteArray *stream, gsize at, const void *bytes, gsize len)
{
    g_autofree uint8_t *tail = g_memdup2(stream->data + at, stream->len - at);
    gsize tail_len = stream->len - at;

    g_byte_array_set_size(stream, (guint)at);
    g_byte_array_append(stream, bytes, (guint)len);
    g_byte_array_append(stream, tail, (guint)tail_len);
}

static void insert_subsection(GByteArray *stream, const char *name, uint32_t version,
                              const void *fields, gsize len)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    uint32_t big = GUINT32_TO_BE(version);

    g_byte_array_append(bytes, (const guint8 *)"\5", 1);
    g_byte_array_append(bytes, &(guint8){(guint8)strlen(name)}, 1);
    g_byte_array_append(bytes, (const guint8 *)name, (guint)strlen(name));
    g_byte_array_append(bytes, (const guint8 *)&big, 4);
    g_byte_array_append(bytes, fields, (guint)len);
    insert(stream, second_cpu_footer(stream), bytes->data, bytes->len);
}

static void test_recorded(void)
{
    g_autoptr(GByteArray) stream = read_recorded();
    struct vmm_vmstate state;
    const struct vmm_vcpu *idle, *spin;

    g_assert_true(parse(stream, &state, NULL));
    g_assert_cmpuint(state.vcpus->len, ==, 2);
    idle = &g_array_index(state.vcpus, struct vmm_vcpu, 0);
    spin = &g_array_index(state.vcpus, struct vmm_vcpu, 1);
    g_assert_true(idle->halted);
    g_assert_false(idle->user_mode);
    g_assert_true(spin->user_mode);
    vmm_expect_general(spin);
    vmm_expect_x87(spin);
    vmm_expect_vectors(spin);
    g_assert_true(spin->has_pkru);
    vmm_expect_pkru(spin);
    g_assert_cmphex(spin->xcr0, ==, 0x21f);
    g_assert_cmpuint(spin->xsave_bytes, ==, 2696);
    g_assert_true(state.has_timer);
    g_assert_cmpint(state.ticks, >, 0);
    g_assert_cmpuint(state.virtual_ns, >, UINT64_C(1000000000));
    g_assert_true(state.has_hpet);
    g_assert_cmpuint(state.hpet_counter, >, 0);
    g_assert_false(state.has_kvmclock);
    vmm_vmstate_clear(&state);
}

// XCR0 of vCPU 1 stands before XSTATE_BV and the 16 YMM halves that end its fields; the first of
// its subsections in this recording follows.
static void set_xcr0(GByteArray *stream, uint64_t xcr0)
{
    static const char next[] = "\5\x14"
                               "cpu/poll_control_msr";
    uint64_t big = GUINT64_TO_BE(xcr0);
    gsize at = find(stream, next, strlen(next), second_cpu(stream)) - 16 * 16 - 2 * 8;

    memcpy(stream->data + at, &big, 8);
}

static void test_avx512(void)
{
    g_autoptr(GByteArray) stream = read_recorded();
    uint64_t quads[8 + 16 * 4 + 16 * 8];
    struct vmm_vmstate state;
    const struct vmm_vcpu *cpu;

    set_xcr0(stream, 0x2e7);
    for (unsigned i = 0; i < G_N_ELEMENTS(quads); i++)
        quads[i] = GUINT64_TO_BE(0xabcd000000000000 + i);
    insert_subsection(stream, "cpu/avx512", 1, quads, sizeof(quads));
    g_assert_true(parse(stream, &state, NULL));
    cpu = &g_array_index(state.vcpus, struct vmm_vcpu, 1);
    g_assert_cmphex(cpu->xcr0, ==, 0x2e7);
    for (unsigned i = 0; i < G_N_ELEMENTS(quads); i++) {
        uint32_t at = i < 8    ? XSAVE_OPMASK + 8 * i
                      : i < 72 ? XSAVE_ZMM_HI256 + 8 * (i - 8)
                               : XSAVE_HI16_ZMM + 8 * (i - 72);
        uint64_t value;

        memcpy(&value, cpu->xsave + at, 8);
        g_assert_cmphex(GUINT64_FROM_LE(value), ==, 0xabcd000000000000 + i);
    }
    vmm_expect_vectors(cpu);
    vmm_vmstate_clear(&state);
}

static void test_unknown(void)
{
    g_autoptr(GByteArray) subsection = read_recorded();
    g_autoptr(GByteArray) newer = read_recorded();
    g_autoptr(GByteArray) version = read_recorded();

    insert_subsection(subsection, "cpu/of_the_future", 1, "12345678", 8);
    expect_refused(subsection, "cpu/of_the_future");
    insert_subsection(newer, "cpu/xss", 2, "12345678", 8);
    expect_refused(newer, "cpu/xss");
    version->data[second_cpu(version) + 16] = 13;
    expect_refused(version, "version 13");
}

static void test_forged(void)
{
    g_autoptr(GByteArray) stream = read_recorded();
    gsize start = second_cpu(stream), end = second_cpu_footer(stream) + 5;

    // A guest that knows this format puts a copy of its own making into a device's buffer.
    g_autofree uint8_t *copy = g_memdup2(stream->data + start, end - start);
    insert(stream, stream->len - 1, copy, end - start);
    expect_refused(stream, "occurs twice");
}

static void test_cut(void)
{
    g_autoptr(GByteArray) stream = read_recorded();
    gsize footer = second_cpu_footer(stream), start = second_cpu(stream) + 18;

    for (gsize len = 0; len < footer; len++) {
        g_autofree uint8_t *exact = g_memdup2(stream->data, len);
        g_autoptr(GError) error = NULL;
        struct vmm_vmstate state;
        bool parsed = vmm_vmstate_parse(exact, len, &state, &error);

        // With vCPU 1 wholly missing the rest stands for itself; the caller counts vCPUs.
        g_assert_true(!parsed || len < start);
        if (parsed)
            vmm_vmstate_clear(&state);
        else
            g_assert_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/vmstate/recorded", test_recorded);
    g_test_add_func("/vmm/vmstate/avx512", test_avx512);
    g_test_add_func("/vmm/vmstate/unknown", test_unknown);
    g_test_add_func("/vmm/vmstate/forged", test_forged);
    g_test_add_func("/vmm/vmstate/cut", test_cut);
    return g_test_run();
}
