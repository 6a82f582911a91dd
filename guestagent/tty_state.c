// SPDX-License-Identifier: GPL-2.0-or-later
// The state of a pseudo terminal: settings, and what is under way in it.
//
// Nothing of it can be set but the settings. What has been typed is typed again, past the line
// discipline's rules: with settings under which each byte gets into the buffer as it is and lines
// end where they did (TIOCSTI, which waits until the line discipline is through). Output goes into
// the master's buffer in the same way; what no longer fits there, and what was typed too much, is
// written. The final settings then say what all that means.
//
// Packet mode tells the master what happens to the slave. It is switched on when nothing happens
// any more, but for the events that it is to tell of: these are brought about.

#include <asm/termbits.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guestagent/tty.h"

#define RING_BYTES  4096
#define FLIP_BYTES  16384 // what can wait for a line discipline: the limit is 8192, counted half
#define CHUNK_BYTES 256   // in which the kernel gives that out; what exceeds the limit comes last
#define MAX_PENDING (1 << 16)

// How pending echoes are kept (drivers/tty/n_tty.c).
#define ECHO_OP        0xff
#define ECHO_SET_CANON 0x81
#define ECHO_BACK      0x80
#define ECHO_TAB       0x82

#define CTRL_Q 0x11
#define CTRL_S 0x13

enum { FLUSHES = TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE, STOPS = TIOCPKT_STOP | TIOCPKT_START };

struct state {
    const struct agent_tty *t;
    const struct fmt_tty *rec;
    struct termios2 final, feed;
    uint8_t quote, eof; // characters under `feed`
};

static const uint8_t *bytes_of(GBytes *bytes, size_t *ret_len)
{
    *ret_len = 0;
    return bytes ? g_bytes_get_data(bytes, ret_len) : NULL;
}

static bool set(const struct state *s, const struct termios2 *termios, GError **error)
{
    return ioctl(s->t->slave, TCSETS2, termios) == 0 || agent_fail_errno(error, "TCSETS2");
}

// A byte into the line discipline of that side.
static bool put(int fd, uint8_t byte, GError **error)
{
    return ioctl(fd, TIOCSTI, &byte) == 0 || agent_fail_errno(error, "TIOCSTI");
}

// All that can be read; afterwards nothing is on its way.
static bool drain(int fd, GError **error)
{
    uint8_t bytes[RING_BYTES];
    ssize_t n;

    while ((n = read(fd, bytes, sizeof bytes)) > 0)
        ;
    return (n < 0 && errno == EAGAIN) || agent_fail_errno(error, "emptying a terminal");
}

static bool is_canonical(const struct state *s)
{
    return s->final.c_lflag & ICANON && !(s->final.c_lflag & EXTPROC);
}

static bool is_stopped(const struct state *s)
{
    return s->rec->state & (FMT_TTY_STOPPED | FMT_TTY_TCO_STOPPED);
}

/* ---- the column of the cursor ---- */

// Only the distance to tab stops matters, and whether there is one to the left.
static size_t near(uint64_t column)
{
    return column < 256 ? column : 256 + column % 8;
}

static bool set_columns(const struct state *s, GError **error)
{
    const size_t canon = near(s->rec->canon_column), column = near(s->rec->column);
    const size_t way = column > canon ? column - canon : canon - column;
    struct termios2 plain = s->feed;
    char text[1024];

    if (!canon && !column)
        return true;
    text[0] = '\r';
    memset(text + 1, 'x', canon);
    text[1 + canon] = '\n';
    memset(text + 2 + canon, column > canon ? 'x' : '\b', way);
    plain.c_oflag = OPOST;
    if (!set(s, &plain, error))
        return false;
    if (write(s->t->slave, text, 2 + canon + way) < 0)
        return agent_fail_errno(error, "column");
    return drain(s->t->master, error);
}

/* ---- what has been written ---- */

// In pieces that use up as little room as they can until that is over; the last takes the rest.
static bool write_all(int fd, const uint8_t *data, size_t len, GError **error)
{
    for (size_t done = 0; done < len;) {
        const size_t piece = done < FLIP_BYTES ? MIN(len - done, CHUNK_BYTES) : len - done;
        const ssize_t n = write(fd, data + done, piece);

        if (n <= 0)
            return agent_fail_errno(error, "%zu bytes that are under way", len - done);
        done += (size_t)n;
    }
    return true;
}

