// SPDX-License-Identifier: GPL-2.0-or-later
// The host's side of the agent protocol.
#include "cli/agent_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

#include "cli/place.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/version.h"
#include "formats/stream.h"

#define HELLO_EVERY_MS 500
#define QUEUE_BYTES    (512u << 10) // queued at most before the stream waits for the channel

struct CliAgent {
    struct cli *cli;
    char *target;
    GSocketConnection *connection;
    int fd;
    AgentWire *wire;
    int64_t timeout_ns;
    int64_t heard_ns; // when something last came
    struct json_object *ack;
    struct cli_agent_info info;
    CliProgress *progress; // of the image that is being sent
    bool broken;           // no answer can be expected any more
};

static bool set_broken(CliAgent *a, GError **error, const char *format, ...) G_GNUC_PRINTF(3, 4);
static bool set_broken(CliAgent *a, GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    a->broken = true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_AGENT, "%s: %s", a->target, text);
    return false;
}

// Reads and writes what is possible, waiting at most timeout_ms for either.
static bool step(CliAgent *a, int64_t timeout_ms, GError **error)
{
    struct pollfd fds[] = {{a->fd, POLLIN, 0}, {a->cli->signal_fd, POLLIN, 0}};

    if (cli_signals_check(a->cli, error))
        return false;
    if (agent_wire_pending(a->wire) > 0)
        fds[0].events |= POLLOUT;
    if (poll(fds, a->cli->signal == 0 ? 2 : 1, (int)timeout_ms) < 0 && errno != EINTR)
        return set_broken(a, error, "poll: %s", g_strerror(errno));
    if (cli_signals_check(a->cli, error))
        return false;
    if (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
        ssize_t n = agent_wire_read(a->wire, a->fd);

        if (n == 0 || (n < 0 && errno != EAGAIN))
            return set_broken(a, error, "the channel to the agent was closed: has QEMU ended?");
    }
    if (agent_wire_write(a->wire, a->fd) < 0)
        return set_broken(a, error, "cannot write to the agent: %s", g_strerror(errno));
    return true;
}

// Takes one frame that has been read, if there is one. Progress and heartbeats are dealt with here.
static bool take_frame(CliAgent *a, struct agent_frame *ret, bool *ret_got, GError **error)
{
    enum agent_wire_result got;

    *ret_got = false;
    while ((got = agent_wire_next(a->wire, ret)) == AGENT_WIRE_FRAME) {
        a->heard_ns = cli_now_ns();
        if (ret->type == AGENT_PROGRESS && a->progress) {
            struct json_object *obj = agent_frame_json(ret, NULL);

            cli_progress_set(a->progress, (uint64_t)agent_json_int(obj, "done_bytes", 0));
            json_object_put(obj);
        }
        if (ret->type != AGENT_ALIVE && ret->type != AGENT_PROGRESS && ret->type != AGENT_PLANNED &&
            ret->type != AGENT_HELLO_ACK) {
            *ret_got = true;
            return true;
        }
    }
    if (got == AGENT_WIRE_LOST)
        return set_broken(a, error, "the channel to the agent has lost a message");
    return true;
}

static bool check_alive(CliAgent *a, GError **error)
{
    if (cli_now_ns() - a->heard_ns < a->timeout_ns)
        return true;
    return set_broken(a, error,
                      "the agent stops answering: nothing came for %.0f s "
                      "(--agent-timeout sets the limit)",
                      (double)a->timeout_ns / 1e9);
}

