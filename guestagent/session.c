// SPDX-License-Identifier: GPL-2.0-or-later
// The agent's loop: answers hosts, starts workers, passes messages between the two.
#include "guestagent/session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guestagent/channel.h"
#include "guestagent/version.h"
#include "guestagent/worker.h"

/*
 * Three descriptors: signals, the port, the worker's socket. Nothing in here blocks.
 *
 * When the host goes away, what it had sent is still read and obeyed first: a RELEASE that is in
 * the ring counts. Only at end of file the session is over and its worker told to undo its job. Not
 * at once: a port learns by another queue than its data that hosts come and go, so it can be at its
 * end while the HELLO of a host has been read already.
 * A session that begins meanwhile is answered when that is done.
 *
 * No limit here is measured in time, but for giving a worker up that does not end: the guest may be
 * paused at any place for any time.
 */
#define TICK_MS            1000
#define LOOK_FOR_PORT_MS   250
#define WORKER_BACKLOG     (1u << 20) // queued for the worker: stop reading the port
#define WORKER_CLOSING_MAX 20         // ticks until a worker that does not end is killed
#define HUNG_UP_TICKS      2          // ticks without a host that end a session
#define READS_PER_LOOP     256

// QEMU fills buffers of 4 KiB, and interrupts for each that the guest was waiting for. In the
// middle of an image it pays to let it fill some more first.
#define STREAM_NAP_US 1000

struct session {
    const struct agent_session_options *options;
    int signal_fd;
    int port_fd;         // -1: not there (yet)
    bool port_is_socket; // closed for good when the host goes away
    bool hung_up;        // no host is connected, as far as the port knows
    unsigned hung_up_ticks;
    AgentWire *port;
    bool open;        // a HELLO was taken
    bool hello_waits; // ... and will be answered when the last session's worker has ended
    bool streaming;   // the last message was DATA: more is on its way
    bool turned_away; // its job was, for what is held: what it says besides is not for that
    AgentWorker *worker;
    int64_t last_sent_ms, last_tick_ms;
    bool stop;
};

