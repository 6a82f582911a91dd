// SPDX-License-Identifier: GPL-2.0-or-later
// Pseudo terminals in every state: settings, lines and bytes under way, echo, flow, packet mode.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "subject.h"

#define MIN(a, b) ((a) < (b) ? (a) : (b))

#define MANY 9000 // more than a ring of 4096 takes

struct pty {
    int master, slave; // -1: none
    int number;
    struct termios termios;
    struct winsize window;
    struct stat stat;
    char name[64];
};

static struct pty plain, lines, bytes, full, stopped, tabs, packets, events, loud, mixed, quoting,
    closed, unopened, hung, external, typed_full, busy, waited;
static int second; // another descriptor of `plain`

/* ---- making and looking ---- */

static struct pty make(void)
{
    struct pty p = {.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), .slave = -1};

    MUST(p.master >= 0);
    MUST(unlockpt(p.master) == 0);
    MUST(ptsname_r(p.master, p.name, sizeof p.name) == 0);
    MUST(ioctl(p.master, TIOCGPTN, &p.number) == 0);
    return p;
}

static void open_slave(struct pty *p)
{
    p->slave = open(p->name, O_RDWR | O_NOCTTY);
    MUST(p->slave >= 0);
}

static void set_raw(struct pty *p, cc_t min)
{
    struct termios t;

    MUST(tcgetattr(p->slave, &t) == 0);
    cfmakeraw(&t);
    t.c_cc[VMIN] = min;
    MUST(tcsetattr(p->slave, TCSANOW, &t) == 0);
}

static void change(struct pty *p, tcflag_t iflag, tcflag_t oflag, tcflag_t lflag, bool on)
{
    struct termios t;

    MUST(tcgetattr(p->slave, &t) == 0);
    t.c_iflag = on ? t.c_iflag | iflag : t.c_iflag & ~iflag;
    t.c_oflag = on ? t.c_oflag | oflag : t.c_oflag & ~oflag;
    t.c_lflag = on ? t.c_lflag | lflag : t.c_lflag & ~lflag;
    MUST(tcsetattr(p->slave, TCSANOW, &t) == 0);
}

