// SPDX-License-Identifier: GPL-2.0-or-later
// Reads and writes of terminals that sleep: how far they are (drivers/tty/n_tty.c).
#include <asm/termbits.h>

#include "introspect/fd.h"
#include "introspect/progress.h"
#include "introspect/reader.h"
#include "introspect/tty.h"

/*
 * n_tty_read() collects what it reads in a buffer of its caller's frame, and n_tty_write() takes
 * from the terminal's own (tty_struct.write_buf), a part of the program's at a time. How far they
 * are say two variables: a pointer into that buffer, and how much of it remains. Those of a read
 * are neighbours in its frame, as it has others change them. Those of a write are in registers,
 * which functions further in have saved. They must fit each other and the buffer, byte for byte.
 *
 * What a read has taken goes back into the terminal, and the call begins anew. A write that has
 * done a part is over, as after a stop.
 */
#define READ_BYTES   64   // kernel_buf of iterate_tty_read()
#define WRITE_BYTES  2048 // what iterate_tty_write() takes of the program's at a time
#define SAVED_WORDS  6    // r15 r14 r13 r12 rbp rbx, in this order
#define MAX_WORDS    512
#define FRAME_WORDS  64 // of n_tty_read() and n_tty_write(), at most
#define SWITCH_BYTES 56 // what __switch_to_asm has pushed, further in than the first frame

struct words {
    uint64_t value[MAX_WORDS];
    size_t n;
};

static void add_words(IntroKernel *k, uint64_t from, uint64_t to, struct words *words)
{
    for (uint64_t at = from; at + 8 <= to && words->n < MAX_WORDS; at += 8)
        words->n += intro_read_u64(k, GVA(at), &words->value[words->n], NULL);
}

static unsigned count_word(const struct words *words, uint64_t value)
{
    unsigned n = 0;

    for (size_t i = 0; i < words->n; i++)
        n += words->value[i] == value;
    return n;
}

static bool has_word(const struct words *words, uint64_t value)
{
    return count_word(words, value) > 0;
}

// What the i-th function keeps: its own frame, and its registers, as those further in have saved
// them, each below its return address.
static void kept_by(IntroKernel *k, const struct intro_chain *chain, unsigned i, struct words *ret)
{
    ret->n = 0;
    add_words(k, chain->frame[i], MIN(chain->frame[i + 1], chain->frame[i] + 8 * FRAME_WORDS), ret);
    for (unsigned j = 0; j < i; j++) {
        const uint64_t end = chain->frame[j + 1] - 8;
        add_words(k, MAX(chain->frame[j], end - 8 * SAVED_WORDS), end, ret);
    }
    add_words(k, chain->frame[0] - SWITCH_BYTES, chain->frame[0] - 8, ret);
}

/* ---- the terminal ---- */

struct find_fd {
    uint64_t fd;
    struct gva file;
};

static bool match_fd(uint64_t fd, struct gva file, bool cloexec, void *user, GError **error)
{
    struct find_fd *f = user;

    if (fd == f->fd)
        f->file = file;
    return true;
}

// Of the descriptor that the call is about; 0 where that is none of a terminal any more.
static bool find_tty(const struct intro_reentry *e, struct gva *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(e->c->k);
    struct find_fd find = {.fd = (uint32_t)intro_argument(e->call, 0)};
    const struct fmt_file *file = intro_file_of(e, find.fd);
    struct gva files = rd_ptr(&r, e->where->task, M_task_files);

    *ret = GVA(0);
    if (!file || (file->kind != FMT_FILE_TTY && file->kind != FMT_FILE_CHR))
        return true;
    if (!rd_done(&r, error) || !intro_walk_fds(e->c->k, files, match_fd, &find, error))
        return false;
    if (find.file.addr)
        *ret = rd_ptr(&r, rd_ptr(&r, find.file, M_file_private), M_ttyfile_tty);
    return rd_done(&r, error);
}

// Another thread reads or writes: each waits for its turn before it does anything.
static bool waits_for_turn(const struct intro_reentry *e)
{
    return intro_chain_has(e->where->chain, "__mutex_lock");
}

/* ---- reads ---- */

struct taken {
    uint64_t at, bytes; // in the kernel's memory
};

// Whether a read that has `left` to read into a buffer that it has filled up to `upto` may be so.
static bool is_read(const struct words *kept, uint64_t tail, uint64_t low, uint64_t high,
                    uint64_t size, uint64_t upto, uint64_t left, struct taken *ret)
{
    if (left == 0 || left > size || upto < low || upto > high)
        return false;
    *ret = (struct taken){.at = upto - (size - left), .bytes = size - left};
    // It has kept where the buffer begins, besides `upto`, and where it began to read.
    return ret->at >= low && ret->at % 8 == 0 && ret->at + size <= high &&
           count_word(kept, ret->at) > (ret->bytes == 0) && has_word(kept, tail - ret->bytes);
}

static bool find_read(const struct intro_reentry *e, uint64_t tail, struct taken *ret)
{
    const struct intro_chain *chain = e->where->chain;
    const unsigned i = (unsigned)intro_chain_find(chain, "n_tty_read");
    const uint64_t size = MIN(intro_argument(e->call, 2), READ_BYTES);
    struct words kept, frame = {0};
    bool found = false;

    if (e->call->nr != NR_read || i + 1 >= chain->n)
        return false;
    kept_by(e->c->k, chain, i, &kept);
    add_words(e->c->k, chain->frame[i], MIN(chain->frame[i + 1], chain->frame[i] + 8 * FRAME_WORDS),
              &frame);
    for (size_t j = 0; j + 1 < frame.n; j++) {
        for (size_t upto = j; upto <= j + 1; upto++) {
            struct taken one;
            if (!is_read(&kept, tail, chain->frame[i + 1], chain->frame[i + 2], size,
                         frame.value[upto], frame.value[2 * j + 1 - upto], &one))
                continue;
            if (found && (one.at != ret->at || one.bytes != ret->bytes))
                return false;
            *ret = one;
            found = true;
        }
    }
    return found;
}

