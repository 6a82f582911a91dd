// SPDX-License-Identifier: GPL-2.0-or-later
// Signal actions (struct sighand_struct) and pending signals (struct sigpending).
#include "introspect/signal.h"

#include <signal.h>
#include <string.h>

#include "introspect/itimer.h"
#include "introspect/reader.h"

#define N_SIGNALS          64
#define SIGINFO_BYTES      128
#define SYS_PRIVATE_OFFSET 32         // of si_sys_private in siginfo
#define MAX_QUEUED         (1u << 20) // RLIMIT_SIGPENDING is some thousands by default

static bool read_action(struct intro_ctx *c, uint64_t owner, unsigned signo, struct gva action,
                        GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    uint64_t handler = rd(&r, action, M_sa_handler), flags = rd(&r, action, M_sa_flags);
    uint64_t restorer = rd(&r, action, M_sa_restorer), mask = 0;

    rd_bytes(&r, action, M_sa_mask, &mask, 8);
    if (!rd_done(&r, error))
        return false;
    if (!handler && !flags && !mask && !restorer)
        return true;
    struct fmt_sigaction *rec = fmt_image_add(c->img, FMT_SIGACTION);
    rec->sighand = owner;
    rec->signo = signo;
    rec->handler = handler;
    rec->flags = flags;
    rec->restorer = restorer;
    rec->mask = mask;
    return true;
}

uint64_t intro_sighand(struct intro_ctx *c, struct gva sighand, GError **error)
{
    uint64_t ref = intro_object_ref(c, sighand);

    if (ref)
        return ref;
    if (!intro_check_spinlock(c->k, intro_member_addr(c->k, sighand, M_sighand_siglock), "siglock",
                              error))
        return 0;
    struct fmt_sighand *rec = intro_object_add(c, sighand, FMT_SIGHAND);
    struct gva actions = intro_member_addr(c->k, sighand, M_sighand_action);
    for (unsigned i = 0; i < N_SIGNALS; i++)
        if (!read_action(c, rec->rec.objref, i + 1,
                         GVA(actions.addr + i * intro_sizeof(c->k, T_k_sigaction)), error))
            return 0;
    return rec->rec.objref;
}

struct pending_walk {
    struct intro_ctx *c;
    uint64_t owner;
    uint64_t queued; // signals that had a queue entry
};

static bool read_queued(struct gva node, void *user, GError **error)
{
    struct pending_walk *w = user;
    struct gva queue = intro_container(w->c->k, node, M_sigqueue_list);
    struct {
        int32_t signo, error_no, code;
        uint8_t rest[SIGINFO_BYTES - 12];
    } info = {0};
    g_auto(IntroReader) r = INTRO_READER(w->c->k);
    uint64_t timer;
    bool dropped;

    rd_bytes(&r, queue, M_sigqueue_info, &info, sizeof(info));
    if (!rd_done(&r, error))
        return false;
    if (info.signo < 1 || info.signo > N_SIGNALS) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "sigqueue at %" G_GINT64_MODIFIER "x: signal %d", queue.addr, info.signo);
        return false;
    }
    if (!intro_timer_of_signal(w->c, queue, &timer, &dropped, error))
        return false;
    w->queued |= 1ull << (info.signo - 1);
    if (dropped)
        return true;
    if (info.code == SI_TIMER) // the kernel's own mark of what the timer waits for
        memset((uint8_t *)&info + SYS_PRIVATE_OFFSET, 0, 4);
    struct fmt_signal *rec = fmt_image_add(w->c->img, FMT_SIGNAL);
    rec->owner = w->owner;
    rec->signo = info.signo;
    rec->info = g_bytes_new(&info, sizeof(info));
    rec->timer = timer;
    return true;
}

bool intro_sigpending(struct intro_ctx *c, struct gva pending, uint64_t owner, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct pending_walk walk = {.c = c, .owner = owner};
    uint64_t set = 0;

    rd_bytes(&r, pending, M_sigpending_signal, &set, 8);
    if (!rd_done(&r, error) ||
        !intro_walk_list(c->k, intro_member_addr(c->k, pending, M_sigpending_list), MAX_QUEUED,
                         read_queued, &walk, error))
        return false;
    // SIGKILL, and what came when no queue entry could be had: pending without a siginfo.
    for (unsigned signo = 1; signo <= N_SIGNALS; signo++)
        if (set & ~walk.queued & 1ull << (signo - 1)) {
            struct fmt_signal *rec = fmt_image_add(c->img, FMT_SIGNAL);
            rec->owner = owner;
            rec->signo = signo;
        }
    return true;
}