static void say(int fd, const char *text)
{
    MUST(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void remember(struct pty *p)
{
    MUST(tcgetattr(p->master, &p->termios) == 0);
    MUST(ioctl(p->master, TIOCGWINSZ, &p->window) == 0);
    if (p->slave >= 0)
        MUST(fstat(p->slave, &p->stat) == 0);
}

static void check_same(const struct pty *p, const char *what)
{
    char name[64] = "", link[64] = "", path[64];
    struct termios t = {0};
    struct winsize w;
    struct stat st;
    int number = -1;

    MUST(tcgetattr(p->master, &t) == 0);
    CHECK(memcmp(&t, &p->termios, sizeof t) == 0, "%s: settings %x %x %x %x are %x %x %x %x", what,
          p->termios.c_iflag, p->termios.c_oflag, p->termios.c_cflag, p->termios.c_lflag, t.c_iflag,
          t.c_oflag, t.c_cflag, t.c_lflag);
    MUST(ioctl(p->master, TIOCGWINSZ, &w) == 0);
    CHECK(memcmp(&w, &p->window, sizeof w) == 0, "%s: window of %d x %d", what, w.ws_row, w.ws_col);
    MUST(ioctl(p->master, TIOCGPTN, &number) == 0);
    CHECK(number == p->number, "%s: number %d", what, number);
    CHECK(ptsname_r(p->master, name, sizeof name) == 0 && strcmp(name, p->name) == 0, "%s: %s: %m",
          what, name);
    if (p->slave < 0)
        return;
    CHECK(isatty(p->slave) && ttyname_r(p->slave, name, sizeof name) == 0 &&
              strcmp(name, p->name) == 0,
          "%s: slave %s: %m", what, name);
    snprintf(path, sizeof path, "/proc/self/fd/%d", p->slave);
    CHECK(readlink(path, link, sizeof link - 1) > 0 && strcmp(link, p->name) == 0,
          "%s: /proc shows %s", what, link);
    MUST(fstat(p->slave, &st) == 0);
    CHECK(st.st_rdev == p->stat.st_rdev && st.st_mode == p->stat.st_mode &&
              st.st_uid == p->stat.st_uid && st.st_gid == p->stat.st_gid,
          "%s: device %u:%u mode %o uid %u gid %u", what, major(st.st_rdev), minor(st.st_rdev),
          st.st_mode, st.st_uid, st.st_gid);
}

static int events_of(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLPRI};

    MUST(poll(&p, 1, 0) >= 0);
    return p.revents;
}

static int waiting(int fd)
{
    int n = -1;

    events_of(fd); // waits for the kernel's worker where nothing has come yet
    MUST(ioctl(fd, FIONREAD, &n) == 0);
    return n;
}

// The next read gives exactly this; NULL: nothing is there.
static void expect(int fd, const char *text, size_t len, const char *what)
{
    char got[MANY + 4096];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    const bool ready = poll(&p, 1, 0) == 1 && p.revents & POLLIN;

    CHECK(ready == (text != NULL), "%s: %s to be read (%x)", what, ready ? "something" : "nothing",
          p.revents);
    if (!text)
        return;
    const ssize_t n = read(fd, got, sizeof got);

    CHECK(n == (ssize_t)len && memcmp(got, text, len) == 0,
          "%s: read %zd bytes '%.*s', not %zu '%.*s': %m", what, n, n > 0 ? (int)MIN(n, 40) : 0,
          got, len, (int)MIN(len, 40), text);
}

static void expect_text(int fd, const char *text, const char *what)
{
    expect(fd, text, text ? strlen(text) : 0, what);
}

// Output comes by a worker of the kernel, maybe in pieces.
static void await_input(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    CHECK(poll(&p, 1, PATIENCE_MS) == 1, "nothing comes");
}

// The same in as many reads as it takes.
static void gather(int fd, const char *text, const char *what)
{
    const size_t len = strlen(text);
    char got[256];
    size_t n = 0;

    while (n < len) {
        await_input(fd);
        const ssize_t more = read(fd, got + n, len - n);

        CHECK(more > 0, "%s: %m", what);
        n += (size_t)more;
    }
    CHECK(n == len && memcmp(got, text, n) == 0, "%s: read '%.*s', not '%s'", what, (int)n, got,
          text);
}

// So many bytes of a pattern, in as many reads as it takes.
static void expect_pattern(int fd, size_t from, size_t len, const char *what)
{
    unsigned char got[4096];

    while (len > 0) {
        const ssize_t n = read(fd, got, MIN(sizeof got, len));

        CHECK(n > 0, "%s: %zu bytes are missing: %m", what, len);
        for (ssize_t i = 0; i < n; i++, from++, len--)
            CHECK(got[i] == 'a' + from % 23, "%s: byte %zu is %x", what, from, got[i]);
    }
}

// Writes the pattern until there is no more room.
static size_t fill(int fd)
{
    size_t n = 0;

    MUST(fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) == 0);
    // Full is what stays so.
    for (int tries = 0; tries < 40; tries++) {
        for (;; n++, tries = 0) {
            const char c = (char)('a' + n % 23);
            const ssize_t done = write(fd, &c, 1);

            if (done < 0)
                break;
        }
        subject_sleep_ms(5); // the kernel's worker moves it on
    }
    MUST(fcntl(fd, F_SETFL, O_RDWR) == 0);
    return n;
}

static size_t n_full, n_typed;

/* ---- states ---- */

