// SPDX-License-Identifier: GPL-2.0-or-later
// Calls that read or write and sleep in the middle: what they have done so far stays done.
#include <string.h>

#include "introspect/progress.h"
#include "introspect/reentry.h"
#include "introspect/tty.h"

/*
 * A write to a full pipe or stream, or a read that wants more than there is (MSG_WAITALL,
 * SO_RCVLOWAT), sleeps with a part of its bytes transferred. What the kernel does when a signal
 * comes, or when the process is stopped and continued, holds here as well: a call that has done
 * nothing begins anew, another is over and returns how much it has done.
 */
#define WAITALL        0x100 // MSG_WAITALL
#define PEEK           2     // MSG_PEEK
#define PIPE_BUF_BYTES 4096

// Who sleeps only before the first byte.
static const char *const whole_writes[] = {"unix_dgram_sendmsg", "eventfd_write"};

// Who sleeps in between, when what struct iov_iter says is what was written. Of a terminal it is
// not (ttywait.c). A stream's pieces are sent one by one (anon_pipe_write since 6.15).
static const char *const counted_writes[] = {"pipe_write", "anon_pipe_write",
                                             "unix_stream_sendmsg"};

// The same for reads; all others return once they have read anything.
static const char *const counted_reads[] = {"unix_stream_read_generic"};

// Sleeps of splice() and its kin that come before the first byte. sendfile() to anything but a pipe
// goes round in circles within splice_direct_to_actor.
static const char *const splice_waits[] = {"pipe_wait_readable", "pipe_wait_writable",
                                           "wait_for_space", "ipipe_prep", "opipe_prep"};

static bool chain_has_any(const struct intro_chain *chain, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (intro_chain_has(chain, names[i]))
            return true;
    return false;
}
#define SLEEPS_IN(e, names) chain_has_any((e)->where->chain, names, G_N_ELEMENTS(names))

/* ---- a call that is over ---- */

static bool read_words(const struct intro_reentry *e, uint64_t at, uint64_t *ret, size_t n)
{
    const size_t width = e->call->compat ? 4 : 8;
    struct gva pgd;

    if (!intro_get_ptr(e->c->k, e->where->mm, M_mm_pgd, &pgd, NULL))
        return false;
    for (size_t i = 0; i < n; i++) {
        uint8_t word[8] = {0};
        uint64_t value;
        if (!intro_read_user(e->c->k, pgd, GVA(at + i * width), word, width, NULL))
            return false;
        memcpy(&value, word, sizeof(value));
        ret[i] = GUINT64_FROM_LE(value);
    }
    return true;
}

static void write_word(const struct intro_reentry *e, uint64_t at, size_t width, uint64_t value)
{
    const uint64_t le = GUINT64_TO_LE(value);

    intro_pages_patch(e->c->pages, e->mm_ref, at, &le, width);
}

// What recvmsg() returns besides the bytes, in struct msghdr: nothing, for those that ask for no
// more. Addresses and control messages that wait to be returned are on the kernel's stack.
static bool end_message(const struct intro_reentry *e, uint64_t at)
{
    const size_t width = e->call->compat ? 4 : 8;
    uint64_t words[6]; // name, its length, iov, its length, control, its length; then flags

    if (!read_words(e, at, words, G_N_ELEMENTS(words)) || words[0] || (words[4] && words[5]))
        return false;
    write_word(e, at + 5 * width, width, 0);
    write_word(e, at + 6 * width, 4, 0);
    return true;
}

// Several messages: those that are done count, and so does one that is done in part.
static bool end_messages(struct intro_reentry *e, const struct intro_progress *done,
                         uint64_t *ret_result)
{
    const size_t bytes = e->call->compat ? INTRO_IA32_MMSGHDR_BYTES : INTRO_MMSGHDR_BYTES;
    const uint64_t at = e->call->args[1] + done->messages * bytes;

    *ret_result = done->messages + (done->bytes != 0);
    if (done->bytes == 0)
        return true;
    if (e->call->nr == NR_recvmmsg && !end_message(e, at))
        return false;
    write_word(e, at + (e->call->compat ? 28 : 56), 4, done->bytes);
    return true;
}

