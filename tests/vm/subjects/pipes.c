// SPDX-License-Identifier: GPL-2.0-or-later
// Pipes of several kinds with data in flight; what comes out must be what went in.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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
    subject_pass();
}
