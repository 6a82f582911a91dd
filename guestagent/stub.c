// SPDX-License-Identifier: GPL-2.0-or-later
// Address spaces for programs of the other kind: exec of a program that never runs.
//
// Children of the agent have an address space of a 64-bit program. What makes one of i386 is set by
// exec alone: where addresses end, the vdso and with it the frames of signals, the form of core
// dumps. So a process whose program is of another kind than its parent's executes a stub of that
// kind, a few instructions and scratch memory. In the source it can only have become what it is by
// an exec, so whatever else an exec undoes was undone there as well.

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guestagent/engine.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u // since 6.3
#endif

#define STUB_ADDR   0x400000u
#define PAGE_BYTES  4096u
#define CODE_OFFSET 256 // in the file, behind the headers
#define STUB_BYTES  (PAGE_BYTES + AGENT_SCRATCH_BYTES)
#define FILE_BYTES  (CODE_OFFSET + sizeof agent_entry_code)

const uint8_t agent_entry_code[4] = {0x0f, 0x05, 0xcd, 0x80}; // syscall; int $0x80

struct stub32 {
    Elf32_Ehdr head;
    Elf32_Phdr load, stack;
};

struct stub64 {
    Elf64_Ehdr head;
    Elf64_Phdr load, stack;
};

#define FILL(bits, machine_, out)                                                                  \
    *(struct stub##bits *)(out) = (struct stub##bits)                                              \
    {                                                                                              \
        .head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS##bits, ELFDATA2LSB,      \
                             EV_CURRENT},                                                          \
                 .e_type = ET_EXEC,                                                                \
                 .e_machine = machine_,                                                            \
                 .e_version = EV_CURRENT,                                                          \
                 .e_entry = STUB_ADDR + CODE_OFFSET,                                               \
                 .e_phoff = offsetof(struct stub##bits, load),                                     \
                 .e_ehsize = sizeof(Elf##bits##_Ehdr),                                             \
                 .e_phentsize = sizeof(Elf##bits##_Phdr),                                          \
                 .e_phnum = 2},                                                                    \
        .load = {.p_type = PT_LOAD,                                                                \
                 .p_flags = PF_R | PF_W | PF_X,                                                    \
                 .p_vaddr = STUB_ADDR,                                                             \
                 .p_filesz = FILE_BYTES,                                                           \
                 .p_memsz = STUB_BYTES,                                                            \
                 .p_align = PAGE_BYTES},                                                           \
        .stack = {.p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W},                                 \
    }

static int open_stub(AgentRestore *r, bool ia32, GError **error)
{
    uint8_t file[FILE_BYTES] = {0};
    int fd = memfd_create("vmgraft-stub", MFD_CLOEXEC | MFD_EXEC);

    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("vmgraft-stub", MFD_CLOEXEC);
    if ((fd = agent_fd_up(r, fd, error)) < 0)
        return -1;
    if (ia32)
        FILL(32, EM_386, file);
    else
        FILL(64, EM_X86_64, file);
    memcpy(file + CODE_OFFSET, agent_entry_code, sizeof agent_entry_code);
    if (write(fd, file, sizeof file) != sizeof file) {
        agent_fail_errno(error, "stub program");
        return -1;
    }
    return fd;
}

static bool differs(const AgentProc *p, const AgentProc *maker)
{
    return p->mm && p->mm->ia32 != (maker && maker->ia32);
}

bool agent_stub_open(AgentRestore *r, GError **error)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (!p->mm || !p->mm->ia32)
            continue;
        // Its children may be of either kind.
        for (int ia32 = 0; ia32 <= 1; ia32++)
            if ((r->stub[ia32] = open_stub(r, ia32, error)) < 0)
                return false;
        return true;
    }
    return true;
}

// An exec closes what is marked for it, and that is all we have for the process.
static bool keep_descriptors(AgentProc *p, GError **error)
{
    for (guint i = 0; i < p->r->fds->len; i++) {
        const int fd = g_array_index(p->r->fds, int, i);
        const uint64_t args[6] = {fd, F_SETFD, 0};
        int64_t ret;

        // Opened since the process was made: it does not have it.
        if (!agent_remote_raw(&agent_leader(p)->tracee, SYS_fcntl, args, &ret, error))
            return false;
    }
    return true;
}

// The upper part of a 3 GiB address space is out of reach once it has been laid out.
static uint64_t personality_of(const AgentProc *p)
{
    const struct fmt_vma *last = p->vmas->len ? g_ptr_array_index(p->vmas, p->vmas->len - 1) : NULL;
    const uint64_t wanted = agent_leader(p)->rec->personality & ~(uint64_t)READ_IMPLIES_EXEC;

    return last && last->end > AGENT_IA32_3GB_END ? wanted & ~(uint64_t)ADDR_LIMIT_3GB : wanted;
}

bool agent_stub_enter(AgentProc *p, const AgentProc *maker, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const uint64_t scratch = t->site->scratch;
    const struct {
        uint64_t argv[2], envp[1];
        char empty[8];
    } args = {.argv = {scratch + offsetof(typeof(args), empty)}};

    p->ia32 = maker && maker->ia32;
    p->stub = maker && maker->stub;
    if (!differs(p, maker))
        return true;
    const bool ia32 = p->mm->ia32;

    if (!keep_descriptors(p, error) ||
        !agent_remote(t, "personality", SYS_personality, NULL, error, personality_of(p)) ||
        !agent_remote_put(t, 0, &args, sizeof args, NULL, error) ||
        !agent_remote(t, "execveat", SYS_execveat, NULL, error, (uint64_t)p->r->stub[ia32],
                      scratch + offsetof(typeof(args), empty), scratch,
                      scratch + offsetof(typeof(args), envp), AT_EMPTY_PATH))
        return false;
    p->ia32 = ia32;
    p->stub = true;
    p->site = (struct agent_site){
        .syscall_ip = STUB_ADDR + CODE_OFFSET,
        .int80_ip = STUB_ADDR + CODE_OFFSET + 2,
        .scratch = STUB_ADDR + PAGE_BYTES,
        .scratch_bytes = AGENT_SCRATCH_BYTES,
    };
    return true;
}

uint64_t agent_stub_end(void)
{
    return STUB_ADDR + STUB_BYTES;
}

/* ---- whether this kernel runs 32-bit code ---- */

static bool kernel_takes_int80(void)
{
    const pid_t pid = fork();
    int status;

    if (pid == 0) {
        long ret = 20; // getpid

        __asm__ volatile("int $0x80" : "+a"(ret) : : "memory", "r8", "r9", "r10", "r11");
        _exit(ret == getpid() ? 0 : 1);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

void agent_stub_plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (!agent_ia32_calls(p))
            continue;
        if (!kernel_takes_int80())
            agent_refuse(r, "ia32", p->rec->pid, -1,
                         "it is a 32-bit program, which this kernel does not run "
                         "(CONFIG_IA32_EMULATION, ia32_emulation=)");
        return;
    }
}
