// SPDX-License-Identifier: GPL-2.0-or-later
// XSAVE areas as kernels keep them, turned into the standard form.
#include "introspect/xsave.h"

#include <string.h>

#define AREA_BYTES 4096

// As CPUID leaf 0xD gives them on a machine with AVX-512 and protection keys.
static const struct intro_xsave_layout layout = {
    .offset = {[2] = 576, [5] = 1088, [6] = 1152, [7] = 1664, [9] = 2688},
    .size = {[2] = 256, [5] = 64, [6] = 512, [7] = 1024, [9] = 8},
    .aligned = 3ull << 17,
};

static void put_u64(uint8_t *at, uint64_t value)
{
    value = GUINT64_TO_LE(value);
    memcpy(at, &value, 8);
}

static uint64_t get_u64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, 8);
    return GUINT64_FROM_LE(value);
}

static void make_area(uint8_t area[AREA_BYTES], uint64_t valid, uint64_t xcomp)
{
    memset(area, 0xee, AREA_BYTES); // stale bytes: none of them may come out
    put_u64(area + 512, valid);
    put_u64(area + 520, xcomp);
    put_u64(area + 24, 0x1fa0);
}

static const uint8_t *expand(const uint8_t *area, GBytes **hold, size_t *len)
{
    GError *error = NULL;

    *hold = intro_xsave_expand(&layout, area, AREA_BYTES, &error);
    g_assert_no_error(error);
    return g_bytes_get_data(*hold, len);
}

static void assert_all(const uint8_t *at, uint8_t byte, size_t len)
{
    for (size_t i = 0; i < len; i++)
        g_assert_cmphex(at[i], ==, byte);
}

static void test_standard(void)
{
    uint8_t area[AREA_BYTES];
    g_autoptr(GBytes) hold = NULL;
    size_t len;

    make_area(area, 0x7, 0);
    memset(area, 0x11, 24);
    memset(area + 32, 0x11, 128);
    memset(area + 160, 0x22, 256);
    memset(area + 576, 0x33, 256);
    const uint8_t *out = expand(area, &hold, &len);
    g_assert_cmpuint(len, ==, 832);
    assert_all(out + 32, 0x11, 128);
    assert_all(out + 160, 0x22, 256);
    assert_all(out + 576, 0x33, 256);
    g_assert_cmphex(get_u64(out + 24) & 0xffffffff, ==, 0x1fa0);
    g_assert_cmphex(get_u64(out + 512), ==, 0x7);
    g_assert_cmphex(get_u64(out + 520), ==, 0);
}

// Components 2, 5, 6, 7 and 9 one behind the other, as XSAVES packs them.
static void test_compacted(void)
{
    uint8_t area[AREA_BYTES];
    g_autoptr(GBytes) hold = NULL;
    size_t len;

    make_area(area, 0x2e3, 1ull << 63 | 0x2e7);
    memset(area + 576, 0xee, 256);   // AVX: in xcomp_bv, but in its initial state
    memset(area + 832, 0x55, 64);    // opmask
    memset(area + 896, 0x66, 512);   // ZMM_Hi256
    memset(area + 1408, 0x77, 1024); // Hi16_ZMM
    memset(area + 2432, 0x99, 8);    // PKRU
    const uint8_t *out = expand(area, &hold, &len);
    g_assert_cmpuint(len, ==, 2696);
    assert_all(out + 576, 0, 256);
    assert_all(out + 1088, 0x55, 64);
    assert_all(out + 1152, 0x66, 512);
    assert_all(out + 1664, 0x77, 1024);
    assert_all(out + 2688, 0x99, 8);
    g_assert_cmphex(get_u64(out + 512), ==, 0x2e3);
}

static void test_initial(void)
{
    uint8_t area[AREA_BYTES];
    g_autoptr(GBytes) hold = NULL;
    size_t len;

    make_area(area, 0, 0);
    const uint8_t *out = expand(area, &hold, &len);
    g_assert_cmphex(out[0] | out[1] << 8, ==, 0x37f);
    assert_all(out + 2, 0, 22);
    assert_all(out + 32, 0, 480);
    g_assert_cmphex(get_u64(out + 512), ==, 3);
}

// A CPU without XSAVE.
static void test_fxsave(void)
{
    uint8_t area[AREA_BYTES];
    g_autoptr(GError) error = NULL;
    size_t len;

    make_area(area, 0, 0);
    memset(area + 32, 0x11, 128);
    memset(area + 160, 0x22, 256);
    g_autoptr(GBytes) hold = intro_xsave_expand(&layout, area, 512, &error);
    g_assert_no_error(error);
    const uint8_t *out = g_bytes_get_data(hold, &len);
    g_assert_cmpuint(len, ==, 576);
    assert_all(out, 0xee, 24);
    assert_all(out + 32, 0x11, 128);
    assert_all(out + 160, 0x22, 256);
    g_assert_cmphex(get_u64(out + 24) & 0xffffffff, ==, 0x1fa0);
    g_assert_cmphex(get_u64(out + 512), ==, 3);
}

static void test_supervisor_state_stays(void)
{
    uint8_t area[AREA_BYTES];
    g_autoptr(GBytes) hold = NULL;
    size_t len;

    make_area(area, 0x7 | 1 << 11 | 1 << 8, 1ull << 63 | 0x7 | 1 << 8 | 1 << 11);
    const uint8_t *out = expand(area, &hold, &len);
    g_assert_cmphex(get_u64(out + 512), ==, 7);
}

static void test_hostile(void)
{
    uint8_t area[AREA_BYTES];
    g_autoptr(GError) error = NULL;

    make_area(area, 0x7, 0);
    for (size_t len = 0; len < 832; len++) { // too short for what it claims to hold
        if (len == 512)
            continue;
        g_assert_null(intro_xsave_expand(&layout, area, len, &error));
        g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
        g_clear_error(&error);
    }
    make_area(area, 1ull << 18, 0); // a component that this CPU does not have
    g_assert_null(intro_xsave_expand(&layout, area, AREA_BYTES, &error));
    g_assert_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/xsave/standard", test_standard);
    g_test_add_func("/xsave/compacted", test_compacted);
    g_test_add_func("/xsave/initial", test_initial);
    g_test_add_func("/xsave/fxsave", test_fxsave);
    g_test_add_func("/xsave/supervisor", test_supervisor_state_stays);
    g_test_add_func("/xsave/hostile", test_hostile);
    return g_test_run();
}
