// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that are entered with other arguments than the program gave them.
//
// What is left of the timeout of epoll_wait() is told in a register, and so is the futex that a
// waiter was moved to. The program would find such a register changed behind its call. So the call
// is entered from a detour: a few bytes at the end of the vdso, where nothing is, that enter the
// kernel, give the registers the values that they had, and go on where the program does. It stays,
// for nobody knows when the last handler has returned to it; threads that come from the same place
// with the same values share one, and one that was captured in a detour goes on in that.

#include <string.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/vdso_code.h"

#define ENTRY_BYTES 2 // syscall, or int $0x80
#define MAX_CHANGES 2
#define MAX_BYTES   (ENTRY_BYTES + MAX_CHANGES * 10 + 14)
#define ALIGNMENT   16
#define MARGIN      64 // an ELF file may well end with zeros
#define USER32_CS   0x23

// A register, as instructions number them.
enum { EDX = 2, EBX = 3, ESI = 6, RDI = 7, R10 = 10 };

struct change {
    unsigned reg;
    uint64_t value; // behind the call
};

// What the registers of the thread must have behind its call. Returns how many differ while it is
// in it.
static size_t changes_of(const struct fmt_task *t, struct change ret[MAX_CHANGES])
{
    const bool ia32 = t->compat_call;

    if (t->restart == FMT_RESTART_ENTER && t->restart_arg1 == FMT_TIMEOUT_MILLIS) {
        ret[0] = ia32 ? (struct change){ESI, t->rsi} : (struct change){R10, t->r10};
        return 1;
    }
    if (t->restart != FMT_RESTART_MOVED)
        return 0;
    ret[0] = ia32 ? (struct change){EBX, t->rbx} : (struct change){RDI, t->rdi};
    ret[1] = (struct change){EDX, t->rdx};
    return 2;
}

// The code of a detour that lies at `at`; returns its bytes.
static size_t encode(const struct fmt_task *t, const struct change *changes, size_t n, uint64_t at,
                     uint8_t ret[MAX_BYTES])
{
    const bool narrow = t->cs == USER32_CS;
    size_t used = ENTRY_BYTES;

    memcpy(ret, agent_entry_code + (t->compat_call ? ENTRY_BYTES : 0), ENTRY_BYTES);
    for (size_t i = 0; i < n; i++) {
        if (!narrow)
            ret[used++] = changes[i].reg < 8 ? 0x48 : 0x49;
        ret[used++] = 0xb8 + (changes[i].reg & 7); // mov $value, %reg
        memcpy(ret + used, &changes[i].value, narrow ? 4 : 8);
        used += narrow ? 4 : 8;
    }
    return used + agent_vdso_put_jump(ret + used, at + used, t->rip, narrow);
}

// The end of the vdso, from which on detours may lie.
struct tail {
    uint64_t start;
    uint8_t *code;
    size_t bytes;
};

static bool is_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i])
            return false;
    return true;
}

// Where the thread's detour is, or can be. 0: nowhere.
static uint64_t find_place(const struct tail *tail, const struct fmt_task *t,
                           const struct change *changes, size_t n, uint8_t ret_code[MAX_BYTES],
                           size_t *ret_bytes)
{
    for (size_t i = 0; i + MAX_BYTES <= tail->bytes; i += ALIGNMENT) {
        *ret_bytes = encode(t, changes, n, tail->start + i, ret_code);
        if (memcmp(tail->code + i, ret_code, *ret_bytes) == 0 ||
            is_zero(tail->code + i, tail->bytes - i))
            return tail->start + i;
    }
    return 0;
}

static bool is_in_detour(const AgentTask *t)
{
    uint8_t code[MAX_BYTES];

    return agent_remote_read(&t->tracee, t->rec->rip, code, sizeof code, NULL) &&
           agent_vdso_is_detour(code, sizeof code);
}

static bool make(AgentProc *p, AgentTask *t, struct tail *tail, GError **error)
{
    struct change changes[MAX_CHANGES];
    const size_t n = changes_of(t->rec, changes);
    uint8_t code[MAX_BYTES];
    size_t bytes;

    if (n == 0 || is_in_detour(t))
        return true;
    const uint64_t at = tail->code ? find_place(tail, t->rec, changes, n, code, &bytes) : 0;

    if (!at) {
        agent_note(p->r, "restart", t->proc->rec->pid, -1,
                   "thread %" G_GUINT64_FORMAT
                   " finds an argument of the call that it waits in changed: there is no room left "
                   "in its vdso",
                   t->rec->tid);
        return true;
    }
    memcpy(tail->code + (at - tail->start), code, bytes);
    t->detour = at;
    return pwrite(p->mem, code, bytes, (off_t)at) == (ssize_t)bytes ||
           agent_fail_errno(error, "code in the vdso of process %" G_GUINT64_FORMAT, p->rec->pid);
}

static bool read_tail(const AgentProc *p, struct tail *ret, GError **error)
{
    const size_t all = p->here->end - p->here->vdso;
    const size_t used = agent_vdso_used(p->here->code, all) + MARGIN;
    const size_t from = (used + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;

    *ret = (struct tail){.start = p->vdso + from};
    if (from >= all)
        return true;
    ret->bytes = all - from;
    ret->code = g_malloc(ret->bytes);
    return agent_remote_read(&agent_leader(p)->tracee, ret->start, ret->code, ret->bytes, error);
}

bool agent_detours_make(AgentProc *p, GError **error)
{
    struct tail tail;
    bool ok = read_tail(p, &tail, error);

    for (guint i = 0; ok && i < p->r->procs->len; i++) {
        AgentProc *other = g_ptr_array_index(p->r->procs, i);

        for (guint j = 0; ok && other->mm == p->mm && j < other->tasks->len; j++)
            ok = make(p, g_ptr_array_index(other->tasks, j), &tail, error);
    }
    g_free(tail.code);
    return ok;
}

void agent_detour_take(const AgentTask *t, struct user_regs_struct *regs)
{
    if (t->detour)
        regs->rip = t->detour + ENTRY_BYTES;
    if (t->rec->restart != FMT_RESTART_MOVED)
        return;
    *(t->rec->compat_call ? &regs->rbx : &regs->rdi) = t->rec->restart_addr;
    regs->rdx = t->rec->restart_arg1;
}