static bool feed_output(const struct state *s, GError **error)
{
    size_t len;
    const uint8_t *output = bytes_of(s->rec->output, &len);
    const size_t in_ring = MIN(len, RING_BYTES - 1);

    for (size_t i = 0; i < in_ring; i++)
        if (!put(s->t->master, output[i], error))
            return false;
    return len == in_ring || write_all(s->t->slave, output + in_ring, len - in_ring, error);
}

/* ---- what is to be echoed ---- */

struct echo {
    const struct state *s;
    struct termios2 termios;
    bool fresh; // the next character begins a line
};

static bool echo_mode(struct echo *e, tcflag_t lflag, GError **error)
{
    if (e->termios.c_lflag == lflag)
        return true;
    e->termios.c_lflag = lflag;
    return set(e->s, &e->termios, error);
}

// Such that the line discipline takes the next one for the first of a line, or not.
static bool begin_line(struct echo *e, bool fresh, GError **error)
{
    if (!echo_mode(e, 0, error) || !drain(e->s->t->slave, error) || !echo_mode(e, ICANON, error) ||
        !echo_mode(e, 0, error))
        return false;
    return fresh || put(e->s->t->slave, 'x', error);
}

static bool feed_echo(const struct state *s, GError **error)
{
    struct echo e = {s, s->feed, false};
    size_t len;
    const uint8_t *echo = bytes_of(s->rec->echo, &len);

    if (!len)
        return true;
    if (!set(s, &e.termios, error) || !begin_line(&e, false, error))
        return false;
    for (size_t i = 0; i < len; i++) {
        const bool op = echo[i] == ECHO_OP && i + 1 < len;

        if (op && echo[i + 1] == ECHO_SET_CANON) {
            if (!begin_line(&e, true, error))
                return false;
            i++;
            continue;
        }
        i += op;
        // A control character after ECHO_OP is shown as ^X.
        if (!echo_mode(&e, ECHO | (op && echo[i] != ECHO_OP ? ECHOCTL : 0), error) ||
            !put(s->t->slave, echo[i], error))
            return false;
    }
    return echo_mode(&e, 0, error) && drain(s->t->slave, error);
}

// Erasing is shown by what only erasing brings about.
static bool can_echo(const struct fmt_tty *rec, const struct termios2 *termios)
{
    size_t len;
    const uint8_t *echo = bytes_of(rec->echo, &len);

    if (len && termios->c_lflag & EXTPROC)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (echo[i] && (echo[i] == termios->c_cc[VSTART] || echo[i] == termios->c_cc[VSTOP]))
            return false;
        if (echo[i] != ECHO_OP)
            continue;
        if (++i >= len || echo[i] == ECHO_BACK || echo[i] == ECHO_TAB)
            return false;
    }
    return true;
}

/* ---- what has been typed ---- */

static bool is_special(const struct state *s, uint8_t c)
{
    return c && (c == '\n' || c == s->quote || c == s->eof || c == s->feed.c_cc[VEOL] ||
                 c == s->feed.c_cc[VSTART] || c == s->feed.c_cc[VSTOP]);
}

// The end of a line: a new line, an end of file (a NUL in the buffer), or any other character.
static bool feed_end(struct state *s, uint8_t c, GError **error)
{
    if (c && c != '\n' && c != s->feed.c_cc[VEOL]) {
        s->feed.c_cc[VEOL] = c;
        if (!set(s, &s->feed, error))
            return false;
    }
    return put(s->t->slave, c ? c : s->eof, error);
}

static bool feed_input(struct state *s, GError **error)
{
    size_t len, n_marks;
    const uint8_t *input = bytes_of(s->rec->input, &len);
    const uint8_t *marks = bytes_of(s->rec->marks, &n_marks);
    const bool quotes = s->feed.c_lflag & ICANON && !(s->feed.c_lflag & EXTPROC);

    for (size_t i = 0; i < len; i++) {
        const bool ends = i < n_marks && marks[i];

        if (ends ? !feed_end(s, input[i], error)
                 : (quotes && is_special(s, input[i]) && !put(s->t->slave, s->quote, error)) ||
                       !put(s->t->slave, input[i], error))
            return false;
    }
    return !(s->rec->state & FMT_TTY_QUOTING) || !is_canonical(s) ||
           put(s->t->slave, s->quote, error);
}

