// SPDX-License-Identifier: GPL-2.0-or-later
// Frozen threads that are in the vdso, which is another one in another kernel.
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "guestagent/freeze.h"
#include "guestagent/procfs.h"
#include "guestagent/vdso_code.h"

#define ENTRY_BYTES    2 // an instruction that enters the kernel
#define MAX_STEPS      10000
#define ERESTARTNOINTR 513 // include/linux/errno.h: the call begins anew

/*
 * All system calls of a 32-bit program are made in its vdso, which does not end before the call
 * does. Around the entry it is the same everywhere:
 *
 *   push %ecx; push %edx; push %ebp; mov %esp,%ebp; sysenter; int $0x80; pop ...
 *
 * A thread at the `int $0x80` or right behind it may stay; one on its way there is taken back to
 * the start.
 */
static bool at_ia32_entry(pid_t tid, uint64_t start, uint64_t end)
{
    static const uint8_t prologue[] = {0x51, 0x52, 0x55, 0x89, 0xe5}, int80[] = {0xcd, 0x80};
    struct user_regs_struct regs;
    uint8_t code[16];

    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0 || regs.rip < start || regs.rip >= end ||
        !procfs_read_memory(tid, regs.rip - 8, code, sizeof code))
        return false;
    const uint8_t *at = code + 8;

    if (memcmp(at, int80, 2) == 0 || memcmp(at - 2, int80, 2) == 0)
        return true;
    for (unsigned n = 1; n <= sizeof prologue; n += n == 3 ? 2 : 1) {
        uint32_t bp;

        if (memcmp(at - n, prologue, sizeof prologue) != 0)
            continue;
        if (n == sizeof prologue && procfs_read_memory(tid, regs.rsp, &bp, sizeof bp))
            regs.rbp = bp;
        regs.rsp += 4 * MIN(n, 3);
        regs.rip -= n;
        return ptrace(PTRACE_SETREGS, tid, NULL, &regs) == 0;
    }
    return false;
}

/*
 * The call of a detour goes on where it is, in whatever kernel. That is so behind the instruction
 * that enters the kernel; a thread right before it is said to begin its call anew, for a step would
 * end with the call.
 */
static bool at_detour(pid_t tid)
{
    static const uint8_t entry[ENTRY_BYTES] = {0x0f, 0x05}; // syscall
    struct user_regs_struct regs;
    uint8_t code[AGENT_VDSO_DETOUR_BYTES];

    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0 ||
        !procfs_read_memory(tid, regs.rip, code, sizeof code))
        return false;
    if ((long)regs.orig_rax >= 0)
        return agent_vdso_is_detour(code, sizeof code);
    if (memcmp(code, entry, sizeof entry) != 0 ||
        !procfs_read_memory(tid, regs.rip + ENTRY_BYTES, code, sizeof code) ||
        !agent_vdso_is_detour(code, sizeof code))
        return false;
    regs.orig_rax = regs.rax;
    regs.rax = (uint64_t)-ERESTARTNOINTR;
    regs.rip += ENTRY_BYTES;
    return ptrace(PTRACE_SETREGS, tid, NULL, &regs) == 0;
}

/*
 * The code is short and waits for nothing, so a thread is stepped out of it. Its stop is then one
 * of another kind: it is asked for the usual one, before it runs another instruction.
 */
bool agent_freeze_leave_vdso(pid_t pid, pid_t tid)
{
    struct user_regs_struct regs;
    uint64_t start, end;
    int status, n = 0;

    if (!procfs_find_vdso(pid, &start, &end) || at_ia32_entry(tid, start, end) || at_detour(tid))
        return false;
    while (n < MAX_STEPS && ptrace(PTRACE_GETREGS, tid, NULL, &regs) == 0 && regs.rip >= start &&
           regs.rip < end) {
        n++;
        if (ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL) < 0 ||
            waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
            return true; // dead or dying: the next look finds out
        if (status >> 16 || WSTOPSIG(status) != SIGTRAP) {
            ptrace(PTRACE_CONT, tid, NULL, (void *)(long)(status >> 16 ? 0 : WSTOPSIG(status)));
            ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
            return true;
        }
    }
    if (n == 0)
        return false;
    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
    ptrace(PTRACE_CONT, tid, NULL, NULL);
    return true;
}
