/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What vmm_spin.S holds in its registers and vmm_machine.c expects; the assembler reads it too. */
#pragma once

#define PATTERN_GPR(i)  (0x5a00000000000000 + (i)*0x0101010101010101) /* i as in enum vmm_gpr */
#define PATTERN_FS_BASE 0x00007a5a11220000
#define PATTERN_GS_BASE 0x00007a5a33440000
#define PATTERN_MXCSR   0x9fc0 /* flush to zero, denormals are zero, all masked */
#define PATTERN_FCW     0x0f7f /* truncate */
#define PATTERN_PKRU    0x55555550
#define PATTERN_YMM     0x40 /* byte j of register i is this + i + j */

#define PATTERN_N_ST        5                  /* pushed, the last one is ST(0) */
#define PATTERN_ST_MANTISSA 0x8123456789abcd00 /* + number of the push */
#define PATTERN_ST_EXPONENT 0x3fff             /* + number of the push */

/* DF and IF are set; `cmp %rbx, %rax` leaves CF, AF and SF. Bit 1 is always set. */
#define PATTERN_RFLAGS 0x693