// Sets the error for REFUSED and FAILED, which may come instead of any answer.
static bool set_bad_answer(CliAgent *a, const struct agent_frame *frame, const char *expected,
                           GPtrArray *reasons, GError **error)
{
    struct json_object *obj = agent_frame_json(frame, NULL);

    if (frame->type == AGENT_REFUSED) {
        if (reasons)
            agent_json_get_strings(obj, "reasons", reasons);
        g_set_error(error, CLI_ERROR, CLI_ERROR_REFUSED, "%s: the agent refuses:", a->target);
    } else if (frame->type == AGENT_FAILED) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: %s", a->target,
                    agent_json_string(obj, "message", "the agent failed and does not say why"));
    } else {
        set_broken(a, error, "the agent says '%s' instead of '%s'", agent_message_name(frame->type),
                   expected);
    }
    json_object_put(obj);
    return false;
}

// Waits for this answer. ret (may be NULL) is to be freed by the caller.
static bool expect(CliAgent *a, enum agent_message type, GPtrArray *reasons,
                   struct json_object **ret, GError **error)
{
    struct agent_frame frame;
    bool got;

    // What was not read while we were busy elsewhere does not count as silence.
    a->heard_ns = cli_now_ns();
    for (;;) {
        if (!take_frame(a, &frame, &got, error))
            return false;
        if (got)
            break;
        if (!step(a, 1000, error) || !check_alive(a, error))
            return false;
    }
    if (frame.type != type)
        return set_bad_answer(a, &frame, agent_message_name(type), reasons, error);

    struct json_object *obj = agent_frame_json(&frame, error);

    if (!obj) {
        g_prefix_error(error, "%s: ", a->target);
        a->broken = true;
        return false;
    }
    if (ret)
        *ret = obj;
    else
        json_object_put(obj);
    return true;
}

static bool ask(CliAgent *a, enum agent_message request, struct json_object *take,
                enum agent_message answer, GPtrArray *reasons, struct json_object **ret,
                GError **error)
{
    agent_wire_queue_json(a->wire, request, take);
    return expect(a, answer, reasons, ret, error);
}

/* ---- session ---- */

static void queue_hello(CliAgent *a)
{
    struct json_object *obj = json_object_new_object();

    json_object_object_add(obj, "protocol", json_object_new_int(AGENT_PROTOCOL));
    json_object_object_add(obj, "version", json_object_new_string(CLI_VERSION));
    agent_wire_queue_padding(a->wire);
    agent_wire_queue_json(a->wire, AGENT_HELLO, obj);
}

static bool wait_hello(CliAgent *a, GError **error)
{
    int64_t until_ns = cli_now_ns() + a->timeout_ns, again_ns = 0;
    struct agent_frame frame;

    while (cli_now_ns() < until_ns) {
        if (cli_now_ns() >= again_ns && agent_wire_pending(a->wire) == 0) {
            queue_hello(a);
            again_ns = cli_now_ns() + HELLO_EVERY_MS * 1000000ll;
        }
        if (!step(a, HELLO_EVERY_MS, error))
            return false;
        while (agent_wire_next(a->wire, &frame) == AGENT_WIRE_FRAME) {
            if (frame.type != AGENT_HELLO_ACK)
                continue;
            a->ack = agent_frame_json(&frame, error);
            return a->ack != NULL;
        }
    }
    return set_broken(a, error,
                      "no agent answers: is vmgraft-agent running in the guest, is the guest "
                      "running, and is no other vmgraft connected to it?");
}

static bool check_ack(CliAgent *a, GError **error)
{
    int64_t protocol = agent_json_int(a->ack, "protocol", 0);

    a->info = (struct cli_agent_info){
        .version = agent_json_string(a->ack, "version", "?"),
        .release = agent_json_string(a->ack, "release", "?"),
        .hostname = agent_json_string(a->ack, "hostname", "?"),
        .agent_pid = agent_json_int(a->ack, "agent_pid", 0),
        .held = agent_json_string(a->ack, "held", NULL),
    };
    if (protocol != AGENT_PROTOCOL)
        return set_broken(a, error,
                          "the agent (version %s) speaks protocol %d, this vmgraft (version %s) "
                          "speaks %d: install the agent that came with it",
                          a->info.version, (int)protocol, CLI_VERSION, AGENT_PROTOCOL);
    return true;
}