static void set_plain(void)
{
    const struct winsize window = {43, 132, 800, 600};
    struct termios t;

    plain = make();
    open_slave(&plain);
    second = open(plain.name, O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    MUST(second >= 0 && fchmod(plain.slave, 0620) == 0 && fchown(plain.slave, 1000, 5) == 0);
    MUST(ioctl(plain.master, TIOCSWINSZ, &window) == 0);
    MUST(tcgetattr(plain.slave, &t) == 0);
    cfsetspeed(&t, B115200);
    t.c_cc[VINTR] = 0x1d;
    t.c_cc[VEOL] = ';';
    t.c_lflag |= TOSTOP | ECHONL;
    t.c_iflag |= IUTF8 | IXANY;
    MUST(tcsetattr(plain.slave, TCSANOW, &t) == 0);
    MUST(ioctl(plain.slave, TIOCEXCL) == 0);
}

static void check_plain(void)
{
    int exclusive = 0;

    CHECK(fcntl(second, F_GETFL) == (O_RDONLY | O_NONBLOCK | 0100000) &&
              fcntl(second, F_GETFD) == FD_CLOEXEC,
          "flags of the second descriptor are %o", fcntl(second, F_GETFL));
    CHECK(ioctl(plain.slave, TIOCGEXCL, &exclusive) == 0 && exclusive, "not exclusive: %m");
    say(plain.master, "a;b");
    expect_text(plain.slave, "a;", "ended by another character");
    expect_text(plain.slave, NULL, "half a line");
    say(plain.master, "\n");
    expect_text(second, "b\n", "by the second descriptor");
    gather(plain.master, "a;b\r\n", "echo");
}

static void set_lines(void)
{
    char got[4];

    lines = make();
    open_slave(&lines);
    // A line that is read in part, whole ones, an end of file, one that ends without a new line.
    say(lines.master,
        "first line\nsecond\n\x04half\x04\x16\nquoted\x16\x04\x16\x16\nunfinished x\x7f");
    await_input(lines.slave);
    MUST(read(lines.slave, got, 4) == 4);
}

static void check_lines(void)
{
    CHECK(waiting(lines.slave) == 28, "%d bytes wait", waiting(lines.slave));
    expect_text(lines.slave, "t line\n", "rest of a line");
    expect_text(lines.slave, "second\n", "whole line");
    expect(lines.slave, "", 0, "end of file");
    expect_text(lines.slave, "half", "line without its end");
    expect_text(lines.slave, "\nquoted\x04\x16\n", "quoted characters");
    expect_text(lines.slave, NULL, "unfinished line");
    say(lines.master, "y\x7fok\n");
    expect_text(lines.slave, "unfinished ok\n", "line that was finished later");
}

static void set_bytes(void)
{
    bytes = make();
    open_slave(&bytes);
    set_raw(&bytes, 1);
    MUST(write(bytes.master, "raw\0\x03\x04\n\r\x11\x13\x16\xff", 12) == 12);
    await_input(bytes.slave);
    MUST(write(bytes.slave, "out\0\n\xff", 6) == 6);
}

static void check_bytes(void)
{
    CHECK(waiting(bytes.slave) == 12 && waiting(bytes.master) == 6, "%d and %d bytes wait",
          waiting(bytes.slave), waiting(bytes.master));
    expect(bytes.slave, "raw\0\x03\x04\n\r\x11\x13\x16\xff", 12, "raw bytes");
    expect(bytes.master, "out\0\n\xff", 6, "raw output");
}

static void set_full(void)
{
    full = make();
    open_slave(&full);
    set_raw(&full, 1);
    n_full = fill(full.slave);
    typed_full = make();
    open_slave(&typed_full);
    set_raw(&typed_full, 1);
    n_typed = fill(typed_full.master);
    MUST(n_full > 4096 && n_typed > 4096);
}

static void check_full(void)
{
    CHECK(!(events_of(full.slave) & POLLOUT), "there is room in a full terminal");
    expect_pattern(full.master, 0, n_full, "full output");
    expect_text(full.master, NULL, "after all output");
    expect_pattern(typed_full.slave, 0, n_typed, "full input");
    expect_text(typed_full.slave, NULL, "after all input");
}

static void set_stopped(void)
{
    stopped = make();
    open_slave(&stopped);
    say(stopped.slave, "before");
    say(stopped.master, "\x13"
                        "abc\x01");
    while (events_of(stopped.slave) & POLLOUT)
        subject_sleep_ms(1);
    subject_sleep_ms(5);
    loud = make();
    open_slave(&loud);
    MUST(tcflow(loud.slave, TCOOFF) == 0);
}

static void check_stopped(void)
{
    CHECK(!(events_of(stopped.slave) & POLLOUT), "output is not stopped");
    expect_text(stopped.master, "before", "what came before the stop");
    expect_text(stopped.master, NULL, "what is stopped");
    say(stopped.master, "\x11");
    gather(stopped.master, "abc^A", "echo that waited");
    say(stopped.master, "\n");
    expect_text(stopped.slave, "abc\x01\n", "what was typed meanwhile");
    // By tcflow: no character starts it again.
    say(loud.master, "\x11");
    subject_sleep_ms(1);
    CHECK(!(events_of(loud.slave) & POLLOUT), "a character has started what tcflow stopped");
    MUST(tcflow(loud.slave, TCOON) == 0);
    CHECK(events_of(loud.slave) & POLLOUT, "tcflow does not start it");
}

static void set_tabs(void)
{
    tabs = make();
    open_slave(&tabs);
    change(&tabs, 0, XTABS, ECHO, true);
    say(tabs.slave, "12345");
}

static void check_tabs(void)
{
    expect_text(tabs.master, "12345", "text");
    say(tabs.slave, "\tx"); // in two pieces
    gather(tabs.master, "   x", "a tab in column 5");
}

static void set_packets(void)
{
    const int on = 1;

    packets = make();
    open_slave(&packets);
    MUST(ioctl(packets.master, TIOCPKT, &on) == 0);
    say(packets.slave, "data");
    events = make();
    open_slave(&events);
    MUST(ioctl(events.master, TIOCPKT, &on) == 0);
    change(&events, IXON, 0, 0, false);
    MUST(tcflush(events.slave, TCIOFLUSH) == 0);
    say(events.slave, "later");
}

static void check_packets(void)
{
    int on = 0;
    const char told = TIOCPKT_NOSTOP | TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE;

    CHECK(ioctl(packets.master, TIOCGPKT, &on) == 0 && on, "packet mode is off: %m");
    CHECK(!(events_of(packets.master) & POLLPRI), "an event that there was not");
    expect(packets.master, "\0data", 5, "packet");
    MUST(tcflow(packets.slave, TCOOFF) == 0);
    expect(packets.master, "\x04", 1, "stop"); // TIOCPKT_STOP
    CHECK(events_of(events.master) & POLLPRI, "no event");
    expect(events.master, &told, 1, "events");
    expect(events.master, "\0later", 6, "packet after events");
}

static void set_mixed(void)
{
    mixed = make();
    open_slave(&mixed);
    set_raw(&mixed, 1);
    say(mixed.master, "raw then lin");
    await_input(mixed.slave);
    change(&mixed, ICRNL, 0, ICANON, true);
    say(mixed.master, "es\r");
    quoting = make();
    open_slave(&quoting);
    say(quoting.master, "q\x16");
    external = make();
    open_slave(&external);
    change(&external, 0, 0, EXTPROC, true);
    say(external.master, "ext\x04\x03");
}

static void check_mixed(void)
{
    expect_text(mixed.slave, "raw then lin", "what had no end of line");
    expect_text(mixed.slave, "es\n", "line behind it");
    say(quoting.master, "\x03\n");
    expect_text(quoting.slave, "q\x03\n", "quoted after the move");
    expect_text(external.slave, "ext\x04\x03", "line discipline that is elsewhere");
}

static void set_ends(void)
{
    closed = make();
    open_slave(&closed);
    say(closed.slave, "last words");
    close(closed.slave);
    closed.slave = -1;
    unopened = make();
    MUST(ioctl(unopened.master, TIOCSPTLCK, &(int){1}) == 0);
    say(unopened.master, "for later\n");
    hung = make();
    open_slave(&hung);
    MUST(fstat(hung.slave, &hung.stat) == 0);
    close(hung.master);
}

static void check_ends(void)
{
    char c;
    int locked = 0;

    CHECK(events_of(closed.master) & POLLHUP, "the slave is not closed");
    expect_text(closed.master, "last words", "of a closed slave");
    CHECK(read(closed.master, &c, 1) < 0 && errno == EIO, "a closed slave gives %m");
    CHECK(!(events_of(unopened.master) & POLLHUP), "a slave that was never open is closed");
    CHECK(ioctl(unopened.master, TIOCGPTLCK, &locked) == 0 && locked, "not locked: %m");
    CHECK(open(unopened.name, O_RDWR | O_NOCTTY) < 0 && errno == EIO, "a locked slave opens: %m");
    MUST(unlockpt(unopened.master) == 0);
    open_slave(&unopened);
    expect_text(unopened.slave, "for later\n", "typed before the slave was open");
    CHECK(events_of(hung.slave) & POLLHUP, "not hung up");
    CHECK(read(hung.slave, &c, 1) == 0, "a terminal that was hung up is read: %m");
    CHECK(write(hung.slave, &c, 1) < 0 && errno == EIO, "... is written: %m");
    CHECK(!isatty(hung.slave), "a terminal that was hung up is one");
    struct stat st;
    MUST(fstat(hung.slave, &st) == 0);
    CHECK(st.st_rdev == hung.stat.st_rdev && st.st_mode == hung.stat.st_mode, "it was %lx, mode %o",
          st.st_rdev, st.st_mode);
}

/* ---- who waits ---- */

static void *read_line(void *arg)
{
    char got[64];
    const ssize_t n = read(waited.slave, got, sizeof got);

    CHECK(n == 5 && memcmp(got, "line\n", 5) == 0, "who waited for a line got %zd bytes: %m", n);
    return arg;
}

static void *read_master(void *arg)
{
    struct pollfd p = {.fd = waited.master, .events = POLLIN};
    char got[64];

    CHECK(poll(&p, 1, -1) == 1 && p.revents & POLLIN, "poll of a master: %x", p.revents);
    const ssize_t n = read(waited.master, got, sizeof got);
    CHECK(n == 6 && memcmp(got, "answer", 6) == 0, "who waited for output got %zd bytes: %m", n);
    return arg;
}

// Each round a line goes there and back.
static void work(unsigned n)
{
    char text[32], echo[40];

    snprintf(text, sizeof text, "round %u\n", n);
    say(busy.master, text);
    expect_text(busy.slave, text, "round");
    snprintf(echo, sizeof echo, "round %u\r\nanswer", n);
    say(busy.slave, "answer");
    gather(busy.master, echo, "answer");
}

static const struct {
    struct pty *pty;
    const char *name;
} all[] = {
    {&plain, "plain"},     {&lines, "lines"},      {&bytes, "bytes"},           {&full, "full"},
    {&stopped, "stopped"}, {&tabs, "tabs"},        {&packets, "packets"},       {&events, "events"},
    {&loud, "tcflow"},     {&mixed, "mixed"},      {&quoting, "quoting"},       {&closed, "closed"},
    {&busy, "busy"},       {&external, "extproc"}, {&typed_full, "full input"}, {&waited, "waited"},
};
#define N_ALL (sizeof all / sizeof all[0])

int main(int argc, char **argv)
{
    pthread_t reader, poller;

    subject_begin(argc, argv);
    // Numbers below theirs are free: there is a gap.
    const struct pty gap = make();
    set_plain();
    set_lines();
    set_bytes();
    set_full();
    set_stopped();
    set_tabs();
    set_packets();
    set_mixed();
    set_ends();
    busy = make();
    open_slave(&busy);
    waited = make();
    open_slave(&waited);
    change(&waited, 0, 0, ECHO, false);
    close(gap.master);
    for (size_t i = 0; i < N_ALL; i++)
        remember(all[i].pty);
    MUST(pthread_create(&reader, NULL, read_line, NULL) == 0);
    MUST(pthread_create(&poller, NULL, read_master, NULL) == 0);
    work(0);
    subject_ready();
    if (subject.sabotage)
        MUST(tcflush(lines.slave, TCIFLUSH) == 0);
    for (unsigned n = 1; !subject_asked(); n++) {
        for (size_t i = 0; i < N_ALL; i++)
            check_same(all[i].pty, all[i].name);
        work(n);
        subject_sleep_ms(1);
    }
    check_plain();
    check_lines();
    check_bytes();
    check_full();
    check_stopped();
    check_tabs();
    check_packets();
    check_mixed();
    check_ends();
    say(waited.master, "line\n");
    MUST(pthread_join(reader, NULL) == 0);
    say(waited.slave, "answer");
    MUST(pthread_join(poller, NULL) == 0);
    subject_pass();
}
