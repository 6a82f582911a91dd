// SPDX-License-Identifier: GPL-2.0-or-later
// Pipes of several kinds with data in flight; what comes out must be what went in.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "subject.h"

// A stream whose byte n is known. Between two steps it holds between `least` and `most` bytes.
struct stream {
    int capacity; // 0: as it comes
    unsigned least, most;
    int ends[2];
    uint64_t written, read;
};

static struct stream streams[] = {
    {.least = 1, .most = 100},
    {.least = 4000, .most = 20000},
    {.least = 30000, .most = 65536},
    {.capacity = 1 << 20, .least = 100000, .most = 900000},
    {.capacity = 4096, .least = 1, .most = 4096},
};
#define N_STREAMS (sizeof streams / sizeof streams[0])

static uint8_t buffer[1 << 20];
static uint64_t seed = 1;

static uint8_t byte_at(uint64_t n)
{
    return (uint8_t)(subject_mix(n / 8) >> (n % 8 * 8));
}

static void put(struct stream *s, size_t bytes)
{
    ssize_t done;

    for (size_t i = 0; i < bytes; i++)
        buffer[i] = byte_at(s->written + i);
    done = write(s->ends[1], buffer, bytes);
    // Pages that are only partly used count in full: a pipe may be full early.
    CHECK(done >= 0 || errno == EAGAIN, "write: %m");
    s->written += done > 0 ? (uint64_t)done : 0;
}

static void get(struct stream *s, size_t bytes)
{
    ssize_t done = read(s->ends[0], buffer, bytes);

    CHECK(done == (ssize_t)bytes, "%zd bytes out of a pipe, %zu expected: %m", done, bytes);
    for (size_t i = 0; i < bytes; i++)
        CHECK(buffer[i] == byte_at(s->read + i), "byte %" PRIu64 " of a pipe is %02x", s->read + i,
              buffer[i]);
    s->read += bytes;
}

static void check_stream(struct stream *s)
{
    int there;

    MUST(ioctl(s->ends[0], FIONREAD, &there) == 0);
    CHECK((uint64_t)there == s->written - s->read, "%d bytes in a pipe, %" PRIu64 " expected",
          there, s->written - s->read);
    CHECK(!s->capacity || fcntl(s->ends[0], F_GETPIPE_SZ) == s->capacity, "capacity is %d, not %d",
          fcntl(s->ends[0], F_GETPIPE_SZ), s->capacity);
    CHECK(fcntl(s->ends[0], F_GETFL) == O_RDONLY, "flags of a read end are %x",
          fcntl(s->ends[0], F_GETFL));
    CHECK(fcntl(s->ends[1], F_GETFL) == (O_WRONLY | O_NONBLOCK), "flags of a write end are %x",
          fcntl(s->ends[1], F_GETFL));
    CHECK(fcntl(s->ends[1], F_GETFD) == FD_CLOEXEC && fcntl(s->ends[0], F_GETFD) == 0,
          "close-on-exec is another");
}

static void open_stream(struct stream *s)
{
    MUST(pipe(s->ends) == 0);
    MUST(fcntl(s->ends[1], F_SETFL, O_NONBLOCK) == 0);
    MUST(fcntl(s->ends[1], F_SETFD, FD_CLOEXEC) == 0);
    MUST(!s->capacity || fcntl(s->ends[1], F_SETPIPE_SZ, s->capacity) == s->capacity);
    while (s->written < s->least) {
        put(s, s->least);
        MUST(s->written > 0);
    }
}

static void step(struct stream *s)
{
    const uint64_t there = s->written - s->read;

    check_stream(s);
    if (there > s->least)
        get(s, 1 + subject_random(&seed) % (there - s->least));
    put(s, 1 + subject_random(&seed) % (s->most - (s->written - s->read) + 1));
}

// Packet mode: each read gives one write, whatever the sizes. Three packets are always inside.
static int packets[2];
static uint64_t packets_in, packets_out;

static size_t packet_size(uint64_t n)
{
    static const size_t sizes[] = {1, 100, 4096, 17, 4095};

    return sizes[n % 5];
}

static void put_packet(void)
{
    const size_t bytes = packet_size(packets_in);

    memset(buffer, (int)(packets_in & 0xff), bytes);
    MUST(write(packets[1], buffer, bytes) == (ssize_t)bytes);
    packets_in++;
}

static void get_packet(void)
{
    const ssize_t bytes = read(packets[0], buffer, 8192);

    CHECK(bytes == (ssize_t)packet_size(packets_out), "packet %" PRIu64 " has %zd bytes",
          packets_out, bytes);
    for (ssize_t i = 0; i < bytes; i++)
        CHECK(buffer[i] == (packets_out & 0xff), "packet %" PRIu64 " is damaged", packets_out);
    packets_out++;
}

