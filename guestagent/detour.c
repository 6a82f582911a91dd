// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that are entered with other arguments than the program gave them.
//
// What is left of the timeout of epoll_wait() is told in a register, and so is the futex that a
// waiter was moved to. The program would find such a register changed behind its call. So the call
// is entered from a detour: a few bytes at the end of the vdso, where nothing is, that enter the
// kernel, give the registers the values that they had, and go on where the program does. It stays,
// for nobody knows when the last handler has returned to it; threads that come from the same place
// with the same values share one, and one that was captured in a detour goes on in that.
//
// Not for a thread whose calls are judged by where they come from: that one finds the register
// changed, which is told in a note.

#include <string.h>
#include <unistd.h>

#include "guestagent/engine.h"
#include "guestagent/vdso_code.h"

#define ENTRY_BYTES 2 // syscall, or int $0x80
#define MAX_CHANGES 3
#define MAX_BYTES   (ENTRY_BYTES + MAX_CHANGES * 10 + 14)
#define SLOT_BYTES  48
#define MARGIN      64 // an ELF file may well end with zeros
#define USER32_CS   0x23

G_STATIC_ASSERT(MAX_BYTES <= SLOT_BYTES);
G_STATIC_ASSERT(MAX_BYTES == ENTRY_BYTES + AGENT_VDSO_DETOUR_BYTES);

// A register, as instructions number them.
enum { RCX = 1, EDX = 2, EBX = 3, ESI = 6, RDI = 7, R10 = 10 };

struct change {
    unsigned reg;
    uint64_t value; // behind the call
};

// What the registers of the thread must have behind its call. Returns how many differ while it is
// in it.
static size_t changes_of(const struct fmt_task *t, struct change ret[MAX_CHANGES])
{
    const bool ia32 = t->compat_call;
    size_t n = 0;

    if (t->restart == FMT_RESTART_ENTER && t->restart_arg1 == FMT_TIMEOUT_MILLIS) {
        ret[n++] = ia32 ? (struct change){ESI, t->rsi} : (struct change){R10, t->r10};
    } else if (t->restart == FMT_RESTART_MOVED) {
        ret[n++] = ia32 ? (struct change){EBX, t->rbx} : (struct change){RDI, t->rdi};
        ret[n++] = (struct change){EDX, t->rdx};
    }
    if (n && !ia32)
        ret[n++] = (struct change){RCX, t->rip}; // where the instruction has it
    return n;
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

// Where the thread's detour is, or can be. 0: nowhere.
static uint64_t find_place(const struct tail *tail, const struct fmt_task *t,
                           const struct change *changes, size_t n, uint8_t ret_code[MAX_BYTES],
                           size_t *ret_bytes)
{
    for (size_t i = 0; i + SLOT_BYTES <= tail->bytes; i += SLOT_BYTES) {
        *ret_bytes = encode(t, changes, n, tail->start + i, ret_code);
        if (memcmp(tail->code + i, ret_code, *ret_bytes) == 0 ||
            agent_vdso_used(tail->code + i, SLOT_BYTES) == 0)
            return tail->start + i;
    }
    return 0;
}

static bool is_in_detour(const AgentTask *t)
{
    uint8_t code[AGENT_VDSO_DETOUR_BYTES];

    return agent_remote_read(&t->tracee, t->rec->rip, code, sizeof code, NULL) &&
           agent_vdso_is_detour(code, sizeof code);
}

static bool put(AgentProc *p, AgentTask *t, struct tail *tail, const struct change *changes,
                size_t n)
{
    uint8_t code[MAX_BYTES];
    size_t bytes;
    const uint64_t at = find_place(tail, t->rec, changes, n, code, &bytes);

    if (!at || pwrite(p->mem, code, bytes, (off_t)at) != (ssize_t)bytes)
        return false;
    memcpy(tail->code + (at - tail->start), code, bytes);
    t->detour = at;
    return true;
}

static void make(AgentProc *p, AgentTask *t, struct tail *tail)
{
    struct change changes[MAX_CHANGES];
    const size_t n = changes_of(t->rec, changes);

    if (n == 0 || is_in_detour(t))
        return;
    if (agent_seccomp_sees_place(t) || t->rec->dispatch)
        agent_note(p->r, "restart", t->proc->rec->pid, -1,
                   "thread %" G_GUINT64_FORMAT
                   " finds an argument of the call that it waits in changed: its calls are judged "
                   "by where they come from",
                   t->rec->tid);
    else if (!put(p, t, tail, changes, n))
        agent_note(p->r, "restart", t->proc->rec->pid, -1,
                   "thread %" G_GUINT64_FORMAT
                   " finds an argument of the call that it waits in changed: there is no room for "
                   "code in its vdso",
                   t->rec->tid);
}

static bool read_tail(const AgentProc *p, struct tail *ret, GError **error)
{
    const size_t all = p->here->end - p->here->vdso;
    const size_t from = (agent_vdso_used(p->here->code, all) + MARGIN) / 16 * 16;

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
    const bool ok = read_tail(p, &tail, error);

    for (guint i = 0; ok && i < p->r->procs->len; i++) {
        AgentProc *other = g_ptr_array_index(p->r->procs, i);

        for (guint j = 0; other->mm == p->mm && j < other->tasks->len; j++)
            make(p, g_ptr_array_index(other->tasks, j), &tail);
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