// One sentence: what is missing, and the command that puts it there.
static void set_absent(VmmMachine *vm, const char *target, const char *words, const char *why,
                       GError **error)
{
    const char *place = words;

    // By its name: when it is shut down its id is gone.
    if (strcmp(target, words) == 0)
        place = g_str_has_prefix(target, "qmp:") ? "./DISK" : vmm_machine_name(vm);

    g_set_error(error, CLI_ERROR, CLI_ERROR_AGENT,
                "%s: vmgraft-agent does not run in this guest (%s): with the guest shut down, "
                "`vmgraft agent install %s` puts it there",
                target, why, place);
}

GSocketConnection *cli_agent_open_channel(VmmMachine *vm, const char *target, const char *words,
                                          GError **error)
{
    g_autoptr(GError) why = NULL;
    if (vmm_machine_why_stopped(vm)) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: %s, so no agent can answer", target,
                    vmm_machine_why_stopped(vm));
        return NULL;
    }
    GSocketConnection *channel = vmm_machine_open_channel(vm, AGENT_PORT_NAME, &why);

    if (channel)
        return channel;
    if (g_error_matches(why, VMM_ERROR, VMM_ERROR_ABSENT))
        set_absent(vm, target, words, why->message, error);
    else
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "%s: ", target);
    return NULL;
}

CliAgent *cli_agent_connect(struct cli *cli, VmmMachine *vm, const char *target, int64_t timeout_ms,
                            GError **error)
{
    GSocketConnection *channel = cli_agent_open_channel(vm, target, target, error);

    return channel ? cli_agent_attach(cli, channel, target, timeout_ms, error) : NULL;
}

CliAgent *cli_agent_attach(struct cli *cli, GSocketConnection *channel, const char *target,
                           int64_t timeout_ms, GError **error)
{
    g_autoptr(CliAgent) a = g_new0(CliAgent, 1);
    uint64_t session = 0;

    a->cli = cli;
    a->target = g_strdup(target);
    a->timeout_ns = timeout_ms * 1000000;
    a->connection = channel;
    g_socket_set_blocking(g_socket_connection_get_socket(a->connection), FALSE);
    a->fd = g_socket_get_fd(g_socket_connection_get_socket(a->connection));
    a->wire = agent_wire_new(AGENT_SIDE_HOST);
    while (session == 0) {
        if (getrandom(&session, sizeof(session), 0) != sizeof(session))
            session = 0;
    }
    agent_wire_set_session(a->wire, session);
    if (!wait_hello(a, error) || !check_ack(a, error))
        return NULL;
    cli_debug(cli, "%s: agent %s, pid %d, on Linux %s", target, a->info.version,
              (int)a->info.agent_pid, a->info.release);
    return g_steal_pointer(&a);
}

void cli_agent_free(CliAgent *a)
{
    if (!a)
        return;
    if (a->wire)
        agent_wire_free(a->wire);
    g_clear_object(&a->connection);
    json_object_put(a->ack);
    g_free(a->target);
    g_free(a);
}

const struct cli_agent_info *cli_agent_info(const CliAgent *a)
{
    return &a->info;
}

bool cli_agent_check_free(const CliAgent *a, GError **error)
{
    if (!a->info.held)
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                "%s: the agent still holds %s, prepared by a move that was interrupted: release or "
                "abort that first (vmgraft agent release, vmgraft agent abort)",
                a->target, a->info.held);
    return false;
}

/* ---- restore ---- */

struct stream {
    CliAgent *a;
    uint8_t *buffer; // AGENT_FRAME_HOST_BYTES
    size_t used;
    GPtrArray *reasons;
};

