/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Holds a known pattern in every register of user space and spins. Ends only by a signal. */
#include "vmm_pattern.h"

#define SYS_arch_prctl 158
#define ARCH_SET_GS    0x1001
#define ARCH_SET_FS    0x1002

        .data
        .balign 32
vectors:
        i = 0
        .rept 16
        j = 0
        .rept 32
        .byte PATTERN_YMM + i + j
        j = j + 1
        .endr
        i = i + 1
        .endr
stack:
        i = 0
        .rept PATTERN_N_ST
        .quad PATTERN_ST_MANTISSA + i
        .word PATTERN_ST_EXPONENT + i
        i = i + 1
        .endr
mxcsr:  .long PATTERN_MXCSR
fcw:    .word PATTERN_FCW

        .text
        .globl _start
_start:
        movl    $SYS_arch_prctl, %eax
        movl    $ARCH_SET_FS, %edi
        movabsq $PATTERN_FS_BASE, %rsi
        syscall
        movl    $SYS_arch_prctl, %eax
        movl    $ARCH_SET_GS, %edi
        movabsq $PATTERN_GS_BASE, %rsi
        syscall

        /* PKRU, where the kernel has enabled it (CPUID leaf 7, ECX bit 4: OSPKE) */
        movl    $7, %eax
        xorl    %ecx, %ecx
        cpuid
        btl     $4, %ecx
        jnc     1f
        movl    $PATTERN_PKRU, %eax
        xorl    %ecx, %ecx
        xorl    %edx, %edx
        wrpkru
1:
        fninit
        fldcw   fcw(%rip)
        .irp n, 0, 1, 2, 3, 4
        fldt    stack + 10 * \n(%rip)
        .endr
        ldmxcsr mxcsr(%rip)
        .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        vmovdqa vectors + 32 * \n(%rip), %ymm\n
        .endr

        movabsq $PATTERN_GPR(0), %rax
        movabsq $PATTERN_GPR(1), %rcx
        movabsq $PATTERN_GPR(2), %rdx
        movabsq $PATTERN_GPR(3), %rbx
        movabsq $PATTERN_GPR(4), %rsp
        movabsq $PATTERN_GPR(5), %rbp
        movabsq $PATTERN_GPR(6), %rsi
        movabsq $PATTERN_GPR(7), %rdi
        movabsq $PATTERN_GPR(8), %r8
        movabsq $PATTERN_GPR(9), %r9
        movabsq $PATTERN_GPR(10), %r10
        movabsq $PATTERN_GPR(11), %r11
        movabsq $PATTERN_GPR(12), %r12
        movabsq $PATTERN_GPR(13), %r13
        movabsq $PATTERN_GPR(14), %r14
        movabsq $PATTERN_GPR(15), %r15
        std
        /* The flags come from an operation in the loop: TCG computes them when they are asked for. */
2:
        cmpq    %rbx, %rax
        jmp     2b

        .section .note.GNU-stack, "", @progbits
