// SPDX-License-Identifier: GPL-2.0-or-later
// Frames arrive whole and in order, or not at all; what is left of a dead session does no harm.
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guestagent/protocol.h"

#define SESSION 0x1122334455667788u

struct ends {
    AgentWire *host, *agent;
    int host_fd, agent_fd;
};

static struct ends *ends_new(void)
{
    struct ends *e = g_new0(struct ends, 1);
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), ==, 0);
    e->host_fd = pair[0];
    e->agent_fd = pair[1];
    e->host = agent_wire_new(AGENT_SIDE_HOST);
    e->agent = agent_wire_new(AGENT_SIDE_AGENT);
    agent_wire_set_session(e->host, SESSION);
    agent_wire_set_session(e->agent, SESSION);
    return e;
}

static void ends_free(struct ends *e)
{
    agent_wire_free(e->host);
    agent_wire_free(e->agent);
    close(e->host_fd);
    close(e->agent_fd);
    g_free(e);
}

typedef struct ends ends;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ends, ends_free)

// Moves what the host has queued until the agent has a frame.
static enum agent_wire_result to_agent(struct ends *e, struct agent_frame *ret)
{
    enum agent_wire_result got;

    while ((got = agent_wire_next(e->agent, ret)) == AGENT_WIRE_MORE) {
        g_assert_cmpint(agent_wire_write(e->host, e->host_fd), ==, 0);
        if (agent_wire_read(e->agent, e->agent_fd) <= 0)
            break;
    }
    return got;
}

static void fill(uint8_t *data, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1103515245 + 12345;
        data[i] = (uint8_t)(seed >> 16);
    }
}

static void test_round_trip(void)
{
    g_autoptr(ends) e = ends_new();
    g_autofree uint8_t *data = g_malloc(AGENT_FRAME_HOST_BYTES);
    struct agent_frame frame;

    for (size_t len = 0; len <= AGENT_FRAME_HOST_BYTES; len = len < 20 ? len + 1 : len * 2) {
        fill(data, len, (unsigned)len);
        agent_wire_queue(e->host, AGENT_DATA, data, len);
        g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_FRAME);
        g_assert_cmpint(frame.type, ==, AGENT_DATA);
        g_assert_cmpmem(frame.payload, frame.length, data, len);
    }
}

static void test_many(void)
{
    g_autoptr(ends) e = ends_new();
    g_autofree uint8_t *data = g_malloc(AGENT_FRAME_HOST_BYTES);
    struct agent_frame frame;
    unsigned sent = 0;

    // Never lets the queue run empty, so that it has to be compacted.
    for (unsigned got = 0; got < 2000; got++) {
        while (agent_wire_pending(e->host) < 300000) {
            size_t len = (sent * 7919) % AGENT_FRAME_HOST_BYTES;

            fill(data, len, sent++);
            agent_wire_queue(e->host, AGENT_DATA, data, len);
        }
        g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_FRAME);
        fill(data, (got * 7919) % AGENT_FRAME_HOST_BYTES, got);
        g_assert_cmpmem(frame.payload, frame.length, data, (got * 7919) % AGENT_FRAME_HOST_BYTES);
    }
}

static void test_json(void)
{
    g_autoptr(AgentWire) agent = agent_wire_new(AGENT_SIDE_AGENT);
    g_autoptr(AgentWire) host = agent_wire_new(AGENT_SIDE_HOST);
    g_autoptr(GPtrArray) reasons = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) again = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    struct agent_frame frame;
    int pair[2];

    agent_wire_set_session(agent, SESSION);
    agent_wire_set_session(host, SESSION);
    for (int i = 0; i < 30000; i++)
        g_ptr_array_add(reasons, g_strdup_printf("pid %d fd 7: external-pipe: \"\n\x01", i));
    agent_wire_queue_json(agent, AGENT_REFUSED, agent_json_strings("reasons", reasons));

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), ==, 0);
    while (agent_wire_next(host, &frame) != AGENT_WIRE_FRAME) {
        g_assert_cmpint(agent_wire_write(agent, pair[0]), ==, 0);
        g_assert_cmpint(agent_wire_read(host, pair[1]), >, 0);
    }
    close(pair[0]);
    close(pair[1]);

    struct json_object *obj = agent_frame_json(&frame, &error);

    g_assert_no_error(error);
    agent_json_get_strings(obj, "reasons", again);
    json_object_put(obj);
    g_assert_cmpuint(again->len, >, 1000);
    g_assert_cmpuint(again->len, <, reasons->len);
    g_assert_cmpstr(again->pdata[999], ==, reasons->pdata[999]);
    g_assert_nonnull(strstr(again->pdata[again->len - 1], "more"));
}

static void test_garbage(void)
{
    g_autoptr(ends) e = ends_new();
    uint8_t noise[5000];
    struct agent_frame frame;

    fill(noise, sizeof(noise), 1);
    memcpy(noise + 100, "vGA1", 4);
    memcpy(noise + sizeof(noise) - 2, "vG", 2);
    g_assert_cmpuint(agent_wire_feed(e->agent, noise, sizeof(noise)), ==, sizeof(noise));
    agent_wire_queue_json(e->host, AGENT_PING, NULL);
    g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_FRAME);
    g_assert_cmpint(frame.type, ==, AGENT_PING);
}