// Queues a full frame, and lets the channel take what it will.
static bool send_buffer(struct stream *s, GError **error)
{
    CliAgent *a = s->a;
    struct agent_frame frame;
    bool got, full;

    agent_wire_queue(a->wire, AGENT_DATA, s->buffer, s->used);
    s->used = 0;
    do {
        full = agent_wire_pending(a->wire) > QUEUE_BYTES;
        if (!step(a, full ? 1000 : 0, error) || !take_frame(a, &frame, &got, error))
            return false;
        if (got)
            return set_bad_answer(a, &frame, "progress", s->reasons, error);
        if (full && !check_alive(a, error))
            return false;
    } while (full);
    return true;
}

static bool write_piece(const void *data, size_t len, void *user, GError **error)
{
    struct stream *s = user;
    const uint8_t *at = data;

    while (len > 0) {
        size_t n = MIN(len, AGENT_FRAME_HOST_BYTES - s->used);

        memcpy(s->buffer + s->used, at, n);
        s->used += n;
        at += n;
        len -= n;
        if (s->used == AGENT_FRAME_HOST_BYTES && !send_buffer(s, error))
            return false;
    }
    return true;
}

// The agent has made and marked the pages that are to be placed.
static bool place(CliAgent *a, cli_guest *target, const FmtImage *img, const GArray *placed,
                  uint64_t nonce, GPtrArray *reasons, bool *ret_misplaced, GError **error)
{
    struct json_object *obj = NULL, *spaces = NULL;

    *ret_misplaced = false;
    if (!ask(a, AGENT_END, NULL, AGENT_MARKED, reasons, &obj, error))
        return false;
    json_object_object_get_ex(obj, "spaces", &spaces);
    bool ok = json_object_is_type(spaces, json_type_array) &&
              cli_place(a->cli, target, img, placed, nonce, spaces, error);
    json_object_put(obj);
    *ret_misplaced = !ok;
    return ok;
}

static bool send_image(CliAgent *a, const FmtImage *img,
                       const struct cli_agent_restore_options *options, uint64_t nonce,
                       GPtrArray *reasons, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(AGENT_FRAME_HOST_BYTES);
    struct stream s = {.a = a, .buffer = buffer, .reasons = reasons};
    struct json_object *obj = json_object_new_object();

    json_object_object_add(obj, "new_pid_namespace",
                           json_object_new_boolean(options->new_pid_namespace));
    json_object_object_add(obj, "elapsed_ns", json_object_new_int64(options->elapsed_ns));
    json_object_object_add(obj, "asleep_ns", json_object_new_int64(options->asleep_ns));
    json_object_object_add(obj, "place_nonce", json_object_new_int64((int64_t)nonce));
    agent_wire_queue_json(a->wire, AGENT_RESTORE, obj);
    a->heard_ns = cli_now_ns();
    return fmt_encode(img, write_piece, &s, error) && (s.used == 0 || send_buffer(&s, error));
}

static bool restore(CliAgent *a, FmtImage *img, const struct cli_agent_restore_options *options,
                    const GArray *placed, GPtrArray *notes, GPtrArray *reasons, bool *ret_misplaced,
                    GError **error)
{
    bool placing = placed && placed->len > 0;
    struct json_object *obj;
    uint64_t nonce = 0;

    *ret_misplaced = false;
    while (placing && nonce == 0)
        if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
            nonce = 0;
    if (!send_image(a, img, options, nonce, reasons, error) ||
        (placing &&
         !place(a, options->target, img, placed, nonce, reasons, ret_misplaced, error)) ||
        !ask(a, placing ? AGENT_PLACED : AGENT_END, NULL, AGENT_PREPARED, reasons, &obj, error))
        return false;
    agent_json_get_strings(obj, "notes", notes);
    json_object_put(obj);
    return true;
}