// FIFOs, which the other machine does not have: one with data, and one that two have open.
static int fifo, fifo_ends[2];

static void open_fifos(void)
{
    MUST(mkfifo("fifo", 0) == 0 && chmod("fifo", 0620) == 0);
    MUST(chown("fifo", 8, 9) == 0);
    MUST((fifo = open("fifo", O_RDWR | O_NONBLOCK)) >= 0);
    MUST(write(fifo, "in a FIFO", 9) == 9);
    MUST(mkfifo("ends", 0600) == 0);
    MUST((fifo_ends[0] = open("ends", O_RDONLY | O_NONBLOCK)) >= 0);
    MUST((fifo_ends[1] = open("ends", O_WRONLY)) >= 0);
}

static void check_fifos(void)
{
    struct stat by_name, by_fd;
    char text[16] = "";

    MUST(stat("fifo", &by_name) == 0 && fstat(fifo, &by_fd) == 0);
    CHECK(by_name.st_ino == by_fd.st_ino && by_name.st_mode == (S_IFIFO | 0620) &&
              by_name.st_uid == 8 && by_name.st_gid == 9,
          "the FIFO has mode %o, owner %d", by_name.st_mode, (int)by_name.st_uid);
    CHECK(read(fifo, text, sizeof text) == 9 && strcmp(text, "in a FIFO") == 0, "the FIFO holds %s",
          text);
    MUST(write(fifo_ends[1], text, 9) == 9);
    CHECK(read(fifo_ends[0], text, sizeof text) == 9, "the ends of a FIFO do not meet");
    MUST(close(fifo_ends[0]) == 0);
    CHECK(write(fifo_ends[1], "", 1) < 0 && errno == EPIPE, "a FIFO still has a reader: %m");
}

// Pipes all of whose buffers are in use, though not all of their room.
static int thousands[2], spliced[2], mixed[2];

static void fill_early(void)
{
    char record[1000], page[4096];
    unsigned n = 0;
    loff_t at = 0;
    int file;

    memset(record, 'r', sizeof record);
    memset(page, 'p', sizeof page);
    MUST(pipe2(thousands, O_NONBLOCK) == 0 && pipe2(spliced, O_NONBLOCK) == 0);
    while (write(thousands[1], record, sizeof record) == sizeof record)
        n++;
    MUST(n == 64 && errno == EAGAIN && read(thousands[0], page, 10) == 10);

    MUST((file = open("spliced", O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0);
    MUST(write(file, "0123456789abcdef", 16) == 16);
    for (n = 0; n < 16; n++)
        MUST(splice(file, &at, spliced[1], NULL, 1, 0) == 1);
    MUST(write(spliced[1], "x", 1) < 0 && errno == EAGAIN && close(file) == 0);

    MUST(pipe2(mixed, O_NONBLOCK) == 0 && write(mixed[1], page, 4096) == 4096);
    MUST(fcntl(mixed[1], F_SETFL, O_NONBLOCK | O_DIRECT) == 0 && write(mixed[1], "one", 3) == 3);
    MUST(write(mixed[1], "two", 3) == 3 && fcntl(mixed[1], F_SETFL, O_NONBLOCK) == 0);
    MUST(write(mixed[1], "more", 4) == 4);
}

static void check_early(void)
{
    char text[8192] = "";

    CHECK(write(thousands[1], text, 97) < 0 && errno == EAGAIN, "a full pipe takes something");
    CHECK(write(thousands[1], text, 96) == 96, "a page with room takes nothing: %m");
    CHECK(write(thousands[1], text, 1) < 0 && errno == EAGAIN, "a full pipe takes something");
    // What is left of the first page makes room where it is read.
    CHECK(read(thousands[0], text, 3989) == 3989 && text[0] == 'r' && text[3988] == 'r',
          "thousands");
    CHECK(write(thousands[1], text, 1) < 0 && errno == EAGAIN, "a page that is not read has room");
    CHECK(read(thousands[0], text, 1) == 1 && write(thousands[1], text, 4096) == 4096,
          "a page that is read has no room: %m");

    CHECK(write(spliced[1], "x", 1) < 0 && errno == EAGAIN, "a pipe full of files takes something");
    CHECK(read(spliced[0], text, sizeof text) == 16 && memcmp(text, "0123456789abcdef", 16) == 0,
          "what was spliced");

    CHECK(read(mixed[0], text, sizeof text) == 4099 && memcmp(text + 4095, "pone", 4) == 0,
          "mixed");
    CHECK(read(mixed[0], text, sizeof text) == 3 && memcmp(text, "two", 3) == 0, "a packet");
    CHECK(read(mixed[0], text, sizeof text) == 4 && memcmp(text, "more", 4) == 0, "a stream");
}

// A reader that has yet to see a writer.
static int unwritten;

static void check_unwritten(void)
{
    struct pollfd p = {unwritten, POLLIN, 0};
    char byte;
    int writer;

    CHECK(poll(&p, 1, 0) == 0, "a FIFO that nobody has opened for writing: events %x", p.revents);
    MUST((writer = open("unwritten", O_WRONLY)) >= 0 && write(writer, "w", 1) == 1);
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN, "a FIFO with a byte: events %x", p.revents);
    MUST(read(unwritten, &byte, 1) == 1 && byte == 'w' && close(writer) == 0);
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLHUP, "a FIFO that was closed: events %x",
          p.revents);
}