// A host died in the middle of a payload; the next one's HELLO is found all the same.
static void test_cut_payload(void)
{
    g_autoptr(ends) e = ends_new();
    g_autofree uint8_t *data = g_malloc0(AGENT_FRAME_HOST_BYTES);
    struct agent_frame frame;
    uint8_t part[1000];

    agent_wire_queue(e->host, AGENT_DATA, data, AGENT_FRAME_HOST_BYTES);
    g_assert_cmpint(agent_wire_write(e->host, e->host_fd), ==, 0);
    g_assert_cmpint(read(e->agent_fd, part, sizeof(part)), ==, sizeof(part));
    while (read(e->agent_fd, data, AGENT_FRAME_HOST_BYTES) > 0)
        ;
    agent_wire_feed(e->agent, part, sizeof(part));

    agent_wire_set_session(e->host, SESSION + 1);
    agent_wire_queue_padding(e->host);
    agent_wire_queue_json(e->host, AGENT_HELLO, NULL);
    g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_FRAME);
    g_assert_cmpint(frame.type, ==, AGENT_DATA); // complete by its length; its image will not be
    g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_FRAME);
    g_assert_cmpint(frame.type, ==, AGENT_HELLO);
    g_assert_cmpuint(frame.session, ==, SESSION + 1);
}

// Frames of another session are passed over, and their length is not believed.
static void test_foreign_session(void)
{
    g_autoptr(ends) e = ends_new();
    struct agent_frame frame;

    agent_wire_set_session(e->host, SESSION + 1);
    agent_wire_queue(e->host, AGENT_DATA, "x", 1);
    agent_wire_queue_json(e->host, AGENT_RELEASE, NULL);
    g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_MORE);
    agent_wire_set_session(e->host, SESSION);
    agent_wire_queue_json(e->host, AGENT_PING, NULL);
    g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_FRAME);
    g_assert_cmpint(frame.type, ==, AGENT_PING);
}

// An agent does not take what only an agent may say, nor a number that is no message.
static void test_wrong_side(void)
{
    g_autoptr(AgentWire) other = agent_wire_new(AGENT_SIDE_AGENT);
    g_autoptr(ends) e = ends_new();
    struct agent_frame frame;

    agent_wire_set_session(other, SESSION);
    agent_wire_queue_json(other, AGENT_FINISHED, NULL);
    agent_wire_queue_json(other, 63, NULL);
    g_assert_cmpint(agent_wire_write(other, e->host_fd), ==, 0);
    g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_MORE);
}

static void test_lost(void)
{
    g_autoptr(ends) e = ends_new();
    struct agent_frame frame;
    uint8_t byte;

    agent_wire_queue_json(e->host, AGENT_PING, NULL);
    agent_wire_queue_json(e->host, AGENT_RELEASE, NULL);
    g_assert_cmpint(agent_wire_write(e->host, e->host_fd), ==, 0);
    g_assert_cmpint(read(e->agent_fd, &byte, 1), ==, 1);
    g_assert_cmpint(to_agent(e, &frame), ==, AGENT_WIRE_LOST);
}

// What a process of the guest has in its memory never appears on the wire as it is.
static void test_mask(void)
{
    g_autoptr(ends) e = ends_new();
    g_autoptr(AgentWire) evil = agent_wire_new(AGENT_SIDE_HOST);
    g_autoptr(AgentWire) fresh = agent_wire_new(AGENT_SIDE_AGENT);
    uint8_t forged[200], wire[400];
    struct agent_frame frame;
    int pair[2];
    ssize_t n;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), ==, 0);
    agent_wire_set_session(evil, 7);
    agent_wire_queue_json(evil, AGENT_HELLO, NULL);
    agent_wire_write(evil, pair[0]);
    n = read(pair[1], forged, sizeof(forged));
    g_assert_cmpint(n, >, 0);

    agent_wire_queue(e->host, AGENT_DATA, forged, (size_t)n);
    agent_wire_write(e->host, pair[0]);
    n = read(pair[1], wire, sizeof(wire));
    close(pair[0]);
    close(pair[1]);
    // An agent that starts now, in the middle of that frame:
    agent_wire_feed(fresh, wire + 10, (size_t)n - 10);
    g_assert_cmpint(agent_wire_next(fresh, &frame), ==, AGENT_WIRE_MORE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/protocol/round-trip", test_round_trip);
    g_test_add_func("/protocol/many", test_many);
    g_test_add_func("/protocol/json", test_json);
    g_test_add_func("/protocol/garbage", test_garbage);
    g_test_add_func("/protocol/cut-payload", test_cut_payload);
    g_test_add_func("/protocol/foreign-session", test_foreign_session);
    g_test_add_func("/protocol/wrong-side", test_wrong_side);
    g_test_add_func("/protocol/lost", test_lost);
    g_test_add_func("/protocol/mask", test_mask);
    return g_test_run();
}