static bool end_call(struct intro_reentry *e, const struct intro_progress *done)
{
    uint64_t result = done->bytes;

    if ((e->call->nr == NR_recvfrom && e->call->args[4]) ||
        (e->call->nr == NR_recvmsg && !end_message(e, e->call->args[1])) ||
        (e->call->row->class == MESSAGES && !end_messages(e, done, &result)))
        return false;
    e->rec->rip = e->call->ip;
    e->rec->rax = result;
    e->rec->orig_rax = UINT64_MAX;
    return true;
}

/* ---- how far is it? ---- */

static bool is_peek(const struct intro_reentry *e)
{
    const int at = e->call->nr == NR_recvfrom || e->call->nr == NR_recvmmsg ? 3
                   : e->call->nr == NR_recvmsg                              ? 2
                                                                            : -1;

    return intro_argument(e->call, at) & PEEK;
}

// A read that wants no more than there is has read nothing while it sleeps.
static bool wants_all(const struct intro_reentry *e)
{
    const struct fmt_file *file = intro_file_of(e, intro_argument(e->call, 0));
    const struct fmt_socket *socket =
        file ? fmt_image_by_ref(e->c->img, file->object, FMT_SOCKET) : NULL;

    return e->call->row->class == MESSAGES || !socket || socket->rcvlowat_bytes > 1 ||
           (e->call->row->class == RECV &&
            intro_argument(e->call, e->call->row->argument) & WAITALL);
}

static bool is_one_piece(const struct intro_reentry *e)
{
    return e->call->nr == NR_write && e->call->args[2] <= PIPE_BUF_BYTES &&
           !intro_chain_has(e->where->chain, "unix_stream_sendmsg");
}

static bool counted(struct intro_reentry *e, bool otherwise_none, enum intro_transfer *ret,
                    GError **error)
{
    struct intro_progress done;

    if (!intro_progress(e->c, e->where, e->call, &done, error))
        return false;
    if (!done.known)
        *ret = otherwise_none ? INTRO_NOTHING_DONE : INTRO_UNSURE;
    else if (done.messages + done.bytes == 0)
        *ret = INTRO_NOTHING_DONE;
    else
        *ret = end_call(e, &done) ? INTRO_OVER : INTRO_UNSURE;
    return true;
}

// Writes of terminals, which may wait for their turn first.
static const char *const tty_writes[] = {"n_tty_write", "file_tty_write", "tty_write"};

static bool written(struct intro_reentry *e, enum intro_transfer *ret, GError **error)
{
    struct intro_progress done;

    if (!intro_tty_written(e, &done, error))
        return false;
    *ret = !done.known          ? INTRO_UNSURE
           : done.bytes == 0    ? INTRO_NOTHING_DONE
           : end_call(e, &done) ? INTRO_OVER
                                : INTRO_UNSURE;
    return true;
}

bool intro_transfer(struct intro_reentry *e, enum intro_transfer *ret, GError **error)
{
    *ret = INTRO_NOTHING_DONE;
    switch ((enum intro_class)e->call->row->class) {
    case WAIT:
    case BREAKS:
    case RECV:
        if (intro_chain_has(e->where->chain, "n_tty_read"))
            return intro_tty_read(e, ret, error);
        return !SLEEPS_IN(e, counted_reads) || is_peek(e) || counted(e, !wants_all(e), ret, error);
    case WRITE:
        if (SLEEPS_IN(e, counted_writes))
            return counted(e, is_one_piece(e), ret, error);
        if (SLEEPS_IN(e, tty_writes))
            return written(e, ret, error);
        if (!SLEEPS_IN(e, whole_writes))
            *ret = INTRO_UNSURE;
        return true;
    case MESSAGES:
        return counted(e, false, ret, error);
    case SPLICE:
        if (!SLEEPS_IN(e, splice_waits) ||
            intro_chain_has(e->where->chain, "splice_direct_to_actor"))
            *ret = INTRO_UNSURE;
        return true;
    case QUICK:
    case QUERY: // park.c has it begin anew where it is known to be in the call
        break;
    }
    *ret = INTRO_UNSURE;
    return true;
}
