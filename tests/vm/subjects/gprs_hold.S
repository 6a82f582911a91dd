// SPDX-License-Identifier: GPL-2.0-or-later
// Holds a pattern in every register, rsp included, while it spins or is blocked in a system call.

.text
.globl gprs_hold, gprs_spin_rcx, gprs_spin_memory, gprs_syscall
.type gprs_hold, @function
gprs_hold:
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    pushfq
    mov     %rsp, saved_rsp(%rip)
    mov     gprs_xmask(%rip), %eax
    mov     gprs_xmask+4(%rip), %edx
    lea     gprs_x_in(%rip), %rcx
    test    %eax, %eax
    jz      1f
    xrstor64 (%rcx)
    jmp     2f
1:  fxrstor64 (%rcx)
2:
    pushq   gprs_flags_in(%rip)
    popfq
    // Nothing below changes the flags.
    mov     gprs_in+0x00(%rip), %rax
    mov     gprs_in+0x08(%rip), %rcx
    mov     gprs_in+0x10(%rip), %rdx
    mov     gprs_in+0x18(%rip), %rbx
    mov     gprs_in+0x20(%rip), %rsp
    mov     gprs_in+0x28(%rip), %rbp
    mov     gprs_in+0x30(%rip), %rsi
    mov     gprs_in+0x38(%rip), %rdi
    mov     gprs_in+0x40(%rip), %r8
    mov     gprs_in+0x48(%rip), %r9
    mov     gprs_in+0x50(%rip), %r10
    mov     gprs_in+0x58(%rip), %r11
    mov     gprs_in+0x60(%rip), %r12
    mov     gprs_in+0x68(%rip), %r13
    mov     gprs_in+0x70(%rip), %r14
    mov     gprs_in+0x78(%rip), %r15
    jmp     *gprs_how(%rip)

gprs_spin_rcx:
    loop    gprs_spin_rcx
    jmp     held

gprs_spin_memory:
    decq    gprs_spins(%rip)
    jnz     gprs_spin_memory
    jmp     held

gprs_syscall:
    syscall

held:
    mov     %rax, gprs_out+0x00(%rip)
    mov     %rcx, gprs_out+0x08(%rip)
    mov     %rdx, gprs_out+0x10(%rip)
    mov     %rbx, gprs_out+0x18(%rip)
    mov     %rsp, gprs_out+0x20(%rip)
    mov     %rbp, gprs_out+0x28(%rip)
    mov     %rsi, gprs_out+0x30(%rip)
    mov     %rdi, gprs_out+0x38(%rip)
    mov     %r8, gprs_out+0x40(%rip)
    mov     %r9, gprs_out+0x48(%rip)
    mov     %r10, gprs_out+0x50(%rip)
    mov     %r11, gprs_out+0x58(%rip)
    mov     %r12, gprs_out+0x60(%rip)
    mov     %r13, gprs_out+0x68(%rip)
    mov     %r14, gprs_out+0x70(%rip)
    mov     %r15, gprs_out+0x78(%rip)
    mov     saved_rsp(%rip), %rsp
    pushfq
    popq    gprs_flags_out(%rip)
    mov     gprs_xmask(%rip), %eax
    mov     gprs_xmask+4(%rip), %edx
    lea     gprs_x_out(%rip), %rcx
    test    %eax, %eax
    jz      1f
    xsave64 (%rcx)
    jmp     2f
1:  fxsave64 (%rcx)
2:
    // What C code expects.
    fninit
    movl    $0x1f80, mxcsr_default(%rip)
    ldmxcsr mxcsr_default(%rip)
    popfq
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret
.size gprs_hold, . - gprs_hold

.local saved_rsp, mxcsr_default
.comm saved_rsp, 8
.comm mxcsr_default, 4
.section .note.GNU-stack, "", @progbits
