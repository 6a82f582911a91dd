// SPDX-License-Identifier: GPL-2.0-or-later
// How much a call that sleeps has already done: struct iov_iter (include/linux/uio.h) on its stack.
#include "introspect/progress.h"

#include "introspect/reader.h"
#include "introspect/reentry.h"

/*
 * A call that reads or writes has a struct iov_iter, which tells what of the program's buffers
 * remains. It is a variable of one of few functions. Nothing says where in their frames, so each
 * place is tried: what it says must fit the arguments of the call, byte for byte, which nothing
 * else does. A socket's own copy is further in than that of the file layer, which is not kept up.
 */
static const char *const holders[] = {
    "sock_write_iter", "sock_read_iter",  "__sys_sendto",
    "__sys_recvfrom",  "____sys_sendmsg", "___sys_sendmsg",
    "__sys_sendmsg",   "__sys_sendmmsg",  "____sys_recvmsg",
    "___sys_recvmsg",  "__sys_recvmsg",   "do_recvmmsg",
    "__sys_recvmmsg",  "new_sync_write",  "new_sync_read",
    "vfs_write",       "vfs_read",        "do_iter_readv_writev",
    "do_iter_write",   "do_iter_read",    "vfs_writev",
    "vfs_readv",       "do_writev",       "do_readv",
};

#define MAX_FRAME_BYTES 2048
#define MAX_SEGMENTS    1024
#define MAX_RW_BYTES    0x7ffff000ull
#define MAX_MESSAGES    1024

struct segment {
    uint64_t base, bytes;
};

// The program's buffers of one message.
struct buffers {
    struct segment segments[MAX_SEGMENTS];
    uint64_t n, total;
};

struct search {
    struct intro_ctx *c;
    const struct intro_where *where;
    const struct intro_call *call;
    struct gva pgd;
    int64_t is_ubuf, is_iovec; // enum iter_type; -1: this kernel has none
};

/* ---- the arguments of the call ---- */

static bool user_words(const struct search *s, uint64_t at, uint64_t *ret, size_t n)
{
    const size_t width = s->call->compat ? 4 : 8;
    uint8_t bytes[8 * 8];

    if (!intro_read_user(s->c->k, s->pgd, GVA(at), bytes, n * width, NULL))
        return false;
    for (size_t i = 0; i < n; i++) {
        const void *word = bytes + i * width;
        ret[i] = s->call->compat ? GUINT32_FROM_LE(*(const uint32_t *)word)
                                 : GUINT64_FROM_LE(*(const uint64_t *)word);
    }
    return true;
}

static bool vector(const struct search *s, uint64_t at, uint64_t n, struct buffers *ret)
{
    const size_t width = s->call->compat ? 8 : 16;

    *ret = (struct buffers){.n = n};
    if (n > MAX_SEGMENTS)
        return false;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t words[2];
        if (!user_words(s, at + i * width, words, 2))
            return false;
        ret->segments[i] = (struct segment){words[0], MIN(words[1], MAX_RW_BYTES - ret->total)};
        ret->total += ret->segments[i].bytes;
    }
    return true;
}

// struct msghdr of user mode: name, namelen, iov, iovlen ..., a word each.
static bool message(const struct search *s, uint64_t at, struct buffers *ret)
{
    uint64_t words[4];

    return user_words(s, at, words, 4) && vector(s, words[2], words[3], ret);
}

/* ---- what the kernel has of them ---- */

static bool is_segment(const struct search *s, uint64_t at, const struct segment *want)
{
    uint64_t base, bytes;

    return intro_read_u64(s->c->k, GVA(at), &base, NULL) && base == want->base &&
           intro_read_u64(s->c->k, GVA(at + 8), &bytes, NULL) && bytes == want->bytes;
}

// The segments that remain are the last ones of the program's.
static bool matches_vector(const struct search *s, uint64_t iov, uint64_t n, uint64_t offset,
                           uint64_t count, const struct buffers *b)
{
    uint64_t left = 0;

    if (n == 0 || n > b->n || offset > b->segments[b->n - n].bytes)
        return false;
    for (uint64_t i = 0; i < n; i++) {
        if (!is_segment(s, iov + 16 * i, &b->segments[b->n - n + i]))
            return false;
        left += b->segments[b->n - n + i].bytes;
    }
    return left - offset == count;
}

static bool is_write(const struct search *s)
{
    switch (s->call->nr) {
    case NR_write:
    case NR_writev:
    case NR_pwritev2:
    case NR_sendto:
    case NR_sendmsg:
    case NR_sendmmsg:
        return true;
    default:
        return false;
    }
}