/* ---- flow and packet mode ---- */

static bool flow(int fd, unsigned long what, GError **error)
{
    return ioctl(fd, TCXONC, what) == 0 || agent_fail_errno(error, "TCXONC");
}

static bool stop(struct state *s, GError **error)
{
    if (s->rec->state & FMT_TTY_TCO_STOPPED)
        return flow(s->t->slave, TCOOFF, error);
    return put(s->t->slave, s->feed.c_cc[VSTOP], error);
}

static bool flush(int fd, unsigned long what, GError **error)
{
    return ioctl(fd, TCFLSH, what) == 0 || agent_fail_errno(error, "TCFLSH");
}

static bool packet_on(const struct state *s, GError **error)
{
    const int on = 1;

    return ioctl(s->t->master, TIOCPKT, &on) == 0 || agent_fail_errno(error, "TIOCPKT");
}

// What packet mode takes for flow control by ^S and ^Q.
static bool is_flow(const struct termios2 *t)
{
    return t->c_iflag & IXON && t->c_cc[VSTART] == CTRL_Q && t->c_cc[VSTOP] == CTRL_S;
}

// Events that the master has yet to be told of, in packet mode.
static bool cause_events(const struct state *s, GError **error)
{
    const uint64_t status = s->rec->packet_status;
    struct termios2 other = s->feed;

    if (status & TIOCPKT_IOCTL) {
        other.c_lflag |= EXTPROC;
        if (!set(s, &other, error) || !set(s, &s->feed, error))
            return false;
    }
    if (status & (TIOCPKT_NOSTOP | TIOCPKT_DOSTOP)) {
        other = s->feed;
        other.c_iflag = is_flow(&other) ? other.c_iflag & ~(tcflag_t)IXON : other.c_iflag | IXON;
        other.c_cc[VSTART] = CTRL_Q;
        other.c_cc[VSTOP] = CTRL_S;
        if (!set(s, &other, error) || !set(s, &s->feed, error))
            return false;
    }
    if (status & TIOCPKT_START &&
        (!flow(s->t->slave, TCOOFF, error) || !flow(s->t->slave, TCOON, error)))
        return false;
    return (!(status & TIOCPKT_FLUSHREAD) || flush(s->t->slave, TCIFLUSH, error)) &&
           (!(status & TIOCPKT_FLUSHWRITE) || flush(s->t->slave, TCOFLUSH, error));
}

// Flushes are told of without anything being lost only while nothing is there.
static bool are_events_first(const struct fmt_tty *rec)
{
    return rec->state & FMT_TTY_PACKET && rec->packet_status & ~(uint64_t)TIOCPKT_STOP;
}

static bool feed_flow(struct state *s, GError **error)
{
    const bool packet = s->rec->state & FMT_TTY_PACKET, early = are_events_first(s->rec);
    const bool told = packet && !(s->rec->packet_status & TIOCPKT_STOP);

    if (early && (!packet_on(s, error) || !cause_events(s, error)))
        return false;
    if (!feed_output(s, error))
        return false;
    if (is_stopped(s) && told && !stop(s, error))
        return false;
    if (packet && !early && !packet_on(s, error))
        return false;
    return !is_stopped(s) || told || stop(s, error);
}

/* ---- all of it ---- */

// Characters that are none of those that have a meaning already.
static uint8_t spare_char(const struct state *s, uint8_t not )
{
    uint8_t c = 1;

    while (c == '\n' || c == not || c == s->feed.c_cc[VSTART] || c == s->feed.c_cc[VSTOP])
        c++;
    return c;
}