static void say(const struct session *s, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void say(const struct session *s, const char *format, ...)
{
    va_list args;

    if (!s->options->verbose)
        return;
    va_start(args, format);
    fputs("vmgraft-agent: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void send_json(struct session *s, enum agent_message type, struct json_object *take)
{
    agent_wire_queue_json(s->port, type, take);
    s->last_sent_ms = now_ms();
}

static void send_failed(struct session *s, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void send_failed(struct session *s, const char *format, ...)
{
    struct json_object *obj = json_object_new_object();
    va_list args;

    va_start(args, format);
    g_autofree char *message = g_strdup_vprintf(format, args);
    va_end(args);
    say(s, "%s", message);
    json_object_object_add(obj, "message", json_object_new_string(message));
    send_json(s, AGENT_FAILED, obj);
}

static void send_hello_ack(struct session *s)
{
    static const char *const capabilities[] = {"restore", "freeze", "hold"};
    struct json_object *obj = json_object_new_object(), *list = json_object_new_array();
    struct utsname uts;

    uname(&uts);
    for (size_t i = 0; i < G_N_ELEMENTS(capabilities); i++)
        json_object_array_add(list, json_object_new_string(capabilities[i]));
    json_object_object_add(obj, "protocol", json_object_new_int(AGENT_PROTOCOL));
    json_object_object_add(obj, "version", json_object_new_string(AGENT_VERSION));
    json_object_object_add(obj, "agent_pid", json_object_new_int(getpid()));
    json_object_object_add(obj, "release", json_object_new_string(uts.release));
    json_object_object_add(obj, "machine", json_object_new_string(uts.machine));
    json_object_object_add(obj, "hostname", json_object_new_string(uts.nodename));
    json_object_object_add(obj, "capabilities", list);
    if (s->worker && s->worker->held)
        json_object_object_add(obj, "held", json_object_new_string(s->worker->note));
    send_json(s, AGENT_HELLO_ACK, obj);
    s->hello_waits = false;
}

static void end_session(struct session *s)
{
    if (s->open)
        say(s, "session %016" G_GINT64_MODIFIER "x is over", agent_wire_session(s->port));
    s->open = s->hello_waits = false;
    if (s->worker && !s->worker->held)
        agent_worker_close(s->worker);
}

static void on_hello(struct session *s, const struct agent_frame *frame)
{
    if (!s->open || frame->session != agent_wire_session(s->port)) {
        end_session(s);
        agent_wire_set_session(s->port, frame->session);
        s->open = true;
        s->turned_away = false;
        say(s, "session %016" G_GINT64_MODIFIER "x", frame->session);
    }
    s->hello_waits = s->worker && s->worker->closing;
    if (!s->hello_waits)
        send_hello_ack(s);
}

static void on_ping(struct session *s, const struct agent_frame *frame)
{
    send_json(s, AGENT_ALIVE, NULL);
}

static void on_job(struct session *s, const struct agent_frame *frame)
{
    g_autoptr(GError) error = NULL;

    if (s->worker && s->worker->held) {
        s->turned_away = true;
        send_failed(s,
                    "the agent still holds %s, prepared by a move that was interrupted: "
                    "release or abort that first",
                    s->worker->note);
        return;
    }
    if (s->worker && !s->worker->ended) {
        send_failed(s, "'%s' while another request is being worked on",
                    agent_message_name(frame->type));
        return;
    }
    if (s->worker) { // has said its last word and is about to exit
        waitpid(s->worker->pid, NULL, 0);
        agent_worker_free(g_steal_pointer(&s->worker));
    }
    s->worker = agent_worker_start(frame, &error);
    if (!s->worker)
        send_failed(s, "%s", error->message);
    else
        say(s, "%s: worker %d", agent_message_name(frame->type), s->worker->pid);
}

// For the worker.
static void on_other(struct session *s, const struct agent_frame *frame)
{
    s->streaming = frame->type == AGENT_DATA;
    if (s->worker && !s->worker->ended && !s->worker->closing && !s->turned_away) {
        if (frame->type == AGENT_HOLD) {
            struct json_object *json = agent_frame_json(frame, NULL);

            g_free(s->worker->note);
            s->worker->note = g_strdup(agent_json_string(json, "note", "a process"));
            json_object_put(json);
        }
        agent_wire_queue(s->worker->wire, frame->type, frame->payload, frame->length);
        return;
    }
    // The rest of a stream whose worker has given up is passed over: that was said already.
    if (frame->type == AGENT_ABORT)
        send_json(s, AGENT_ABORTED, NULL);
    else if (frame->type != AGENT_DATA && frame->type != AGENT_END)
        send_failed(s, "'%s' without anything that it could apply to",
                    agent_message_name(frame->type));
}

static void (*const handlers[AGENT_N_MESSAGES])(struct session *, const struct agent_frame *) = {
    [AGENT_HELLO] = on_hello, [AGENT_PING] = on_ping,    [AGENT_RESTORE] = on_job,
    [AGENT_FREEZE] = on_job,  [AGENT_DATA] = on_other,   [AGENT_END] = on_other,
    [AGENT_HOLD] = on_other,  [AGENT_ABORT] = on_other,  [AGENT_RELEASE] = on_other,
    [AGENT_THAW] = on_other,  [AGENT_FINISH] = on_other, [AGENT_PLACED] = on_other,
};

static void take_frames(struct session *s)
{
    struct agent_frame frame;
    enum agent_wire_result got;

    while ((got = agent_wire_next(s->port, &frame)) == AGENT_WIRE_FRAME) {
        // Before the first HELLO the session id is 0, which everybody knows.
        if (handlers[frame.type] && (s->open || frame.type == AGENT_HELLO))
            handlers[frame.type](s, &frame);
    }
    if (got == AGENT_WIRE_LOST && s->open) {
        send_failed(s, "the channel has lost a message");
        end_session(s);
    }
}

static void close_port(struct session *s)
{
    end_session(s);
    close(s->port_fd);
    s->port_fd = -1;
    agent_wire_free(s->port);
    s->port = agent_wire_new(AGENT_SIDE_AGENT);
}

static void read_port(struct session *s, bool hung_up)
{
    if (s->streaming && !hung_up)
        g_usleep(STREAM_NAP_US);
    s->streaming = false;
    for (int i = 0; i < READS_PER_LOOP || hung_up; i++) {
        ssize_t n = agent_wire_read(s->port, s->port_fd);

        if (n > 0) {
            // Who speaks is there: the port tells of a new host by another queue than that of the
            // data, and may do so later.
            s->hung_up_ticks = 0;
            take_frames(s);
            continue;
        }
        if (n < 0 && errno == EAGAIN)
            return;
        // End of file: no host is there. A virtio port stays, and gets its next host; tick() tells
        // how long the session may wait for that.
        s->hung_up = true;
        if (n < 0 || s->port_is_socket)
            close_port(s);
        return;
    }
}

static void open_port(struct session *s, GError **error)
{
    struct stat st;

    if (!agent_channel_open(s->options->port_path, &s->port_fd, error) || s->port_fd < 0)
        return;
    s->port_is_socket = fstat(s->port_fd, &st) == 0 && S_ISSOCK(st.st_mode);
    say(s, "the port is open");
    s->hung_up = false;
}

/* ---- the worker ---- */

static bool is_last_word(enum agent_message type)
{
    return type == AGENT_FAILED || type == AGENT_REFUSED || type == AGENT_RELEASED ||
           type == AGENT_ABORTED || type == AGENT_THAWED || type == AGENT_FINISHED;
}

static void pass_on(struct session *s)
{
    AgentWorker *w = s->worker;
    struct agent_frame frame;

    while (agent_wire_next(w->wire, &frame) == AGENT_WIRE_FRAME) {
        if (frame.type == AGENT_HELD)
            w->held = true;
        if (is_last_word(frame.type)) {
            w->ended = true;
            w->held = false;
        }
        if (w->closing || !s->open)
            continue;
        say(s, "worker %d: %s", w->pid, agent_message_name(frame.type));
        agent_wire_queue(s->port, frame.type, frame.payload, frame.length);
        s->last_sent_ms = now_ms();
    }
}

static bool read_worker(struct session *s)
{
    ssize_t n = agent_wire_read(s->worker->wire, s->worker->fd);

    if (n > 0)
        pass_on(s);
    return n > 0;
}

static void reap_worker(struct session *s)
{
    AgentWorker *w = s->worker;
    int status;

    if (!w || waitpid(w->pid, &status, WNOHANG) != w->pid)
        return;
    while (read_worker(s))
        ;
    say(s, "worker %d has ended, status %x", w->pid, (unsigned)status);
    if (!w->ended && !w->closing && s->open)
        send_failed(s,
                    WIFSIGNALED(status) ? "the agent's worker was killed by signal %d"
                                        : "the agent's worker ended early with status %d",
                    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    agent_worker_free(g_steal_pointer(&s->worker));
    if (s->hello_waits)
        send_hello_ack(s);
}

/* ---- the loop ---- */

static void read_signals(struct session *s)
{
    struct signalfd_siginfo info;

    while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            s->stop = true;
        if (info.ssi_signo == SIGIO)
            s->hung_up = false;
    }
    reap_worker(s);
}

static void tick(struct session *s)
{
    int64_t now = now_ms();

    if (now - s->last_tick_ms < TICK_MS)
        return;
    s->last_tick_ms = now;
    if (s->hung_up && ++s->hung_up_ticks >= HUNG_UP_TICKS)
        end_session(s);
    s->hung_up = false; // perhaps: the next read tells
    if (s->open && now - s->last_sent_ms >= TICK_MS && agent_wire_pending(s->port) == 0)
        send_json(s, AGENT_ALIVE, NULL);
    if (s->worker && s->worker->closing && s->worker->closing_ticks++ >= WORKER_CLOSING_MAX)
        kill(s->worker->pid, SIGKILL);
}

static void step(struct session *s)
{
    bool backlog = s->worker && agent_wire_pending(s->worker->wire) > WORKER_BACKLOG;
    struct pollfd fds[] = {
        {s->signal_fd, POLLIN, 0},
        {s->hung_up ? -1 : s->port_fd, backlog ? 0 : POLLIN, 0},
        {s->worker ? s->worker->fd : -1, POLLIN, 0},
    };

    if (agent_wire_pending(s->port) > 0)
        fds[1].events |= POLLOUT;
    if (s->worker && agent_wire_pending(s->worker->wire) > 0)
        fds[2].events |= POLLOUT;
    if (poll(fds, G_N_ELEMENTS(fds), s->port_fd < 0 ? LOOK_FOR_PORT_MS : TICK_MS) < 0)
        return;
    if (fds[0].revents & POLLIN)
        read_signals(s);
    if (s->worker && (fds[2].revents & (POLLIN | POLLHUP)) && !read_worker(s))
        reap_worker(s);
    if (s->worker)
        agent_worker_flush(s->worker);
    if (fds[1].revents && !(fds[1].revents & POLLHUP))
        s->hung_up_ticks = 0;
    if (s->port_fd >= 0 && (fds[1].revents & (POLLIN | POLLHUP | POLLERR)))
        read_port(s, fds[1].revents & POLLHUP);
    if (s->port_fd >= 0 && !s->hung_up && agent_wire_write(s->port, s->port_fd) < 0)
        close_port(s);
    tick(s);
}

static int block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGIO);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

bool agent_session_run(const struct agent_session_options *options, GError **error)
{
    struct session s = {
        .options = options,
        .signal_fd = block_signals(),
        .port_fd = -1,
        .port = agent_wire_new(AGENT_SIDE_AGENT),
    };
    GError *failure = NULL;

    while (!s.stop && !failure) {
        if (s.port_fd < 0)
            open_port(&s, &failure);
        if (!failure)
            step(&s);
    }
    end_session(&s);
    if (s.worker) {
        agent_worker_close(s.worker);
        waitpid(s.worker->pid, NULL, 0);
    }
    agent_worker_free(s.worker);
    agent_wire_free(s.port);
    if (s.port_fd >= 0)
        close(s.port_fd);
    close(s.signal_fd);
    if (failure) {
        g_propagate_error(error, failure);
        return false;
    }
    return true;
}
