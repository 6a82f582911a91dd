// SPDX-License-Identifier: GPL-2.0-or-later
// The safe-point rule: may a thread be captured where it is?
#include "introspect/park.h"

#include <sched.h>
#include <string.h>

#include "formats/frozen.h"
#include "introspect/orc.h"
#include "introspect/reader.h"
#include "introspect/reentry.h"
#include "introspect/regs.h"
#include "introspect/sleepers.h"
#include "introspect/syscall.h"
#include "introspect/wakeup.h"

/*
 * A thread can be captured where nothing is half done on its behalf:
 *
 *   on a vCPU, user mode       registers are the vCPU's
 *   on a vCPU, in the kernel   never: let it run on
 *   off the CPU:
 *     on its way to user mode
 *                          preempted there, or stopped by a signal or its tracer: the entry's
 *                          registers
 *     in a page fault      the faulting instruction simply runs again
 *     not run yet          as fork has made it
 *     asleep in a system call
 *                          as the call's row in syscalls.def says
 *     woken in one         likewise, where the call only looks again (wakeup.c); a sleep of a given
 *                          time is over
 *     woken from a futex   the wait is over with 0, which a futex may always give
 *     within fork          it begins anew, as long as nobody can see the child
 *     in a call that changes nothing
 *                          it begins anew
 *     anywhere else        never: let it run on
 *
 * Which of the off-CPU cases holds is read off the call chain (orc.c). A chain that the tables
 * cannot follow counts as "anywhere else", except for a plain sleep in a call, where the task's
 * state is proof enough.
 */
#define TS_COMPAT          2 // thread_info.status: the system call is one of i386
#define TASK_RUNNING       0
#define TASK_INTERRUPTIBLE 1
#define TASK_STATE_MASK    0x7f // without TASK_FREEZABLE, TASK_WAKEKILL ...
#define FUTEX_WAIT_BITSET  9

#define IA32_NR_RESTART_SYSCALL 0

// Who gives up the CPU at the boundary to user mode, with nothing taken off the signal queues: on
// the way out after a preemption, or within get_signal() for a stop. Compilers inline some of them
// into their callers.
static const struct {
    const char *caller, *callee;
} boundary[] = {
    {"exit_to_user_mode_loop", "schedule"}, // since 5.11
    {"exit_to_user_mode_prepare", "schedule"},
    {"irqentry_exit_to_user_mode", "schedule"},
    {"irqentry_exit", "schedule"}, // 7.2; a preemption within the kernel goes by another way
    {"syscall_exit_to_user_mode", "schedule"},
    {"exit_to_usermode_loop", "schedule"}, // before 5.8
    {"get_signal", "do_signal_stop"},      // SIGSTOP and the like
    {"get_signal", "do_jobctl_trap"},      // the stop that a tracer asks for
    {"get_signal", "ptrace_do_notify"},    // the same, inlined
    {"get_signal", "do_freezer_trap"},     // cgroup freezer
    {"get_signal", "schedule"},            // the same, inlined
};

// Delivery of a signal: taken off the queue, frame perhaps half written.
static const char *const delivery[] = {"get_signal", "arch_do_signal_or_restart", "do_signal",
                                       "handle_signal", "task_work_run"};

static const char *const page_fault[] = {"exc_page_fault", "asm_exc_page_fault",
                                         "do_user_addr_fault"};

// The sleep of FUTEX_WAIT, with nothing of user memory to be touched any more.
static const char *const futex_waits[] = {"futex_wait_queue", "futex_wait_queue_me",
                                          "futex_do_wait"};

static bool chain_has_any(const struct intro_chain *chain, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (intro_chain_has(chain, names[i]))
            return true;
    return false;
}
#define CHAIN_HAS_ANY(chain, names) chain_has_any(chain, names, G_N_ELEMENTS(names))

enum instruction { OTHER, SYSCALL, INT80 };

struct park {
    struct intro_ctx *c;
    struct gva task, mm;
    struct fmt_task *rec;
    struct intro_regs regs;
    struct intro_call call; // that the registers speak of
    struct intro_chain chain;
    uint64_t state; // task->__state
    bool frozen;    // stopped by our own agent
    struct intro_sleep sleep;
};