static void make_feed(struct state *s)
{
    const bool flows = is_stopped(s) || s->rec->state & FMT_TTY_PACKET;

    s->feed = s->final;
    if (s->final.c_lflag & EXTPROC) {
        // Takes everything as it is.
        s->feed.c_iflag &= ~(tcflag_t)(ISTRIP | IUCLC | PARMRK);
        if (s->rec->output && g_bytes_get_size(s->rec->output) >= RING_BYTES)
            s->feed.c_oflag = 0;
        return;
    }
    s->feed.c_iflag = flows ? s->final.c_iflag & IXON : 0;
    s->feed.c_oflag = 0;
    s->feed.c_lflag = ICANON | IEXTEN;
    memset(s->feed.c_cc, 0, sizeof s->feed.c_cc);
    s->feed.c_cc[VMIN] = 1; // VEOF is another place
    if (s->feed.c_iflag & IXON) {
        s->feed.c_cc[VSTART] = s->final.c_cc[VSTART];
        s->feed.c_cc[VSTOP] = s->final.c_cc[VSTOP];
        if (!s->feed.c_cc[VSTOP] && is_stopped(s))
            s->feed.c_cc[VSTOP] = 0x14; // it was changed since; no ^S, which packet mode tells of
    }
    s->quote = s->feed.c_cc[VLNEXT] = spare_char(s, 0);
    s->eof = s->feed.c_cc[VEOF] = spare_char(s, s->quote);
}

static bool is_long(GBytes *bytes, size_t size)
{
    return bytes && g_bytes_get_size(bytes) > size;
}

static bool is_size(GBytes *bytes, size_t size)
{
    return bytes && g_bytes_get_size(bytes) == size;
}

bool agent_tty_state_plan(const struct fmt_tty *rec, const char **ret_why)
{
    const struct termios2 *termios = NULL;
    const bool stopped = rec->state & (FMT_TTY_STOPPED | FMT_TTY_TCO_STOPPED);

    *ret_why = "the image contradicts itself";
    if (!is_size(rec->termios, sizeof *termios) || !is_size(rec->locked, sizeof *termios) ||
        !is_size(rec->window, sizeof(struct winsize)) || is_long(rec->input, RING_BYTES) ||
        is_long(rec->marks, rec->input ? g_bytes_get_size(rec->input) : 0) ||
        is_long(rec->typed, MAX_PENDING) || is_long(rec->output, MAX_PENDING) ||
        is_long(rec->echo, RING_BYTES))
        return false;
    termios = g_bytes_get_data(rec->termios, NULL);
    if (rec->state & FMT_TTY_STOPPED && !(rec->state & FMT_TTY_TCO_STOPPED) &&
        (!(termios->c_iflag & IXON) || termios->c_lflag & EXTPROC))
        return false;
    *ret_why = "what it is to tell of in packet mode cannot be brought about";
    if (are_events_first(rec) && stopped && !(rec->packet_status & TIOCPKT_STOP))
        return false;
    *ret_why = "the echo of what is erased, which waits for output to go on, cannot be made again";
    return can_echo(rec, termios);
}

static bool set_lock(const struct state *s, GError **error)
{
    static const struct termios2 none;
    const struct termios2 *locked = g_bytes_get_data(s->rec->locked, NULL);
    struct termios old = {0};

    if (memcmp(locked, &none, sizeof none) == 0)
        return true;
    memcpy(&old, locked, sizeof old); // the same but for speeds at the end
    return ioctl(s->t->slave, TIOCSLCKTRMIOS, &old) == 0 ||
           agent_fail_errno(error, "TIOCSLCKTRMIOS");
}

bool agent_tty_state(const struct agent_tty *t, GError **error)
{
    struct state s = {.t = t, .rec = t->rec};
    size_t n_typed;
    const uint8_t *typed = bytes_of(t->rec->typed, &n_typed);

    memcpy(&s.final, g_bytes_get_data(t->rec->termios, NULL), sizeof s.final);
    make_feed(&s);
    if (ioctl(t->slave, TIOCSWINSZ, g_bytes_get_data(t->rec->window, NULL)) < 0)
        return agent_fail_errno(error, "TIOCSWINSZ");
    if (!set_columns(&s, error) || !set(&s, &s.feed, error) || !feed_flow(&s, error) ||
        !feed_echo(&s, error) || !set(&s, &s.feed, error) || !feed_input(&s, error))
        return false;
    if (memcmp(&s.feed, &s.final, sizeof s.final) != 0 && !set(&s, &s.final, error))
        return false;
    return write_all(t->master, typed, n_typed, error) && set_lock(&s, error);
}
