// SPDX-License-Identifier: GPL-2.0-or-later
// Holds random values in every register while it spins or (argument: blocked) waits in poll(2).
#include <asm/prctl.h>
#include <cpuid.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gprs.h"
#include "subject.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11 };

// CF PF AF ZF SF DF OF. Not ID, which says nothing and which no kernel lets a debugger set.
#define FLAGS_HELD 0xcd5ull
#define BLOCKED_MS 150

// x87, SSE, AVX and the three of AVX-512. Not PKRU (random rights would lock us out of our memory).
#define COMPONENTS_HELD 0xe7ull
#define XSTATE_BV       512
#define MXCSR           24
#define FIRST_XMM       160
#define LEGACY_END      416

uint64_t gprs_in[16], gprs_out[16], gprs_flags_in, gprs_flags_out, gprs_xmask, gprs_spins;
uint8_t gprs_x_in[GPRS_XSAVE_BYTES] __attribute__((aligned(64)));
uint8_t gprs_x_out[GPRS_XSAVE_BYTES] __attribute__((aligned(64)));
void (*volatile gprs_how)(void);

static uint64_t seed;

// 0 where the CPU has no XSAVE: x87 and SSE, by FXSAVE.
static uint64_t components(void)
{
    uint32_t a, b, c, d, low, high;

    __cpuid(1, a, b, c, d);
    if (!(c & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low & COMPONENTS_HELD;
}

// Where an extended component lies in the standard form.
static void place(unsigned component, uint32_t *ret_offset, uint32_t *ret_bytes)
{
    uint32_t c, d;

    __cpuid_count(0xd, component, *ret_bytes, *ret_offset, c, d);
    CHECK(*ret_offset + *ret_bytes <= GPRS_XSAVE_BYTES, "component %u lies at %u", component,
          *ret_offset);
}

static void fill(uint8_t *start, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        start[i] = (uint8_t)subject_random(&seed);
}

static void choose_vectors(void)
{
    const uint16_t fcw = 0x027f | (uint16_t)(subject_random(&seed) & 0x0c00); // rounding
    const uint16_t fsw = (uint16_t)(subject_random(&seed) & 0x7f00 & ~0x3800) | 0x1800;
    const uint8_t ftw = 0xff; // none empty
    const uint32_t mxcsr = 0x1f80 | (uint32_t)(subject_random(&seed) & 0xe03f);

    memset(gprs_x_in, 0, sizeof gprs_x_in);
    memcpy(gprs_x_in + 0, &fcw, 2);
    memcpy(gprs_x_in + 2, &fsw, 2);
    memcpy(gprs_x_in + 4, &ftw, 1);
    memcpy(gprs_x_in + MXCSR, &mxcsr, 4);
    for (unsigned st = 0; st < 8; st++)
        fill(gprs_x_in + 32 + 16 * st, 10);
    fill(gprs_x_in + FIRST_XMM, 256);
    for (unsigned i = 2; i < 8; i++) {
        uint32_t offset, bytes;

        if (gprs_xmask >> i & 1) {
            place(i, &offset, &bytes);
            fill(gprs_x_in + offset, bytes);
        }
    }
    memcpy(gprs_x_in + XSTATE_BV, &gprs_xmask, 8);
}

static void compare(const char *what, size_t offset, size_t bytes)
{
    for (size_t i = offset; i < offset + bytes; i++)
        CHECK(gprs_x_in[i] == gprs_x_out[i], "%s: byte %zu is %02x, not %02x", what, i - offset,
              gprs_x_out[i], gprs_x_in[i]);
}

static void check_vectors(void)
{
    static const char *const names[] = {"", "",       "YMM upper halves", "",
                                        "", "opmask", "ZMM upper halves", "ZMM16-31"};

    compare("x87 control word", 0, 2);
    compare("x87 status word", 2, 2);
    compare("x87 tag word", 4, 1);
    compare("MXCSR", MXCSR, 4);
    for (unsigned st = 0; st < 8; st++)
        compare("x87 stack", 32 + 16 * st, 10);
    compare("XMM", FIRST_XMM, LEGACY_END - FIRST_XMM);
    for (unsigned i = 2; i < 8; i++) {
        uint32_t offset, bytes;

        if (gprs_xmask >> i & 1) {
            place(i, &offset, &bytes);
            compare(names[i], offset, bytes);
        }
    }
}

static void choose(bool blocked, bool rcx_counts)
{
    for (unsigned i = 0; i < 16; i++)
        gprs_in[i] = subject_random(&seed);
    gprs_in[RSP] &= 0x7ffffffff000; // as a stack could be; nothing may touch it
    gprs_flags_in = 0x202 | (subject_random(&seed) & FLAGS_HELD);
    gprs_how = rcx_counts ? gprs_spin_rcx : gprs_spin_memory;
    gprs_spins = 3000000;
    if (rcx_counts)
        gprs_in[RCX] = 10000000;
    if (blocked) {
        gprs_how = gprs_syscall;
        gprs_in[RAX] = SYS_poll;
        gprs_in[RDI] = gprs_in[RSI] = 0;
        gprs_in[RDX] = BLOCKED_MS;
    }
    choose_vectors();
}

static void check(bool blocked, bool rcx_counts)
{
    uint64_t expected[16];

    memcpy(expected, gprs_in, sizeof expected);
    if (rcx_counts)
        expected[RCX] = 0;
    if (blocked) {
        expected[RAX] = 0;
        expected[RCX] = gprs_out[RCX]; // the instruction itself changes these two
        expected[R11] = gprs_out[R11];
    }
    for (unsigned i = 0; i < 16; i++)
        CHECK(gprs_out[i] == expected[i], "register %u is %lx, not %lx", i, gprs_out[i],
              expected[i]);
    if (blocked || rcx_counts)
        CHECK(((gprs_flags_in ^ gprs_flags_out) & FLAGS_HELD) == 0, "flags are %lx, not %lx",
              gprs_flags_out, gprs_flags_in);
    check_vectors();
}

int main(int argc, char **argv)
{
    bool blocked, rcx_counts = true;
    uint64_t fs_base, gs_base, now;

    subject_begin(argc, argv);
    blocked = subject.argument && strcmp(subject.argument, "blocked") == 0;
    seed = (uint64_t)getpid();
    gprs_xmask = components();
    MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123456789000) == 0);
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base) == 0);
    subject_ready();
    do {
        choose(blocked, rcx_counts && !blocked);
        gprs_hold();
        if (subject.sabotage)
            gprs_x_out[FIRST_XMM + 77] ^= 4;
        check(blocked, rcx_counts && !blocked);
        MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &now) == 0);
        CHECK(now == fs_base, "fs base is %lx, not %lx", now, fs_base);
        MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_base) == 0);
        CHECK(gs_base == 0x123456789000, "gs base is %lx", gs_base);
        rcx_counts = !rcx_counts;
    } while (!subject_asked());
    subject_pass();
}