static bool busy(const struct park *p, GError **error, const char *what)
{
    const char *call = intro_syscall_name(p->call.entered, p->call.compat);
    const char *at = p->chain.n > 2 ? p->chain.function[2] : NULL;

    g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                "thread %" G_GUINT64_FORMAT " (%s) %s%s%s%s%s%s", p->rec->tid, p->rec->comm, what,
                call ? ", system call " : "", call ? call : "", at ? " (" : "", at ? at : "",
                at ? ")" : "");
    return false;
}

// What the program executes at `ip`.
static bool read_instruction(const struct park *p, uint64_t ip, enum instruction *ret,
                             GError **error)
{
    static const uint8_t codes[][2] = {[SYSCALL] = {0x0f, 0x05}, [INT80] = {0xcd, 0x80}};
    uint8_t code[2];
    struct gva pgd;

    if (!intro_get_ptr(p->c->k, p->mm, M_mm_pgd, &pgd, error))
        return false;
    *ret = OTHER;
    // A page that was never touched or is no memory of the program is not where it is.
    if (!intro_read_user(p->c->k, pgd, GVA(ip), code, sizeof(code), NULL))
        return true;
    for (enum instruction i = SYSCALL; i <= INT80; i++)
        if (memcmp(code, codes[i], sizeof(code)) == 0)
            *ret = i;
    return true;
}

static bool is_at_boundary(const struct intro_chain *chain)
{
    for (size_t i = 0; i < G_N_ELEMENTS(boundary); i++)
        if (intro_chain_calls(chain, boundary[i].caller, boundary[i].callee))
            return true;
    return false;
}

static bool in_system_call(const struct park *p)
{
    return p->call.entered != UINT64_MAX;
}

// Woken but not running yet: the call is about to take what it was woken for. A waker that has
// chosen the task but not called try_to_wake_up yet has it in its wake queue.
static bool is_being_woken(IntroReader *r, struct gva task)
{
    return rd(r, task, M_task_on_rq) || rd_opt(r, task, M_task_wake_q_next, 0);
}

// Whether a signal is pending that this mask of the task lets through.
static bool has_signal(struct park *p, enum intro_member mask, bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);
    struct gva signal = rd_ptr(&r, p->task, M_task_signal);
    uint64_t own = rd(&r, intro_member_addr(p->c->k, p->task, M_task_pending), M_sigpending_signal);
    uint64_t shared =
        rd(&r, intro_member_addr(p->c->k, signal, M_signal_shared_pending), M_sigpending_signal);

    *ret = (own | shared) & ~rd(&r, p->task, mask);
    return rd_done(&r, error);
}

// Woken from a futex wait and waiting for a CPU, as most threads of a busy program are. All that is
// left to do is to return: 0 where the futex was woken; where it was not, 0 is a spurious wake-up,
// which every waiter must expect. Not with a signal to be handled, which EINTR would tell of, nor
// with a relative timeout, which would start again.
static bool is_woken_from_futex(struct park *p, bool *ret, GError **error)
{
    const uint64_t op = FUTEX_CMD(p->call.args[1]);
    const bool waits = p->call.nr == NR_futex && CHAIN_HAS_ANY(&p->chain, futex_waits) &&
                       (op == FUTEX_WAIT_BITSET || (op == FUTEX_WAIT_CMD && p->call.args[3] == 0));
    bool signal = false;

    if (waits && !has_signal(p, M_task_blocked, &signal, error))
        return false;
    *ret = waits && !signal;
    return true;
}

// What the thread sleeps by.
static bool find_sleep(struct park *p, struct intro_where *ret, GError **error)
{
    const struct intro_sleep *sleep = intro_timers_find(p->c->timers, p->task);
    bool found;

    ret->sleep = sleep;
    if (sleep)
        return true;
    if (!intro_wheel_find(p->c->k, p->c->clock, p->task, &p->chain, &p->sleep, &found, error))
        return false;
    ret->sleep = found ? &p->sleep : NULL;
    return true;
}

// All that is left to do is to return 0.
static void return_zero(struct park *p)
{
    p->rec->state = FMT_TASK_PREEMPTED;
    p->rec->rax = 0;
    p->rec->orig_rax = UINT64_MAX;
}

static bool enter_call_again(struct park *p, bool woken, GError **error)
{
    struct intro_where where = {.task = p->task, .mm = p->mm, .chain = &p->chain, .woken = woken};
    bool over = false;

    if (!find_sleep(p, &where, error) ||
        (woken && !where.sleep && !intro_wheel_is_over(p->c->k, p->task, &p->chain, &over, error)))
        return false;
    if (over) // the timeout of a socket, perhaps: 0 would be none
        return busy(p, error, "has just been woken");
    p->rec->state = FMT_TASK_SYSCALL;
    p->c->n_openers += intro_chain_has(&p->chain, "wait_for_partner");
    return intro_syscall_reenter(p->c, &where, &p->call, p->rec, error);
}

