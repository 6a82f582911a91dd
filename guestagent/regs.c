// SPDX-License-Identifier: GPL-2.0-or-later
// Registers and vector state; the last thing a thread gets.

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "formats/cpu_features.h"
#include "guestagent/engine.h"

// Layout of a standard-form XSAVE area (Intel SDM volume 1, 13.4).
#define XSAVE_LEGACY_BYTES 512
#define XSAVE_SW_XCR0      464 // Linux puts xcr0 here in what ptrace sees
#define XSAVE_BV           512
#define XSAVE_HEADER_BYTES 64
#define XFEATURE_FP        (1ull << 0)
#define XFEATURE_SSE       (1ull << 1)
#define XFEATURE_YMM       (1ull << 2)
#define XFEATURE_AMX       (3ull << 17)

#define ERESTARTNOHAND 514 // include/linux/errno.h: begins anew where no handler runs

#define MAX_XSAVE_BYTES (64 * 1024)

#define USER_CS   0x33
#define USER32_CS 0x23

// Where component `i` lies in a standard-form area of this CPU.
static bool component(unsigned i, uint32_t *ret_offset, uint32_t *ret_bytes)
{
    uint32_t ecx, edx;

    return __get_cpuid_count(0xd, i, ret_bytes, ret_offset, &ecx, &edx) && *ret_bytes > 0;
}

static uint64_t in_use(const uint8_t *area)
{
    uint64_t bv;

    memcpy(&bv, area + XSAVE_BV, sizeof bv);
    return bv;
}

static void plan_xsave(AgentRestore *r, const AgentProc *p, const AgentTask *t)
{
    uint64_t lacks;
    size_t size = 0;
    const uint8_t *area = t->rec->xsave ? g_bytes_get_data(t->rec->xsave, &size) : NULL;

    if (!area)
        return;
    if (size < XSAVE_LEGACY_BYTES + XSAVE_HEADER_BYTES || size > MAX_XSAVE_BYTES) {
        agent_refuse(r, "xsave", p->rec->pid, -1,
                     "thread %" G_GUINT64_FORMAT " has vector state of %zu bytes", t->rec->tid,
                     size);
        return;
    }
    lacks = in_use(area) & ~(fmt_cpu_xcr0_here() | XFEATURE_FP | XFEATURE_SSE);
    if (lacks)
        agent_refuse(r, "cpu-feature", p->rec->pid, -1,
                     "thread %" G_GUINT64_FORMAT " uses register sets %#" G_GINT64_MODIFIER
                     "x, which this CPU or kernel lacks",
                     t->rec->tid, lacks);
    if (in_use(area) & XFEATURE_AMX)
        agent_refuse(r, "amx", p->rec->pid, -1, "thread %" G_GUINT64_FORMAT " uses AMX tiles",
                     t->rec->tid);
    for (unsigned i = 2; i < 63; i++) {
        uint32_t offset, bytes;

        if (in_use(area) & 1ull << i && component(i, &offset, &bytes) && offset + bytes > size)
            agent_refuse(r, "xsave", p->rec->pid, -1,
                         "thread %" G_GUINT64_FORMAT " lacks the contents of register set %u",
                         t->rec->tid, i);
    }
}

// Of the kernel's segments or of the program's own.
static bool is_user_code(uint64_t cs)
{
    return cs == USER_CS || cs == USER32_CS || (cs & 7) == 7;
}

static void plan(AgentRestore *r)
{
    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);

            plan_xsave(r, p, t);
            if (!agent_has_ended(t) && !is_user_code(t->rec->cs))
                agent_refuse(r, "registers", p->rec->pid, -1,
                             "thread %" G_GUINT64_FORMAT
                             " has the code segment %#" G_GINT64_MODIFIER "x, which no program has",
                             t->rec->tid, t->rec->cs);
        }
    }
}

