// SPDX-License-Identifier: GPL-2.0-or-later
// Frames: finding them in a stream that may hold the remains of others, and queueing them.
#include "guestagent/protocol.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define XXH_INLINE_ALL // no library: the agent links it statically, the command may not have it
#include <xxhash.h>

/*
 * Three rules make stale bytes harmless, whichever of the two ends died in whatever place.
 *
 * A header with another session id is no header: scanning goes on behind its first byte, so that
 * its length need not be believed. The host draws its id at random, so nothing sent before can
 * carry it.
 *
 * An agent must take a HELLO with an id it does not know. It may be in the middle of a payload
 * whose rest never comes, so each HELLO follows as many zeros as a payload may be long.
 *
 * An agent that was started in the middle of a payload scans the memory of some process, which may
 * have been laid out to look like frames. So the host masks each payload with a key that cannot be
 * guessed, as a web browser does for WebSocket.
 */
#define MAGIC "vGA1"

struct header {
    uint16_t type;
    uint64_t session;
    uint64_t mask;
    uint32_t sequence;
    uint32_t length;
    uint32_t payload_sum;
};

struct message_kind {
    const char *name;
    enum agent_side from;
};

#define HOST  AGENT_SIDE_HOST
#define AGENT AGENT_SIDE_AGENT
static const struct message_kind message_kinds[AGENT_N_MESSAGES] = {
#define MESSAGE(NAME, number, name, from, doc) [number] = {name, from},
#include "guestagent/protocol.def"
};
#undef HOST
#undef AGENT

struct AgentWire {
    enum agent_side side;
    uint64_t session;

    uint8_t *in; // in_size bytes, of which [in_start, in_end) were read and not yet consumed
    size_t in_size, in_start, in_end;
    uint32_t in_sequence;

    GByteArray *out; // written up to out_start
    size_t out_start;
    size_t out_frame; // end of the frame that out_start lies in or at
    uint32_t out_sequence;
    uint64_t mask_state;
};

const char *agent_message_name(enum agent_message type)
{
    return type < AGENT_N_MESSAGES && message_kinds[type].name ? message_kinds[type].name : "?";
}

static uint32_t sum(const void *data, size_t len)
{
    return (uint32_t)XXH3_64bits(data, len);
}

static size_t payload_max(enum agent_side from)
{
    return from == AGENT_SIDE_HOST ? AGENT_FRAME_HOST_BYTES : AGENT_FRAME_AGENT_BYTES;
}

static bool is_hello(enum agent_message type)
{
    return type == AGENT_HELLO || type == AGENT_HELLO_ACK;
}

AgentWire *agent_wire_new(enum agent_side side)
{
    AgentWire *w = g_new0(AgentWire, 1);

    w->side = side;
    w->in_size = AGENT_FRAME_HEADER + payload_max(!side) + (64u << 10);
    w->in = g_malloc(w->in_size);
    w->out = g_byte_array_new();
    if (getrandom(&w->mask_state, sizeof(w->mask_state), 0) != sizeof(w->mask_state))
        w->mask_state = ((uint64_t)g_random_int() << 32) | g_random_int();
    return w;
}

void agent_wire_free(AgentWire *w)
{
    if (!w)
        return;
    g_byte_array_unref(w->out);
    g_free(w->in);
    g_free(w);
}

void agent_wire_set_session(AgentWire *w, uint64_t session)
{
    w->session = session;
    w->in_sequence = 0;
    w->out_sequence = 0;
    // The rest of a frame that was begun still has to go out: the other end counts on its length.
    if (w->out->len > w->out_frame)
        g_byte_array_set_size(w->out, (guint)MAX(w->out_frame, w->out_start));
}

uint64_t agent_wire_session(const AgentWire *w)
{
    return w->session;
}