// Whether the child that it makes would be one of the tree, where it can be seen.
static bool adds_to_tree(const struct park *p)
{
    uint64_t flags = p->call.nr == NR_clone ? p->call.args[0] : 0;
    struct gva pgd;

    if (p->call.nr == NR_clone3 &&
        (!intro_get_ptr(p->c->k, p->mm, M_mm_pgd, &pgd, NULL) ||
         !intro_read_user(p->c->k, pgd, GVA(p->call.args[0]), &flags, sizeof(flags), NULL)))
        return false;
    return !(flags & CLONE_PARENT);
}

static bool begin_anew(struct park *p)
{
    if (!intro_may_repeat(&p->chain, &p->call) &&
        !(intro_is_forking(&p->chain, &p->call) && adds_to_tree(p)))
        return false;
    p->rec->state = FMT_TASK_SYSCALL;
    p->c->passing = true;
    intro_enter_again(&p->call, -ERESTARTNOINTR, p->rec);
    return true;
}

// Has been woken: what it waited for, or a signal, is there. It would look at the one first, and
// not see the other, where what enters the call again does the opposite. Not so where only a signal
// ends the wait, or the call has a mask of its own: those are entered with all signals blocked.
static bool signal_would_win(struct park *p, bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);
    const bool masks =
        p->call.nr == NR_rt_sigsuspend || rd(&r, p->task, M_task_restore_sigmask) != 0;
    const bool waits = !masks && p->call.nr != NR_pause && !intro_was_napping(&p->chain);
    bool signal = false;

    if (!rd_done(&r, error) ||
        (waits &&
         !has_signal(p, p->call.nr == NR_rt_sigtimedwait ? M_task_real_blocked : M_task_blocked,
                     &signal, error)))
        return false;
    *ret = signal;
    return true;
}

static bool park_awake(struct park *p, GError **error)
{
    bool over, signal;

    if (!is_woken_from_futex(p, &over, error))
        return false;
    // Its timer is gone: the time is over, whatever signal has come meanwhile.
    if (over || intro_is_yielding(&p->chain, &p->call) ||
        (intro_was_napping(&p->chain) && !intro_timers_find(p->c->timers, p->task))) {
        return_zero(p);
        return true;
    }
    if (!intro_looks_again(&p->chain))
        return busy(p, error, "is working in the kernel");
    if (!signal_would_win(p, &signal, error))
        return false;
    if (signal)
        return busy(p, error, "has just been woken");
    p->c->passing = true;
    return enter_call_again(p, true, error);
}

static bool park_in_call(struct park *p, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);
    const bool woken = is_being_woken(&r, p->task);

    if (!rd_done(&r, error))
        return false;
    if (begin_anew(p))
        return true;
    if (CHAIN_HAS_ANY(&p->chain, page_fault))
        return busy(p, error, "is working in the kernel");
    return (p->state & TASK_STATE_MASK) != TASK_INTERRUPTIBLE || woken
               ? park_awake(p, error)
               : enter_call_again(p, false, error);
}

// Born and not run yet: all that is left is to tell its number, and to return 0.
static bool park_unborn(struct park *p, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);

    return_zero(p);
    p->rec->set_child_tid = rd(&r, p->task, M_task_set_child_tid);
    return rd_done(&r, error);
}

// Preempted before signals were looked at, with a mask to be put back after that: a signal that
// only the call let in is to be delivered first. That takes the kernel a moment.
static bool signals_come_first(struct park *p, bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);

    *ret = rd(&r, p->task, M_task_restore_sigmask) && !intro_chain_has(&p->chain, "get_signal");
    return rd_done(&r, error);
}