// Brings the captured area into the form of this kernel, which `area` of `size` bytes has now;
// 512 bytes are FXSAVE's form, which has no header.
static void convert(const uint8_t *from, size_t from_size, uint8_t *area, size_t size)
{
    uint64_t bv = in_use(from);
    uint8_t xcr0[8];

    memcpy(xcr0, area + XSAVE_SW_XCR0, sizeof xcr0);
    memset(area, 0, size);
    // x87 and SSE are always said to be valid: MXCSR is taken only then.
    memcpy(area, from, XSAVE_SW_XCR0);
    if (!(bv & XFEATURE_FP)) {
        static const uint8_t initial[24] = {0x7f, 0x03};

        memcpy(area, initial, sizeof initial);
        memset(area + 32, 0, 128);
    }
    if (!(bv & XFEATURE_SSE))
        memset(area + 160, 0, 256);
    if (!(bv & (XFEATURE_SSE | XFEATURE_YMM)) && !memcmp(area + 24, "\0\0\0\0", 4))
        memcpy(area + 24, "\x80\x1f\0\0", 4);
    memcpy(area + XSAVE_SW_XCR0, xcr0, sizeof xcr0);
    for (unsigned i = 2; i < 63; i++) {
        uint32_t offset, bytes;

        if (!(bv & 1ull << i))
            continue;
        if (component(i, &offset, &bytes) && offset + bytes <= from_size && offset + bytes <= size)
            memcpy(area + offset, from + offset, bytes);
    }
    if (size == XSAVE_LEGACY_BYTES)
        return;
    bv |= XFEATURE_FP | XFEATURE_SSE;
    memcpy(area + XSAVE_BV, &bv, sizeof bv);
}

static bool set_vectors(const AgentTask *t, GError **error)
{
    g_autofree uint8_t *area = g_malloc0(MAX_XSAVE_BYTES);
    struct iovec iov = {area, MAX_XSAVE_BYTES};
    size_t size;
    const uint8_t *from = t->rec->xsave ? g_bytes_get_data(t->rec->xsave, &size) : NULL;
    // Without XSAVE the plan let nothing through that FXSAVE's form does not have.
    const int form = fmt_cpu_xcr0_here() ? NT_X86_XSTATE : NT_PRFPREG;

    if (!from)
        return true;
    if (ptrace(PTRACE_GETREGSET, t->tracee.tid, form, &iov) < 0)
        return agent_fail_errno(error, "thread %d: PTRACE_GETREGSET", t->tracee.tid);
    convert(from, size, area, iov.iov_len);
    if (ptrace(PTRACE_SETREGSET, t->tracee.tid, form, &iov) < 0)
        return agent_fail_errno(error, "thread %d: vector state", t->tracee.tid);
    return true;
}

bool agent_regs_set(AgentTask *t, const int64_t *restarted, GError **error)
{
    const struct fmt_task *rec = t->rec;
    struct user_regs_struct regs = {
        .r15 = rec->r15,
        .r14 = rec->r14,
        .r13 = rec->r13,
        .r12 = rec->r12,
        .rbp = rec->rbp,
        .rbx = rec->rbx,
        .r11 = rec->r11,
        .r10 = rec->r10,
        .r9 = rec->r9,
        .r8 = rec->r8,
        .rax = restarted ? (uint64_t)*restarted : rec->rax,
        .rcx = rec->rcx,
        .rdx = rec->rdx,
        .rsi = rec->rsi,
        .rdi = rec->rdi,
        .orig_rax = rec->orig_rax,
        .rip = rec->rip,
        .cs = rec->cs,
        .eflags = rec->eflags,
        .rsp = rec->rsp,
        .ss = rec->ss,
        .fs_base = rec->fs_base,
        .gs_base = rec->gs_base,
        .ds = rec->ds_sel,
        .es = rec->es_sel,
        .fs = rec->fs_sel,
        .gs = rec->gs_sel,
    };

    // Only what came from a system call is looked at for a restart.
    if (restarted && rec->orig_rax == -1ull)
        regs.orig_rax = (uint64_t)MAX(rec->syscall, 0);
    if (t->starts_over) {
        regs.rax = (uint64_t)-ERESTARTNOHAND;
        regs.orig_rax = (uint64_t)MAX(rec->syscall, 0);
    }
    agent_detour_take(t, &regs);
    if (!set_vectors(t, error) || !agent_prctl_last(t, error))
        return false;
    // Not the register set: its form is that of the code that the thread runs.
    if (ptrace(PTRACE_SETREGS, t->tracee.tid, NULL, &regs) < 0)
        return agent_fail_errno(error, "thread %d: registers", t->tracee.tid);
    // The mask goes last: until now nothing could be delivered.
    if (ptrace(PTRACE_SETSIGMASK, t->tracee.tid, sizeof rec->blocked, &rec->blocked) < 0)
        return agent_fail_errno(error, "thread %d: signal mask", t->tracee.tid);
    return true;
}

const struct agent_aspect agent_aspect_regs = {
    .name = "registers",
    .plan = plan,
};