// splitmix64: each key is different and none can be guessed without the seed.
static uint64_t next_mask(AgentWire *w)
{
    uint64_t z = (w->mask_state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void apply_mask(uint8_t *data, size_t len, uint64_t mask)
{
    size_t i = 0;

    mask = GUINT64_TO_LE(mask);
    for (; i + 8 <= len; i += 8) {
        uint64_t word;

        memcpy(&word, data + i, 8);
        word ^= mask;
        memcpy(data + i, &word, 8);
    }
    for (const uint8_t *key = (const uint8_t *)&mask; i < len; i++)
        data[i] ^= key[i % 8];
}

static void put16(uint8_t *at, uint16_t v)
{
    v = GUINT16_TO_LE(v);
    memcpy(at, &v, sizeof(v));
}

static void put32(uint8_t *at, uint32_t v)
{
    v = GUINT32_TO_LE(v);
    memcpy(at, &v, sizeof(v));
}

static void put64(uint8_t *at, uint64_t v)
{
    v = GUINT64_TO_LE(v);
    memcpy(at, &v, sizeof(v));
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t v;

    memcpy(&v, at, sizeof(v));
    return GUINT32_FROM_LE(v);
}

static uint64_t get64(const uint8_t *at)
{
    return get32(at) | ((uint64_t)get32(at + 4) << 32);
}

// Keeps a queue that is never quite empty from growing without end.
static void forget_written(AgentWire *w)
{
    if (w->out_start < (256u << 10))
        return;
    g_byte_array_remove_range(w->out, 0, (guint)w->out_start);
    w->out_frame -= w->out_start;
    w->out_start = 0;
}

void agent_wire_queue(AgentWire *w, enum agent_message type, const void *payload, size_t len)
{
    uint64_t mask = w->side == AGENT_SIDE_HOST && w->session != 0 ? next_mask(w) : 0;

    g_assert(len <= payload_max(w->side));
    forget_written(w);

    size_t at = w->out->len;

    g_byte_array_set_size(w->out, (guint)(at + AGENT_FRAME_HEADER + len));

    uint8_t *head = w->out->data + at, *body = head + AGENT_FRAME_HEADER;

    if (len > 0)
        memcpy(body, payload, len);
    if (mask)
        apply_mask(body, len, mask);
    memcpy(head, MAGIC, 4);
    put16(head + 4, (uint16_t)type);
    put16(head + 6, 0);
    put64(head + 8, w->session);
    put64(head + 16, mask);
    put32(head + 24, is_hello(type) ? 0 : w->out_sequence++);
    put32(head + 28, (uint32_t)len);
    put32(head + 32, type == AGENT_DATA ? 0 : sum(body, len));
    put32(head + 36, sum(head, 36));
}

void agent_wire_queue_json(AgentWire *w, enum agent_message type, struct json_object *take)
{
    const char *text = "{}";
    size_t len = 2;

    if (take)
        text = json_object_to_json_string_length(take, JSON_C_TO_STRING_PLAIN, &len);
    agent_wire_queue(w, type, text, len);
    json_object_put(take);
}

void agent_wire_queue_padding(AgentWire *w)
{
    size_t at = w->out->len;

    g_byte_array_set_size(w->out, (guint)(at + AGENT_FRAME_HOST_BYTES));
    memset(w->out->data + at, 0, AGENT_FRAME_HOST_BYTES);
}

size_t agent_wire_pending(const AgentWire *w)
{
    return w->out->len - w->out_start;
}

// Moves out_frame to the end of the frame that the next byte to be written belongs to.
static void find_out_frame(AgentWire *w)
{
    while (w->out_frame < w->out_start) {
        const uint8_t *at = w->out->data + w->out_frame;
        size_t left = w->out->len - w->out_frame;

        if (left >= AGENT_FRAME_HEADER && memcmp(at, MAGIC, 4) == 0)
            w->out_frame += AGENT_FRAME_HEADER + get32(at + 28);
        else
            w->out_frame += MIN(left, AGENT_FRAME_HOST_BYTES); // padding
    }
}

int agent_wire_write(AgentWire *w, int fd)
{
    while (agent_wire_pending(w) > 0) {
        ssize_t n = write(fd, w->out->data + w->out_start, agent_wire_pending(w));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        w->out_start += (size_t)n;
        find_out_frame(w);
    }
    g_byte_array_set_size(w->out, 0);
    w->out_start = w->out_frame = 0;
    return 0;
}

static size_t make_room(AgentWire *w)
{
    if (w->in_start > 0) {
        memmove(w->in, w->in + w->in_start, w->in_end - w->in_start);
        w->in_end -= w->in_start;
        w->in_start = 0;
    }
    return w->in_size - w->in_end;
}

ssize_t agent_wire_read(AgentWire *w, int fd)
{
    size_t room = w->in_size - w->in_end;
    ssize_t n;

    // A port hands out at most a page at a time: move the rest only when it is worth it.
    if (room < (64u << 10))
        room = make_room(w);
    g_assert(room > 0);
    do
        n = read(fd, w->in + w->in_end, room);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        w->in_end += (size_t)n;
    return n;
}

size_t agent_wire_feed(AgentWire *w, const void *data, size_t len)
{
    len = MIN(len, make_room(w));
    if (len > 0)
        memcpy(w->in + w->in_end, data, len);
    w->in_end += len;
    return len;
}

// Is there a header of a frame for us at `at`?
static bool parse_header(const AgentWire *w, const uint8_t *at, struct header *ret)
{
    uint16_t type = (uint16_t)(get32(at + 4) & 0xffff);

    if (get32(at + 36) != sum(at, 36) || get32(at + 4) >> 16 != 0)
        return false;
    if (type >= AGENT_N_MESSAGES || !message_kinds[type].name ||
        message_kinds[type].from == w->side)
        return false;
    *ret = (struct header){
        .type = type,
        .session = get64(at + 8),
        .mask = get64(at + 16),
        .sequence = get32(at + 24),
        .length = get32(at + 28),
        .payload_sum = get32(at + 32),
    };
    return ret->length <= payload_max(!w->side) &&
           (ret->session == w->session || type == AGENT_HELLO);
}

// Drops bytes up to the first that may begin a frame; false where too few are left to tell.
static bool find_magic(AgentWire *w)
{
    while (w->in_end - w->in_start >= AGENT_FRAME_HEADER) {
        uint8_t *from = w->in + w->in_start;
        uint8_t *at = memchr(from, MAGIC[0], w->in_end - w->in_start);

        w->in_start = at ? (size_t)(at - w->in) : w->in_end;
        if (w->in_end - w->in_start < AGENT_FRAME_HEADER)
            return false;
        if (memcmp(at, MAGIC, 4) == 0)
            return true;
        w->in_start++;
    }
    return false;
}

enum agent_wire_result agent_wire_next(AgentWire *w, struct agent_frame *ret)
{
    while (find_magic(w)) {
        struct header head;

        if (!parse_header(w, w->in + w->in_start, &head)) {
            w->in_start++;
            continue;
        }
        if (w->in_end - w->in_start < AGENT_FRAME_HEADER + (size_t)head.length) {
            if (w->in_size - w->in_start < AGENT_FRAME_HEADER + (size_t)head.length)
                make_room(w);
            return AGENT_WIRE_MORE;
        }

        uint8_t *payload = w->in + w->in_start + AGENT_FRAME_HEADER;

        if (head.type != AGENT_DATA && head.payload_sum != sum(payload, head.length)) {
            w->in_start++;
            continue;
        }
        w->in_start += AGENT_FRAME_HEADER + head.length;
        if (!is_hello(head.type) && head.sequence != w->in_sequence++)
            return AGENT_WIRE_LOST;
        if (head.mask)
            apply_mask(payload, head.length, head.mask);
        *ret = (struct agent_frame){
            .type = head.type,
            .session = head.session,
            .payload = payload,
            .length = head.length,
        };
        return AGENT_WIRE_FRAME;
    }
    return AGENT_WIRE_MORE;
}