// Our agent has wound the thread back to the instruction that enters a call, whose timeout goes on.
static bool keep_wound_back(struct park *p, GError **error)
{
    struct intro_regs regs = p->regs;
    struct intro_call call;
    enum instruction at;

    if (!read_instruction(p, regs.ip, &at, error))
        return false;
    if (at == OTHER)
        return true;
    regs.orig_ax = regs.ax;
    regs.ip += SYSCALL_BYTES;
    intro_syscall_find(p->c, p->mm, &regs, at == INT80, &call);
    const bool found = intro_sleepers_find(p->c, p->task, p->regs.ip, &p->sleep);
    const struct intro_where where = {
        .task = p->task, .mm = p->mm, .chain = &p->chain, .sleep = found ? &p->sleep : NULL};
    const bool slept = (int64_t)p->regs.orig_ax == FMT_FROZEN_IN_CALL;
    if (slept)
        intro_enter_again(&call, -ERESTARTNOHAND, p->rec);
    intro_timeout_keep_frozen(p->c, &where, &call, p->rec);
    if (slept || p->rec->restart != FMT_RESTART_NONE) {
        p->rec->syscall = (int64_t)call.entered;
        p->rec->compat_call = call.compat;
    }
    return true;
}

static bool park_off_cpu(struct park *p, GError **error)
{
    if (is_at_boundary(&p->chain)) {
        bool signals;
        if (!signals_come_first(p, &signals, error))
            return false;
        if (signals)
            return busy(p, error, "is about to be delivered a signal");
        p->rec->state = p->frozen ? FMT_TASK_FROZEN : FMT_TASK_PREEMPTED;
        if (in_system_call(p)) {
            const bool slept =
                p->frozen &&
                intro_sleepers_find(p->c, p->task, p->regs.ip - SYSCALL_BYTES, &p->sleep);
            const struct intro_where where = {
                .task = p->task,
                .mm = p->mm,
                .chain = &p->chain,
                .sleep = slept ? &p->sleep : NULL,
                .key = p->frozen ? intro_sleepers_key(p->c, p->task, p->regs.ip) : NULL};
            return intro_syscall_finish(p->c, &where, &p->call, p->frozen, p->rec, error);
        }
        p->rec->orig_rax = UINT64_MAX;
        return !p->frozen || keep_wound_back(p, error);
    }
    if (CHAIN_HAS_ANY(&p->chain, delivery))
        return busy(p, error, "is being delivered a signal");
    if (in_system_call(p))
        return park_in_call(p, error);
    if (p->chain.complete && CHAIN_HAS_ANY(&p->chain, page_fault)) {
        p->rec->state = FMT_TASK_PREEMPTED;
        p->rec->orig_rax = UINT64_MAX;
        return true;
    }
    return busy(p, error, "is working in the kernel");
}

/* ---- what the kernel does at a preemption that concerns user mode: rseq ---- */

// struct rseq and rseq_cs, include/uapi/linux/rseq.h
#define RSEQ_CS_OFFSET 8
struct rseq_cs {
    uint32_t version, flags;
    uint64_t start_ip, post_commit_offset, abort_ip;
};

// A thread inside a restartable sequence goes on at its abort handler, as after any migration.
static bool abort_rseq(struct park *p, GError **error)
{
    struct rseq_cs cs;
    uint64_t cs_addr;
    struct gva pgd;

    if (!p->rec->rseq)
        return true;
    if (!intro_get_ptr(p->c->k, p->mm, M_mm_pgd, &pgd, error))
        return false;
    // A page of it that was never touched or cannot be read holds no active sequence.
    if (!intro_read_user(p->c->k, pgd, GVA(p->rec->rseq + RSEQ_CS_OFFSET), &cs_addr, 8, NULL) ||
        !cs_addr || !intro_read_user(p->c->k, pgd, GVA(cs_addr), &cs, sizeof(cs), NULL))
        return true;
    if (p->rec->rip - cs.start_ip < cs.post_commit_offset)
        p->rec->rip = cs.abort_ip;
    return true;
}

// The signal mask that holds once the call is over: sigsuspend, ppoll and the like keep it aside
// while they wait, sigtimedwait in another place. sigsuspend says so (restore_sigmask) only when it
// has been woken.
static bool read_mask(struct park *p, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(p->c->k);
    enum intro_member from = M_task_blocked;
    const bool waits = in_system_call(p) && p->rec->state == FMT_TASK_SYSCALL;

    if (waits && p->call.nr == NR_rt_sigtimedwait)
        from = M_task_real_blocked;
    else if ((waits && p->call.nr == NR_rt_sigsuspend) || rd(&r, p->task, M_task_restore_sigmask))
        from = M_task_saved_sigmask;
    rd_bytes(&r, p->task, from, &p->rec->blocked, 8);
    return rd_done(&r, error);
}

