// SPDX-License-Identifier: GPL-2.0-or-later
// One system call with a known value in every register, and what they are behind it: calls.h.

.text
.globl calls_enter, calls_behind
.type calls_enter, @function
#ifdef __x86_64__
calls_enter:
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    push    %rdi
    mov     0x08(%rdi), %rcx
    mov     0x10(%rdi), %rdx
    mov     0x18(%rdi), %rbx
    mov     0x20(%rdi), %rbp
    mov     0x28(%rdi), %rsi
    mov     0x38(%rdi), %r8
    mov     0x40(%rdi), %r9
    mov     0x48(%rdi), %r10
    mov     0x50(%rdi), %r11
    mov     0x58(%rdi), %r12
    mov     0x60(%rdi), %r13
    mov     0x68(%rdi), %r14
    mov     0x70(%rdi), %r15
    mov     0x00(%rdi), %rax
    mov     0x30(%rdi), %rdi
    syscall
calls_behind:
    xchg    %rdi, (%rsp)
    mov     %rax, 0x78+0x00(%rdi)
    mov     %rcx, 0x78+0x08(%rdi)
    mov     %rdx, 0x78+0x10(%rdi)
    mov     %rbx, 0x78+0x18(%rdi)
    mov     %rbp, 0x78+0x20(%rdi)
    mov     %rsi, 0x78+0x28(%rdi)
    mov     %r8,  0x78+0x38(%rdi)
    mov     %r9,  0x78+0x40(%rdi)
    mov     %r10, 0x78+0x48(%rdi)
    mov     %r11, 0x78+0x50(%rdi)
    mov     %r12, 0x78+0x58(%rdi)
    mov     %r13, 0x78+0x60(%rdi)
    mov     %r14, 0x78+0x68(%rdi)
    mov     %r15, 0x78+0x70(%rdi)
    pop     %rax
    mov     %rax, 0x78+0x30(%rdi)
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret
#else
calls_enter:
    push    %ebx
    push    %esi
    push    %edi
    push    %ebp
    mov     20(%esp), %eax
    push    %eax
    mov     0x04(%eax), %ecx
    mov     0x08(%eax), %edx
    mov     0x0c(%eax), %ebx
    mov     0x10(%eax), %ebp
    mov     0x14(%eax), %esi
    mov     0x18(%eax), %edi
    mov     0x00(%eax), %eax
    int     $0x80
calls_behind:
    xchg    %eax, (%esp)
    mov     %ecx, 0x1c+0x04(%eax)
    mov     %edx, 0x1c+0x08(%eax)
    mov     %ebx, 0x1c+0x0c(%eax)
    mov     %ebp, 0x1c+0x10(%eax)
    mov     %esi, 0x1c+0x14(%eax)
    mov     %edi, 0x1c+0x18(%eax)
    pop     %ecx
    mov     %ecx, 0x1c+0x00(%eax)
    pop     %ebp
    pop     %edi
    pop     %esi
    pop     %ebx
    ret
#endif
.size calls_enter, . - calls_enter
.section .note.GNU-stack, "", @progbits