// Whether there is an iov_iter of these buffers at `at`; *ret_done is how much of them is behind
// it. Its direction tells it from arguments of the call that were saved in its order.
static bool is_iter(const struct search *s, struct gva at, const struct buffers *b,
                    uint64_t *ret_done)
{
    g_auto(IntroReader) r = INTRO_READER(s->c->k);
    const bool has_direction = intro_place(s->c->k, M_iter_type)->alternative == 1;
    const uint64_t word = rd(&r, at, M_iter_type);
    const uint64_t source = has_direction ? word & 1 : rd(&r, at, M_iter_data_source);
    const int64_t type = (int64_t)word & ~(int64_t)has_direction;
    const uint64_t offset = rd(&r, at, M_iter_offset), count = rd(&r, at, M_iter_count);
    const uint64_t iov = rd(&r, at, M_iter_iov), n = rd(&r, at, M_iter_nr_segs);

    if (r.error || source != is_write(s) || count > b->total)
        return false;
    *ret_done = b->total - count;
    if (type == s->is_ubuf && s->is_ubuf >= 0)
        return b->n == 1 && iov == b->segments[0].base && offset == *ret_done;
    return type == s->is_iovec && matches_vector(s, iov, n, offset, count, b);
}

enum found { NOWHERE, ONCE, DIFFERENTLY };

static enum found look_in(const struct search *s, uint64_t from, uint64_t to,
                          const struct buffers *b, uint64_t *ret_done)
{
    enum found found = NOWHERE;

    for (uint64_t at = from; at + intro_sizeof(s->c->k, T_iov_iter) <= to; at += 8) {
        uint64_t done;
        if (!is_iter(s, GVA(at), b, &done))
            continue;
        if (found != NOWHERE && done != *ret_done)
            return DIFFERENTLY;
        *ret_done = done;
        found = ONCE;
    }
    return found;
}

static bool is_holder(const struct intro_chain *chain, unsigned i)
{
    for (size_t j = 0; j < G_N_ELEMENTS(holders); j++)
        if (intro_chain_is(chain, i, holders[j]))
            return true;
    return false;
}

// What lies further out than a socket's own copy says that nothing has been done.
static bool is_stale(const struct intro_chain *chain, unsigned i)
{
    return i > 0 && (intro_chain_is(chain, i - 1, "sock_write_iter") ||
                     intro_chain_is(chain, i - 1, "sock_read_iter"));
}

// The innermost frame that has one decides.
static enum found find(const struct search *s, const struct buffers *b, uint64_t *ret_done)
{
    const struct intro_chain *chain = s->where->chain;

    for (unsigned i = 0; i < chain->n; i++) {
        const uint64_t from = chain->frame[i];
        if (is_stale(chain, i))
            return NOWHERE;
        if (!is_holder(chain, i))
            continue;
        const enum found found =
            look_in(s, from, MIN(chain->frame[i + 1], from + MAX_FRAME_BYTES), b, ret_done);
        if (found != NOWHERE)
            return found;
    }
    return NOWHERE;
}

/* ---- calls ---- */

// Which of several messages it is: the one whose buffers fit. Two that have the same cannot be told
// from each other.
static void find_message(const struct search *s, struct buffers *b, struct intro_progress *ret)
{
    const uint64_t bytes = s->call->compat ? INTRO_IA32_MMSGHDR_BYTES : INTRO_MMSGHDR_BYTES;
    const uint64_t n = MIN(s->call->args[2], MAX_MESSAGES);
    unsigned n_found = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t done;
        if (!message(s, s->call->args[1] + i * bytes, b))
            break;
        const enum found found = find(s, b, &done);
        n_found += found == DIFFERENTLY ? 2 : found;
        if (found == ONCE)
            *ret = (struct intro_progress){.messages = i, .bytes = done};
    }
    ret->known = n_found == 1;
}

static bool search(struct search *s, struct intro_progress *ret)
{
    g_autofree struct buffers *b = g_new(struct buffers, 1);
    const uint64_t *args = s->call->args;
    bool good;

    switch (s->call->nr) {
    case NR_read:
    case NR_write:
    case NR_sendto:
    case NR_recvfrom:
        *b = (struct buffers){.n = 1};
        b->total = MIN(args[2], MAX_RW_BYTES);
        b->segments[0] = (struct segment){args[1], b->total};
        good = true;
        break;
    case NR_readv:
    case NR_writev:
    case NR_preadv2:
    case NR_pwritev2:
        good = vector(s, args[1], args[2], b);
        break;
    case NR_sendmsg:
    case NR_recvmsg:
        good = message(s, args[1], b);
        break;
    case NR_sendmmsg:
    case NR_recvmmsg:
        find_message(s, b, ret);
        return true;
    default:
        return true;
    }
    ret->known = good && find(s, b, &ret->bytes) == ONCE;
    return true;
}

bool intro_progress(struct intro_ctx *c, const struct intro_where *where,
                    const struct intro_call *call, struct intro_progress *ret, GError **error)
{
    struct search s = {.c = c, .where = where, .call = call, .is_ubuf = -1, .is_iovec = -1};

    *ret = (struct intro_progress){0};
    intro_constant(c->k, C_ITER_UBUF, &s.is_ubuf);
    intro_constant(c->k, C_ITER_IOVEC, &s.is_iovec);
    return intro_get_ptr(c->k, where->mm, M_mm_pgd, &s.pgd, error) && search(&s, ret);
}