static bool park_on_cpu(struct park *p, const struct vmm_vcpu *cpu, GError **error)
{
    p->regs.orig_ax = p->call.entered = UINT64_MAX;
    if (!cpu->user_mode) {
        struct gva at;

        // Forensic images show what the thread had when it entered the kernel, for what it is
        // worth.
        if (p->c->opt->forensic && intro_user_regs(p->c->k, p->task, &at, &p->regs, NULL))
            intro_regs_from_memory(p->c, p->task, &p->regs, p->rec, NULL);
        return busy(p, error, "is running in the kernel");
    }
    p->rec->state = FMT_TASK_USER;
    return intro_regs_from_vcpu(p->c, cpu, p->rec, error);
}

// Another kernel's vdso has other code. A thread in it is out of it soon; our agent has stepped it
// out already. The code around the system call of a 32-bit program's vdso stays as it is.
static bool check_vdso(const struct park *p, GError **error)
{
    const struct fmt_vma *vma =
        fmt_image_vma(p->c->img, intro_object_ref(p->c, p->mm), p->rec->rip);
    enum instruction before, at;

    if (!vma || vma->kind != FMT_VMA_VDSO || p->rec->state == FMT_TASK_SYSCALL)
        return true;
    if (!read_instruction(p, p->rec->rip - 2, &before, error) ||
        !read_instruction(p, p->rec->rip, &at, error))
        return false;
    return before != OTHER || at != OTHER || busy(p, error, "is reading a clock");
}

// The kernel has taken the thread back to the instruction that enters a call, for it to go on with
// restart_syscall(): told as it was just before that.
static bool undo_restart(struct park *p, bool compat, GError **error)
{
    enum instruction at;

    if ((int64_t)p->regs.orig_ax < 0 ||
        p->regs.ax != (compat ? IA32_NR_RESTART_SYSCALL : NR_restart_syscall))
        return true;
    if (!read_instruction(p, p->regs.ip, &at, error))
        return false;
    if (at == (compat ? INT80 : SYSCALL)) {
        p->regs.ip += SYSCALL_BYTES;
        p->regs.ax = (uint64_t)-ERESTART_RESTARTBLOCK;
    }
    return true;
}

static bool find_place(struct park *p, GError **error)
{
    GError *failure = NULL;
    const struct vmm_vcpu *cpu = intro_vcpu_of(p->c, p->task, &failure);
    g_auto(IntroReader) r = INTRO_READER(p->c->k);
    uint64_t on_cpu = rd(&r, p->task, M_task_on_cpu);
    struct gva regs_at;
    uint64_t status;
    bool unborn;

    if (failure) {
        g_propagate_error(error, failure);
        return false;
    }
    p->state = rd(&r, p->task, M_task_state);
    if (!rd_done(&r, error))
        return false;
    if (cpu)
        return park_on_cpu(p, cpu, error);
    p->regs.orig_ax = p->call.entered = UINT64_MAX;
    if (on_cpu)
        return busy(p, error, "is switching between user mode and the kernel");
    if (!intro_user_regs(p->c->k, p->task, &regs_at, &p->regs, error) ||
        !intro_never_ran(p->c->k, p->task, &unborn, error) ||
        !intro_get(p->c->k, p->task, M_thread_status, &status, error) ||
        (!unborn && !undo_restart(p, status & TS_COMPAT, error)) ||
        !intro_regs_from_memory(p->c, p->task, &p->regs, p->rec, error))
        return false;
    if (unborn && p->state == TASK_RUNNING)
        return park_unborn(p, error);
    if (!intro_unwind(p->c->k, p->task, regs_at, &p->chain, error))
        return false;
    intro_syscall_find(p->c, p->mm, &p->regs, status & TS_COMPAT, &p->call);
    p->rec->syscall = in_system_call(p) ? (int64_t)p->call.entered : -1;
    p->rec->compat_call = in_system_call(p) && p->call.compat;
    return park_off_cpu(p, error);
}

bool intro_park(struct intro_ctx *c, struct gva task, struct gva mm, struct fmt_task *rec,
                GError **error)
{
    struct park p = {.c = c, .task = task, .mm = mm, .rec = rec, .frozen = c->opt->frozen_by != 0};

    rec->syscall = -1;
    return find_place(&p, error) && check_vdso(&p, error) && read_mask(&p, error) &&
           abort_rseq(&p, error);
}
