// SPDX-License-Identifier: GPL-2.0-or-later
// What two vmgrafts on two hosts say to each other over ssh: some streams, and the few words
// around.
#include "cli/remote_pump.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADER_BYTES  8u
#define MAX_PAYLOAD   (64u << 10)
#define ALIVE_NS      (3 * 1000000000ll)
#define LOST_NS       (15 * 1000000000ll)
#define SILENCE       "nothing has come for 15 s"
#define MAX_WAITING   (1u << 20) // for a slow reader, before the rest has to wait with it
#define CAREFUL_BYTES 4096u // what a pipe takes without blocking when poll says that it is ready

struct stream {
    int from, to;
    GByteArray *waiting; // for `to`
    bool ended;          // nothing more comes for `to`
    bool to_failed;      // its reader has gone
};

struct CliPump {
    int in, out;
    GByteArray *heard, *queued;
    int64_t heard_ns, said_ns;
    struct stream streams[CLI_PUMP_STREAMS];
};

CliPump *cli_pump_new(int in, int out)
{
    CliPump *p = g_new0(CliPump, 1);

    p->in = in;
    p->out = out;
    fcntl(in, F_SETFL, fcntl(in, F_GETFL) | O_NONBLOCK);
    fcntl(out, F_SETFL, fcntl(out, F_GETFL) | O_NONBLOCK);
    p->heard = g_byte_array_new();
    p->queued = g_byte_array_new();
    p->heard_ns = p->said_ns = cli_now_ns();
    for (size_t i = 0; i < CLI_PUMP_STREAMS; i++)
        p->streams[i] = (struct stream){-1, -1, g_byte_array_new(), false, false};
    return p;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void cli_pump_free(CliPump *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < CLI_PUMP_STREAMS; i++) {
        close_fd(&p->streams[i].from);
        close_fd(&p->streams[i].to);
        g_byte_array_unref(p->streams[i].waiting);
    }
    close_fd(&p->in);
    close_fd(&p->out);
    g_byte_array_unref(p->heard);
    g_byte_array_unref(p->queued);
    g_free(p);
}

static void queue(CliPump *p, enum cli_pump_kind kind, unsigned stream, const void *payload,
                  size_t len)
{
    const uint32_t length = GUINT32_TO_LE((uint32_t)len);
    uint8_t header[HEADER_BYTES] = {(uint8_t)kind, (uint8_t)stream};

    memcpy(header + 4, &length, sizeof(length));
    g_byte_array_append(p->queued, header, sizeof(header));
    if (len > 0)
        g_byte_array_append(p->queued, payload, (guint)len);
    p->said_ns = cli_now_ns();
}

void cli_pump_say(CliPump *p, enum cli_pump_kind kind, const void *payload, size_t len)
{
    g_return_if_fail(len <= MAX_PAYLOAD);
    queue(p, kind, 0, payload, len);
}

void cli_pump_connect(CliPump *p, unsigned stream, int from, int to)
{
    p->streams[stream].from = from;
    p->streams[stream].to = to;
    if (from < 0)
        queue(p, CLI_PUMP_END, stream, NULL, 0);
}

static bool lose(GError **error, const char *why)
{
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "the connection is lost: %s", why);
    return false;
}

/* ---- this side ---- */

static bool is_ready(int fd)
{
    struct pollfd one = {fd, POLLIN, 0};

    return fd >= 0 && poll(&one, 1, 0) == 1;
}

// What this side has for the other.
static void take(CliPump *p, unsigned i)
{
    struct stream *s = &p->streams[i];
    uint8_t bytes[MAX_PAYLOAD];
    ssize_t n = read(s->from, bytes, sizeof(bytes));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        queue(p, CLI_PUMP_DATA, i, bytes, (size_t)n);
        return;
    }
    queue(p, CLI_PUMP_END, i, NULL, 0);
    close_fd(&s->from);
}

static void end_reader(struct stream *s)
{
    if (s->to >= 0)
        shutdown(s->to, SHUT_WR); // of a socket: it may be read from all the same
    close_fd(&s->to);
}

static bool has_space(int fd)
{
    struct pollfd one = {fd, POLLOUT, 0};

    return poll(&one, 1, 0) == 1 && one.revents & POLLOUT;
}

// The reader's descriptor may be shared with others, so that it is left as it is: no O_NONBLOCK.
static void give(struct stream *s)
{
    size_t at = 0, len = s->waiting->len;
    ssize_t n;

    do {
        n = send(s->to, s->waiting->data + at, len - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == ENOTSOCK)
            n = write(s->to, s->waiting->data + at, MIN(len - at, CAREFUL_BYTES));
        at += (size_t)MAX(n, 0);
    } while (n > 0 && at < len && has_space(s->to));
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        s->to_failed = true;
        at = len;
        end_reader(s);
    }
    if (at > 0)
        g_byte_array_remove_range(s->waiting, 0, (guint)at);
}

/* ---- the other side ---- */

static bool hear(CliPump *p, GError **error)
{
    uint8_t bytes[2 * MAX_PAYLOAD];
    ssize_t n = read(p->in, bytes, sizeof(bytes));

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0)
        return lose(error, n == 0 ? "the other end has hung up" : g_strerror(errno));
    g_byte_array_append(p->heard, bytes, (guint)n);
    p->heard_ns = cli_now_ns();
    return true;
}

static bool send_queued(CliPump *p, GError **error)
{
    ssize_t n = write(p->out, p->queued->data, p->queued->len);

    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return lose(error, g_strerror(errno));
    if (n > 0)
        g_byte_array_remove_range(p->queued, 0, (guint)n);
    return true;
}