bool cli_agent_restore(CliAgent *a, FmtImage *img, const struct cli_agent_restore_options *options,
                       GPtrArray *notes, GPtrArray *reasons, GError **error)
{
    g_autoptr(GArray) placed = NULL;
    g_autoptr(GError) why = NULL;
    struct cli_agent_restore_options again = *options;
    const int64_t begin_ns = cli_now_ns();
    bool misplaced, ok;

    fmt_image_make_live(img, options->target ? &placed : NULL);
    g_autoptr(CliProgress) progress = cli_progress_new(a->cli, "restoring", fmt_encoded_size(img));
    a->progress = progress;
    ok = restore(a, img, options, placed, notes, reasons, &misplaced, &why);
    if (misplaced && cli_agent_abort(a, NULL)) {
        cli_debug(a->cli, "%s: memory goes through the channel: %s", a->target,
                  why ? why->message : "the agent names no processes");
        g_clear_error(&why);
        fmt_image_unplace(img, placed);
        const int64_t lost_ns = cli_now_ns() - begin_ns;
        again.elapsed_ns += again.elapsed_ns < 0 ? 0 : lost_ns;
        again.asleep_ns += again.asleep_ns < 0 ? 0 : lost_ns;
        ok = restore(a, img, &again, NULL, notes, reasons, &misplaced, &why);
    }
    a->progress = NULL;
    if (why)
        g_propagate_error(error, g_steal_pointer(&why));
    return ok;
}

bool cli_agent_hold(CliAgent *a, const char *note, GError **error)
{
    struct json_object *obj = json_object_new_object();

    json_object_object_add(obj, "note", cli_json_text(note));
    return ask(a, AGENT_HOLD, obj, AGENT_HELD, NULL, NULL, error);
}

bool cli_agent_release(CliAgent *a, GArray *ret_pids, GError **error)
{
    struct json_object *obj;

    if (!ask(a, AGENT_RELEASE, NULL, AGENT_RELEASED, NULL, &obj, error))
        return false;
    agent_json_get_pids(obj, "pids", ret_pids);
    json_object_put(obj);
    return true;
}

// Undoing is done though a signal has come: it is what the signal asks for.
static bool undo(CliAgent *a, enum agent_message request, enum agent_message answer, GError **error)
{
    bool committed = a->cli->committed, ok;
    struct agent_frame frame;
    bool got;

    if (a->broken) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_AGENT, "%s: the agent does not answer", a->target);
        return false;
    }
    a->cli->committed = true;
    agent_wire_queue_json(a->wire, request, NULL);
    // Answers to what was asked before may still be on their way.
    do {
        ok = step(a, 1000, error) && take_frame(a, &frame, &got, error) && check_alive(a, error);
    } while (ok && !(got && frame.type == answer));
    a->cli->committed = committed;
    return ok;
}

bool cli_agent_abort(CliAgent *a, GError **error)
{
    a->heard_ns = cli_now_ns();
    return undo(a, AGENT_ABORT, AGENT_ABORTED, error);
}

/* ---- freeze ---- */

bool cli_agent_freeze(CliAgent *a, uint32_t pid, GArray *ret_pids, uint32_t *ret_tracer_pid,
                      GPtrArray *reasons, GError **error)
{
    struct json_object *obj = json_object_new_object();

    json_object_object_add(obj, "pid", json_object_new_int64(pid));
    if (!ask(a, AGENT_FREEZE, obj, AGENT_FROZEN, reasons, &obj, error))
        return false;
    agent_json_get_pids(obj, "pids", ret_pids);
    *ret_tracer_pid = (uint32_t)agent_json_int(obj, "tracer_pid", 0);
    json_object_put(obj);
    return true;
}

bool cli_agent_thaw(CliAgent *a, GError **error)
{
    a->heard_ns = cli_now_ns();
    return undo(a, AGENT_THAW, AGENT_THAWED, error);
}

bool cli_agent_finish(CliAgent *a, const GPtrArray *remove, GError **error)
{
    return ask(a, AGENT_FINISH, remove->len ? agent_json_strings("remove", remove) : NULL,
               AGENT_FINISHED, NULL, NULL, error);
}
