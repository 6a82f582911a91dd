// SPDX-License-Identifier: GPL-2.0-or-later
// Futex waits that have become other waits since the call was made (kernel/futex/).
#include "introspect/reader.h"
#include "introspect/reentry.h"

/*
 * A waiter may have been moved to another futex (FUTEX_REQUEUE): it waits for that one now. Its
 * struct futex_q, a variable of the function that waits, has the key of the futex. It goes on as a
 * wait for the second futex, with the value that this has.
 *
 * A waiter for a lock that inherits priorities enters its call again: the word names the owner, who
 * goes along. One that was moved to such a lock (FUTEX_CMP_REQUEUE_PI) cannot; what the kernel does
 * with it when a signal comes is to end its call with EAGAIN.
 */
#define WAIT_CMD            0
#define WAIT_BITSET_CMD     9
#define LOCK_PI_CMD         6
#define WAIT_REQUEUE_PI_CMD 11
#define LOCK_PI2_CMD        13

#define OFF_INODE       1 // include/linux/futex.h: of a key of memory that a file backs
#define OFF_FLAGS       3
#define MAX_FRAME_BYTES 2048

static const char *const waiters[] = {"futex_wait_queue", "futex_wait_queue_me", "futex_do_wait",
                                      "__futex_wait", "futex_wait"};

static bool is_of_mm(const struct intro_reentry *e, const struct intro_futex_key *key)
{
    g_auto(IntroReader) r = INTRO_READER(e->c->k);
    const uint64_t id = rd_opt(&r, e->where->mm, M_mm_futex_id, 0);

    return !r.error && (key->ptr == e->where->mm.addr || (id && key->ptr == id));
}

// Where the futex of a key is; 0 where that cannot be told.
static uint64_t address_of(const struct intro_reentry *e, const struct intro_futex_key *key)
{
    const uint64_t at = key->offset & ~(uint64_t)OFF_FLAGS;

    if (at >= VMM_PAGE_BYTES)
        return 0;
    if (!(key->offset & OFF_INODE))
        return key->word % VMM_PAGE_BYTES == 0 && is_of_mm(e, key) ? key->word + at : 0;
    // By its page in the file; both are in one mapping, or it is not known which.
    const struct fmt_vma *vma = fmt_image_vma(e->c->img, e->mm_ref, e->call->args[0]);
    const uint64_t in_file = key->word * VMM_PAGE_BYTES + at;
    if (!vma)
        return e->call->args[0];
    if (in_file < vma->offset_bytes || in_file - vma->offset_bytes >= vma->end - vma->start)
        return 0;
    return vma->start + (in_file - vma->offset_bytes);
}

// Whether it looks like a node of a queue that leads back to it.
static bool is_queued(IntroKernel *k, struct gva q)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    const struct gva node = intro_member_addr(k, q, M_futex_q_node);
    const struct gva next = rd_ptr(&r, node, M_list_next);
    const struct gva back = r.error ? GVA(0) : rd_ptr(&r, next, M_list_prev);

    return !r.error && back.addr == node.addr;
}

static bool read_key(IntroKernel *k, struct gva q, struct gva task, struct intro_futex_key *ret)
{
    g_auto(IntroReader) r = INTRO_READER(k);
    struct gva key = intro_member_addr(k, q, M_futex_q_key);

    if (rd_ptr(&r, q, M_futex_q_task).addr != task.addr || r.error || !is_queued(k, q))
        return false;
    *ret = (struct intro_futex_key){.ptr = rd(&r, key, M_futex_key_ptr),
                                    .word = rd(&r, key, M_futex_key_word),
                                    .offset = rd(&r, key, M_futex_key_offset)};
    return !r.error;
}

static bool waits(const struct intro_chain *chain, unsigned i)
{
    for (size_t j = 0; j < G_N_ELEMENTS(waiters); j++)
        if (intro_chain_is(chain, i, waiters[j]))
            return true;
    return false;
}

bool intro_futex_key(IntroKernel *k, struct gva task, const struct intro_chain *chain,
                     struct intro_futex_key *ret)
{
    for (unsigned i = 0; i < chain->n; i++) {
        const uint64_t end = MIN(chain->frame[i + 1], chain->frame[i] + MAX_FRAME_BYTES);
        for (uint64_t at = chain->frame[i];
             waits(chain, i) && at + intro_sizeof(k, T_futex_q) <= end; at += 8)
            if (read_key(k, GVA(at), task, ret))
                return true;
    }
    return false;
}

int intro_futex_interrupted(const struct intro_call *call)
{
    switch (FUTEX_CMD(call->args[1])) {
    case LOCK_PI_CMD:
    case LOCK_PI2_CMD:
    case WAIT_REQUEUE_PI_CMD:
        return -ERESTARTNOINTR;
    default:
        return call->args[3] ? -ERESTARTNOHAND : -ERESTARTSYS;
    }
}

static bool wait_for(struct intro_reentry *e, uint64_t address, GError **error)
{
    uint32_t value;
    struct gva pgd;

    if (!intro_get_ptr(e->c->k, e->where->mm, M_mm_pgd, &pgd, error) ||
        !intro_read_user(e->c->k, pgd, GVA(address), &value, sizeof(value), error))
        return false;
    e->call->args[0] = address;
    e->call->args[2] = GUINT32_FROM_LE(value);
    e->moved = true;
    return true;
}

void intro_futex_moved(struct intro_reentry *e)
{
    if (!e->moved)
        return;
    if (e->rec->restart == FMT_RESTART_NONE)
        e->rec->restart = FMT_RESTART_MOVED;
    e->rec->restart_addr = e->call->args[0];
    e->rec->restart_arg1 = e->call->args[2];
}

// Waits where its key says; NULL: which is on its stack. Where there is none to be found, it waits
// for what it asked for.
static bool wait_there(struct intro_reentry *e, const struct intro_futex_key *key,
                       enum intro_transfer *ret, GError **error)
{
    const uint64_t cmd = FUTEX_CMD(e->call->args[1]);
    struct intro_futex_key own;

    if (cmd != WAIT_CMD && cmd != WAIT_BITSET_CMD)
        return true;
    if (!key && intro_futex_key(e->c->k, e->where->task, e->where->chain, &own))
        key = &own;
    const uint64_t address = key ? address_of(e, key) : e->call->args[0];
    if (!address)
        *ret = INTRO_UNSURE;
    return !address || address == e->call->args[0] || wait_for(e, address, error);
}

bool intro_futex(struct intro_reentry *e, enum intro_transfer *ret, GError **error)
{
    const uint64_t cmd = FUTEX_CMD(e->call->args[1]);
    uint64_t locks;

    *ret = INTRO_NOTHING_DONE;
    if (!intro_get(e->c->k, e->where->task, M_task_pi_blocked_on, &locks, error))
        return false;
    if (cmd == WAIT_REQUEUE_PI_CMD && locks) {
        e->rec->rip = e->call->ip;
        e->rec->rax = (uint64_t)-EAGAIN;
        e->rec->orig_rax = UINT64_MAX;
        *ret = INTRO_OVER;
        return true;
    }
    return wait_there(e, NULL, ret, error);
}

bool intro_futex_frozen(struct intro_reentry *e, const struct intro_futex_key *key, GError **error)
{
    enum intro_transfer done = INTRO_NOTHING_DONE;

    return wait_there(e, key, &done, error);
}
