// SPDX-License-Identifier: GPL-2.0-or-later
// Threads that wait for a terminal in the middle of a read or a write: for more than one byte
// (VMIN), for a time (VTIME), for room, for their turn.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "subject.h"

static pid_t own_tid(void)
{
    return (pid_t)syscall(SYS_gettid);
}

// A pair whose slave is raw; *ret_slave blocks, the master does not.
static int open_pair(int min, int time, tcflag_t output, int *ret_slave)
{
    const int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    struct termios t;

    MUST(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    MUST((*ret_slave = open(ptsname(master), O_RDWR | O_NOCTTY)) >= 0);
    MUST(tcgetattr(*ret_slave, &t) == 0);
    cfmakeraw(&t);
    t.c_cc[VMIN] = (cc_t)min;
    t.c_cc[VTIME] = (cc_t)time;
    t.c_oflag |= output;
    MUST(tcsetattr(*ret_slave, TCSANOW, &t) == 0);
    return master;
}

/* ---- reads ---- */

// A thread that reads at once what comes in part before the move and in part after it.
static struct reader {
    const char *name, *early, *late;
    int min, time;
    bool second; // another one waits for its turn
    int master, slave;
    pid_t tid, second_tid;
    bool done;
    unsigned read; // of two: letters, a bit each
    ssize_t n_read;
    pthread_t thread, other;
} readers[] = {
    {.name = "VMIN 5 with 2", .early = "ab", .late = "cde", .min = 5},
    {.name = "VMIN 5 with none", .early = "", .late = "fghij", .min = 5},
    {.name = "VMIN 9 with 8", .early = "klmnopqr", .late = "s", .min = 9},
    {.name = "VMIN 200 with 63",
     .early = "123456789012345678901234567890123456789012345678901234567890123",
     .late = "4",
     .min = 200},
    {.name = "VMIN 3 and VTIME", .early = "", .late = "tuv", .min = 3, .time = 200},
    {.name = "VMIN 3 with 1, two readers", .early = "w", .late = "xyabc", .min = 3, .second = true},
    {.name = "VTIME, in time", .early = "", .late = "z", .min = 0, .time = 255},
};
#define N_READERS (sizeof readers / sizeof readers[0])

// Of two, nobody knows who reads what; both end with the terminal.
static void *share(void *arg)
{
    struct reader *r = arg;
    pid_t *const tid = r->tid ? &r->second_tid : &r->tid;
    char text[8];
    ssize_t n;

    __atomic_store_n(tid, own_tid(), __ATOMIC_SEQ_CST);
    while ((n = read(r->slave, text, sizeof text)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            __atomic_or_fetch(&r->read, 1u << (text[i] - 'a'), __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&r->n_read, n, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

// A tick less: the kernel counts these in jiffies.
static bool is_over(uint64_t begin, int tenths)
{
    return subject_now(CLOCK_MONOTONIC) - begin + 10 * NS_PER_MS >=
           (uint64_t)tenths * 100 * NS_PER_MS;
}

static void *read_all(void *arg)
{
    struct reader *r = arg;
    char want[128], text[128] = "";

    snprintf(want, sizeof want, "%s%s", r->early, r->late);
    __atomic_store_n(&r->tid, own_tid(), __ATOMIC_SEQ_CST);
    ssize_t n;
    uint64_t begin;
    // VMIN 0 waits again when its time is over, and no sooner.
    do {
        begin = subject_now(CLOCK_MONOTONIC);
        n = read(r->slave, text, sizeof text - 1);
    } while (n == 0 && r->min == 0 && is_over(begin, r->time));
    CHECK(n == (ssize_t)strlen(want), "%s: %zd: %m, %s", r->name, n, text);
    CHECK(strcmp(text, want) == 0, "%s: has read %s", r->name, text);
    __atomic_store_n(&r->done, true, __ATOMIC_SEQ_CST);
    return NULL;
}

static int waiting(int fd)
{
    int n = -1;

    MUST(ioctl(fd, FIONREAD, &n) == 0);
    return n;
}

static void type(const struct reader *r, const char *text)
{
    MUST(write(r->master, text, strlen(text)) == (ssize_t)strlen(text));
}

static void make_reader(struct reader *r)
{
    r->master = open_pair(r->min, r->time, 0, &r->slave);
    MUST(pthread_create(&r->thread, NULL, r->second ? share : read_all, r) == 0);
    AWAIT(__atomic_load_n(&r->tid, __ATOMIC_SEQ_CST), "%s does not begin", r->name);
    subject_await_call(r->tid, SYS_read);
    if (r->second) {
        MUST(pthread_create(&r->other, NULL, share, r) == 0);
        AWAIT(__atomic_load_n(&r->second_tid, __ATOMIC_SEQ_CST), "%s does not begin", r->name);
        subject_await_call(r->second_tid, SYS_read);
    }
    type(r, r->early);
    AWAIT(waiting(r->slave) == 0, "%s does not take what is typed", r->name);
    subject_await_call(r->tid, SYS_read);
}

static void check_two(struct reader *r)
{
    const ssize_t n = (ssize_t)(strlen(r->early) + strlen(r->late));
    unsigned want = 0;

    for (const char *c = r->early; *c; c++)
        want |= 1u << (*c - 'a');
    for (const char *c = r->late; *c; c++)
        want |= 1u << (*c - 'a');
    type(r, r->late);
    AWAIT(__atomic_load_n(&r->n_read, __ATOMIC_SEQ_CST) == n, "%s: have read %zd", r->name,
          r->n_read);
    close(r->master); // and hangs up
    pthread_join(r->thread, NULL);
    pthread_join(r->other, NULL);
    CHECK(r->read == want && r->n_read == n, "%s: have read %#x", r->name, r->read);
    close(r->slave);
}

static void check_reader(struct reader *r)
{
    CHECK(!__atomic_load_n(&r->done, __ATOMIC_SEQ_CST), "%s: is over too early", r->name);
    AWAIT(waiting(r->slave) == 0, "%s: %d bytes that nobody takes", r->name, waiting(r->slave));
    if (r->second) {
        check_two(r);
        return;
    }
    type(r, r->late);
    pthread_join(r->thread, NULL);
    close(r->slave);
    close(r->master);
}

/* ---- a read that ends by its time ---- */

#define TIME_DS 20 // tenths of a second

static struct {
    int master, slave;
    uint64_t begin;
    pid_t tid;
    pthread_t thread;
} timed;

static void *read_timed(void *arg)
{
    char c;

    __atomic_store_n(&timed.begin, subject_now(CLOCK_MONOTONIC), __ATOMIC_SEQ_CST);
    __atomic_store_n(&timed.tid, own_tid(), __ATOMIC_SEQ_CST);
    const ssize_t n = read(timed.slave, &c, 1);

    CHECK(n == 0 && is_over(timed.begin, TIME_DS), "VTIME: %zd: %m, too early", n);
    return NULL;
}

/* ---- writes ---- */

#define QUIET 20 // failures in a row, 5 ms each

// A thread that writes to a slave whose master nobody reads.
static struct writer {
    const char *name;
    size_t bytes; // after it is full
    tcflag_t output;
    bool second; // another one waits for its turn
    int master, slave;
    size_t before; // what fills it
    pid_t tid;
    pthread_t thread, other;
} writers[] = {
    {.name = "a short write", .bytes = 100},
    {.name = "a write in parts", .bytes = 9000, .second = true},
    {.name = "a write of lines", .bytes = 1500, .output = OPOST | ONLCR},
};
#define N_WRITERS (sizeof writers / sizeof writers[0])

static char byte_at(size_t n)
{
    return n % 7 == 6 ? '\n' : (char)('a' + n % 23);
}

static void *write_all(void *arg)
{
    struct writer *w = arg;
    char *bytes = malloc(w->bytes);

    for (size_t i = 0; i < w->bytes; i++)
        bytes[i] = byte_at(w->before + i);
    __atomic_store_n(&w->tid, own_tid(), __ATOMIC_SEQ_CST);
    for (size_t n = 0; n < w->bytes;) {
        const ssize_t part = write(w->slave, bytes + n, w->bytes - n);
        CHECK(part > 0, "%s: %zd after %zu: %m", w->name, part, n);
        n += (size_t)part;
    }
    free(bytes);
    return NULL;
}

static void *write_last(void *arg)
{
    const struct writer *w = arg;

    MUST(write(w->slave, "#", 1) == 1);
    return NULL;
}

static void make_writer(struct writer *w)
{
    char bytes[64];

    w->master = open_pair(1, 0, w->output, &w->slave);
    const int filler = open(ptsname(w->master), O_WRONLY | O_NOCTTY | O_NONBLOCK);

    MUST(filler >= 0);
    // Until it stays full: the kernel passes on in the background what it can.
    for (unsigned quiet = 0; quiet < QUIET;) {
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = byte_at(w->before + i);
        const ssize_t part = write(filler, bytes, sizeof bytes);
        MUST(part > 0 || errno == EAGAIN);
        w->before += part > 0 ? (size_t)part : 0;
        quiet = part > 0 ? 0 : quiet + 1;
        if (part < 0)
            subject_sleep_ms(5);
    }
    close(filler);
    MUST(pthread_create(&w->thread, NULL, write_all, w) == 0);
    AWAIT(__atomic_load_n(&w->tid, __ATOMIC_SEQ_CST), "%s does not begin", w->name);
    subject_await_call(w->tid, SYS_write);
    if (w->second)
        MUST(pthread_create(&w->other, NULL, write_last, w) == 0);
}

// The next byte that the master has to read.
static char next_byte(const struct writer *w)
{
    static char text[4096];
    static ssize_t n, at;
    static const struct writer *of;

    if (of != w || at == n) {
        CHECK(of == w || at == n, "%s has written more than it should", of ? of->name : "nobody");
        of = w;
        at = 0;
        AWAIT((n = read(w->master, text, sizeof text)) > 0, "%s: nothing to read: %m", w->name);
    }
    return text[at++];
}

// A second writer comes in between two calls of the first, or after it.
static void check_writer(struct writer *w)
{
    const size_t total = w->before + w->bytes;
    bool last = false;

    // It may be over: how much a terminal has room for depends on the pieces that it came in.
    for (size_t i = 0; i < total + (w->second && !last); i++) {
        char c = next_byte(w);
        if (w->second && !last && c == '#') {
            last = true;
            if (i == total)
                break;
            c = next_byte(w);
        }
        if (w->output && byte_at(i) == '\n') {
            CHECK(c == '\r', "%s: byte %zu is %02x, not CR", w->name, i, c);
            c = next_byte(w);
        }
        CHECK(c == byte_at(i), "%s: byte %zu of %zu is %02x, not %02x", w->name, i, total, c,
              byte_at(i));
    }
    pthread_join(w->thread, NULL);
    if (w->second)
        pthread_join(w->other, NULL);
    CHECK(!w->second || last, "%s: the second is lost", w->name);
}

int main(int argc, char **argv)
{
    subject_begin(argc, argv);
    for (size_t i = 0; i < N_WRITERS; i++)
        make_writer(&writers[i]);
    for (size_t i = 0; i < N_READERS; i++)
        make_reader(&readers[i]);
    timed.master = open_pair(0, TIME_DS, 0, &timed.slave);
    MUST(pthread_create(&timed.thread, NULL, read_timed, NULL) == 0);
    AWAIT(__atomic_load_n(&timed.tid, __ATOMIC_SEQ_CST), "VTIME does not begin");
    subject_ready();
    if (subject.sabotage)
        type(&readers[0], "!");
    while (!subject_asked())
        subject_sleep_ms(5);
    for (size_t i = 0; i < N_READERS; i++)
        check_reader(&readers[i]);
    for (size_t i = 0; i < N_WRITERS; i++)
        check_writer(&writers[i]);
    pthread_join(timed.thread, NULL);
    subject_pass();
}