// Where nothing else is to be read, or that would come first.
static bool put_back(const struct intro_reentry *e, GBytes *bytes)
{
    const struct fmt_file *file = intro_file_of(e, intro_argument(e->call, 0));
    const struct fmt_tty_file *side =
        file ? fmt_image_by_ref(e->c->img, file->object, FMT_TTY_FILE) : NULL;
    struct fmt_tty *tty = side ? fmt_image_by_ref(e->c->img, side->tty, FMT_TTY) : NULL;

    if (!tty || side->side == FMT_TTY_MASTER || side->hung_up || tty->input || tty->marks ||
        tty->state & FMT_TTY_MASTER_CLOSED)
        return false;
    tty->input = g_bytes_ref(bytes);
    return true;
}

// The terminal has nothing else to be read, or the read would not sleep.
static bool untake(const struct intro_reentry *e, const struct taken *taken)
{
    uint8_t bytes[READ_BYTES];

    if (!intro_read(e->c->k, GVA(taken->at), bytes, taken->bytes, NULL))
        return false;
    g_autoptr(GBytes) all = g_bytes_new(bytes, taken->bytes);

    return put_back(e, all);
}

bool intro_tty_read(struct intro_reentry *e, enum intro_transfer *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(e->c->k);
    struct termios2 termios;
    struct taken taken;
    struct gva tty;

    *ret = INTRO_NOTHING_DONE;
    if (waits_for_turn(e))
        return true;
    if (!find_tty(e, &tty, error))
        return false;
    if (!tty.addr) {
        *ret = INTRO_UNSURE;
        return true;
    }
    rd_bytes(&r, tty, M_tty_termios, &termios, sizeof termios);
    const uint64_t tail = rd(&r, rd_ptr(&r, tty, M_tty_disc_data), M_ntty_read_tail);
    if (!rd_done(&r, error))
        return false;
    const bool lines = termios.c_lflag & ICANON;
    // Who waits for a line, the first byte, or without the time that runs from that on, has
    // nothing.
    const bool whole =
        lines || termios.c_cc[VMIN] <= 1 || (termios.c_cc[VTIME] && !e->where->sleep);

    if (!find_read(e, tail, &taken))
        *ret = whole ? INTRO_NOTHING_DONE : INTRO_UNSURE;
    else if (taken.bytes && (lines || !untake(e, &taken)))
        *ret = INTRO_UNSURE;
    return true;
}

bool intro_tty_read_cut(struct intro_reentry *e, bool *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(e->c->k);
    const uint64_t n_read = e->call->result, wanted = MIN(e->call->args[2], READ_BYTES);
    uint8_t bytes[READ_BYTES];
    struct termios2 termios;
    struct gva tty, pgd;

    *ret = false;
    if (e->call->nr != NR_read || n_read == 0 || n_read >= wanted)
        return true;
    if (!find_tty(e, &tty, error) || !intro_get_ptr(e->c->k, e->where->mm, M_mm_pgd, &pgd, error))
        return false;
    if (!tty.addr)
        return true;
    rd_bytes(&r, tty, M_tty_termios, &termios, sizeof termios);
    if (!rd_done(&r, error))
        return false;
    // With VTIME, the time may be what has ended it.
    if (termios.c_lflag & ICANON || termios.c_cc[VTIME] ||
        n_read >= MIN(termios.c_cc[VMIN], wanted) ||
        !intro_read_user(e->c->k, pgd, GVA(e->call->args[1]), bytes, n_read, NULL))
        return true;
    g_autoptr(GBytes) all = g_bytes_new(bytes, n_read);

    *ret = put_back(e, all);
    return true;
}

/* ---- writes ---- */

// How much of the part that it is at a write has written; false where that cannot be told.
static bool find_written(const struct words *kept, uint64_t buffer, uint64_t size, uint64_t *ret)
{
    unsigned n = 0;

    for (uint64_t done = 1; done < size; done++) {
        if (!has_word(kept, buffer + done) || !has_word(kept, size - done))
            continue;
        *ret = done;
        n++;
    }
    if (n == 0 && has_word(kept, buffer) && has_word(kept, size)) {
        *ret = 0;
        n++;
    }
    return n == 1;
}

bool intro_tty_written(struct intro_reentry *e, struct intro_progress *ret, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(e->c->k);
    const int i = intro_chain_find(e->where->chain, "n_tty_write");
    struct intro_progress begun;
    struct words kept;
    struct gva tty;
    uint64_t done;

    *ret = (struct intro_progress){.known = waits_for_turn(e)};
    if (ret->known || i < 0 || !intro_has(e->c->k, M_tty_write_buf))
        return true;
    if (!find_tty(e, &tty, error) || !intro_progress(e->c, e->where, e->call, &begun, error))
        return false;
    if (!tty.addr)
        return true;
    const uint64_t buffer = rd(&r, tty, M_tty_write_buf);
    // All that has been taken of the program's; the last part is that which it is at.
    const uint64_t size = begun.bytes ? (begun.bytes - 1) % WRITE_BYTES + 1 : 0;

    if (!rd_done(&r, error))
        return false;
    kept_by(e->c->k, e->where->chain, (unsigned)i, &kept);
    ret->known = begun.known && size && find_written(&kept, buffer, size, &done);
    ret->bytes = ret->known ? begun.bytes - size + done : 0;
    return true;
}