// Takes the frames that are complete, up to the first that is no matter of streams.
static bool sort(CliPump *p, struct cli_pump_word *ret, GError **error)
{
    size_t at = 0;
    bool ok = true;

    while (ok && ret->kind == CLI_PUMP_ALIVE && p->heard->len - at >= HEADER_BYTES) {
        const uint8_t *frame = p->heard->data + at;
        struct stream *s = &p->streams[frame[1] % CLI_PUMP_STREAMS];
        uint32_t len;

        memcpy(&len, frame + 4, sizeof(len));
        len = GUINT32_FROM_LE(len);
        if (frame[0] >= CLI_PUMP_N_KINDS || frame[1] >= CLI_PUMP_STREAMS || len > MAX_PAYLOAD) {
            ok = lose(error, "what comes makes no sense");
            break;
        }
        if (p->heard->len - at < HEADER_BYTES + len)
            break;
        at += HEADER_BYTES + len;
        if (frame[0] == CLI_PUMP_END) {
            s->ended = true;
        } else if (frame[0] == CLI_PUMP_DATA) {
            if (s->to >= 0)
                g_byte_array_append(s->waiting, frame + HEADER_BYTES, len);
        } else if (frame[0] != CLI_PUMP_ALIVE) {
            *ret = (struct cli_pump_word){frame[0], g_bytes_new(frame + HEADER_BYTES, len)};
        }
    }
    if (at > 0)
        g_byte_array_remove_range(p->heard, 0, (guint)at);
    return ok;
}

static bool has_room(const CliPump *p)
{
    for (size_t i = 0; i < CLI_PUMP_STREAMS; i++)
        if (p->streams[i].waiting->len >= MAX_WAITING)
            return false;
    return true;
}

// p->in, p->out, other, then from and to of each stream.
enum { AT_IN, AT_OUT, AT_OTHER, AT_STREAMS, N_POLLS = AT_STREAMS + 2 * CLI_PUMP_STREAMS };

static bool wait_for_any(CliPump *p, int other_fd, int wait_ms, struct pollfd *fds, GError **error)
{
    const bool room = has_room(p);
    const int64_t now = cli_now_ns();

    if (now - p->said_ns >= ALIVE_NS)
        queue(p, CLI_PUMP_ALIVE, 0, NULL, 0);
    // Who does not listen cannot say that it was silent.
    if (!room)
        p->heard_ns = now;
    else if (now - p->heard_ns >= LOST_NS && !is_ready(p->in))
        return lose(error, SILENCE);
    fds[AT_IN] = (struct pollfd){room ? p->in : -1, POLLIN, 0};
    fds[AT_OUT] = (struct pollfd){p->queued->len ? p->out : -1, POLLOUT, 0};
    fds[AT_OTHER] = (struct pollfd){other_fd, POLLIN, 0};
    for (size_t i = 0; i < CLI_PUMP_STREAMS; i++) {
        const struct stream *s = &p->streams[i];

        fds[AT_STREAMS + 2 * i] =
            (struct pollfd){p->queued->len < MAX_WAITING ? s->from : -1, POLLIN, 0};
        fds[AT_STREAMS + 2 * i + 1] = (struct pollfd){s->waiting->len ? s->to : -1, POLLOUT, 0};
    }
    if (poll(fds, N_POLLS, MIN(wait_ms, (int)(ALIVE_NS / 1000000))) < 0 && errno != EINTR)
        return lose(error, g_strerror(errno));
    return true;
}

bool cli_pump_step(CliPump *p, int other_fd, int wait_ms, struct cli_pump_word *ret, GError **error)
{
    struct pollfd fds[N_POLLS] = {0};

    *ret = (struct cli_pump_word){CLI_PUMP_ALIVE, NULL};
    if (!sort(p, ret, error))
        return false;
    if (ret->kind != CLI_PUMP_ALIVE)
        return true;
    if (!wait_for_any(p, other_fd, wait_ms, fds, error) ||
        (fds[AT_OUT].revents && !send_queued(p, error)))
        return false;
    for (unsigned i = 0; i < CLI_PUMP_STREAMS; i++) {
        if (fds[AT_STREAMS + 2 * i].revents)
            take(p, i);
        if (fds[AT_STREAMS + 2 * i + 1].revents)
            give(&p->streams[i]);
        if (p->streams[i].ended && p->streams[i].waiting->len == 0)
            end_reader(&p->streams[i]);
    }
    return !fds[AT_IN].revents || (hear(p, error) && sort(p, ret, error));
}

bool cli_pump_drain(CliPump *p, GError **error)
{
    bool ok = true;

    for (size_t i = 0; i < CLI_PUMP_STREAMS; i++) {
        struct stream *s = &p->streams[i];

        while (s->waiting->len > 0) {
            struct pollfd one = {s->to, POLLOUT, 0};

            poll(&one, 1, -1);
            give(s);
        }
        ok = ok && !s->to_failed;
    }
    if (!ok)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "what came from there could not all be written here");
    return ok;
}

bool cli_pump_flush(CliPump *p, GError **error)
{
    for (unsigned i = 0; i < CLI_PUMP_STREAMS; i++)
        while (is_ready(p->streams[i].from))
            take(p, i);
    while (p->queued->len > 0) {
        struct pollfd fds[2] = {{p->in, POLLIN, 0}, {p->out, POLLOUT, 0}};

        poll(fds, 2, (int)(ALIVE_NS / 1000000));
        if ((fds[0].revents && !hear(p, error)) || (fds[1].revents && !send_queued(p, error)))
            return false;
        g_byte_array_set_size(p->heard, 0); // whatever it is, it comes too late
        if (cli_now_ns() - p->heard_ns >= LOST_NS)
            return lose(error, SILENCE);
    }
    return true;
}
