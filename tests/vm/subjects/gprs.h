// SPDX-License-Identifier: GPL-2.0-or-later
// What gprs_hold.S loads into the registers and where it leaves what it found in them.
#pragma once

#include <stdint.h>

#define GPRS_XSAVE_BYTES 16384

// In the order in which the CPU numbers them: rax rcx rdx rbx rsp rbp rsi rdi r8 .. r15
extern uint64_t gprs_in[16], gprs_out[16];
extern uint64_t gprs_flags_in, gprs_flags_out;
extern uint64_t gprs_xmask; // XSAVE components to load and store; 0: FXSAVE
extern uint8_t gprs_x_in[GPRS_XSAVE_BYTES], gprs_x_out[GPRS_XSAVE_BYTES];
extern uint64_t gprs_spins;             // how often gprs_spin_memory goes round; 0 afterwards
extern void (*volatile gprs_how)(void); // one of the three below

// Loads every register, goes to *gprs_how, stores every register, puts back those of the caller.
void gprs_hold(void);

// Not functions: places in gprs_hold.
void gprs_spin_rcx(void);    // rcx counts down to 0; leaves the flags alone
void gprs_spin_memory(void); // gprs_spins counts down; leaves all but the flags alone
void gprs_syscall(void);     // one system call