// A reader and a writer that wait in threads of their own, until the end.
static int empty[2], full[2];
static char waited_for[6] = "none";

static void *read_empty(void *arg)
{
    const ssize_t bytes = read(empty[0], waited_for, sizeof waited_for);

    CHECK(bytes == 6 && memcmp(waited_for, "hello", 6) == 0, "the waiting reader got %zd bytes: %m",
          bytes);
    return arg;
}

static void *write_full(void *arg)
{
    const ssize_t bytes = write(full[1], "the one that waits", 18);

    CHECK(bytes == 18, "the waiting writer wrote %zd bytes: %m", bytes);
    return arg;
}

static void finish_waiters(pthread_t reader, pthread_t writer)
{
    size_t total = 0;
    ssize_t bytes;

    CHECK(strcmp(waited_for, "none") == 0, "the reader did not wait");
    MUST(write(empty[1], "hello", 6) == 6);
    pthread_join(reader, NULL);
    while (total < 65536 && (bytes = read(full[0], buffer + total, 65536 - total)) > 0)
        total += (size_t)bytes;
    CHECK(total == 65536, "%zu bytes out of the full pipe", total);
    for (size_t i = 0; i < total; i++)
        CHECK(buffer[i] == 'f', "byte %zu of the full pipe is %02x", i, buffer[i]);
    pthread_join(writer, NULL);
    bytes = read(full[0], buffer, sizeof buffer);
    CHECK(bytes == 18 && memcmp(buffer, "the one that waits", 18) == 0,
          "the waiting writer's bytes are not there");
}

int main(int argc, char **argv)
{
    pthread_t reader, writer;
    int half[2];
    char rest[8];

    subject_begin(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    MUST(chdir(subject.workdir) == 0);
    for (size_t i = 0; i < N_STREAMS; i++)
        open_stream(&streams[i]);
    MUST(pipe2(packets, O_DIRECT) == 0);
    for (unsigned i = 0; i < 3; i++)
        put_packet();
    MUST(pipe(half) == 0 && write(half[1], "ended", 5) == 5 && close(half[1]) == 0);
    MUST(pipe(empty) == 0 && pipe(full) == 0);
    memset(buffer, 'f', 65536);
    MUST(write(full[1], buffer, 65536) == 65536);
    open_fifos();
    fill_early();
    MUST(mkfifo("unwritten", 0600) == 0);
    MUST((unwritten = open("unwritten", O_RDONLY | O_NONBLOCK)) >= 0);
    MUST(pthread_create(&reader, NULL, read_empty, NULL) == 0);
    MUST(pthread_create(&writer, NULL, write_full, NULL) == 0);
    subject_sleep_ms(50);
    subject_ready();
    if (subject.sabotage)
        streams[3].read++;
    do {
        for (size_t i = 0; i < N_STREAMS; i++)
            step(&streams[i]);
        get_packet();
        put_packet();
    } while (!subject_asked());
    for (size_t i = 0; i < N_STREAMS; i++) {
        while (streams[i].read < streams[i].written) {
            const uint64_t left = streams[i].written - streams[i].read;

            get(&streams[i], left < sizeof buffer ? left : sizeof buffer);
        }
        close(streams[i].ends[1]);
        CHECK(read(streams[i].ends[0], buffer, 1) == 0, "a pipe without writers has no end: %m");
    }
    CHECK(read(half[0], rest, sizeof rest) == 5 && memcmp(rest, "ended", 5) == 0 &&
              read(half[0], rest, sizeof rest) == 0,
          "the pipe that lost its writer is not as it was");
    finish_waiters(reader, writer);
    check_fifos();
    check_early();
    check_unwritten();
    subject_pass();
}
