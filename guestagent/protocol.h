// SPDX-License-Identifier: GPL-2.0-or-later
// The wire between the vmgraft command (host) and the agent: frames, messages, who says what when.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guestagent/error.h"

/*
 *            host                                            agent
 *
 *  session    | 64 KiB of zeros, HELLO (again each 500 ms) -->  |
 *             |  <------------------------------------ HELLO_ACK |
 *             |  <---------------- ALIVE, each second, from here |
 *
 *  restore    | RESTORE, DATA... --------------------------->   |
 *             |  <----------------------- REFUSED or FAILED, end |
 *             |  <---------------------------- PLANNED, PROGRESS |
 *             | END ---------------------------------------->   |
 *             |  <--------------------------------------- MARKED |   only with PLACED pages:
 *             | PLACED ------------------------------------->   |   the host writes them itself
 *             |  <------------------------------------- PREPARED |
 *             | HOLD --------------------------------------->   |   only migrate
 *             |  <----------------------------------------- HELD |
 *             | RELEASE ------------------------------------>   |
 *             |  <------------------------------------- RELEASED |   end
 *             | or ABORT ----------------------------------->   |   at any time before RELEASE
 *             |  <-------------------------------------- ABORTED |   end
 *
 *  freeze     | FREEZE ------------------------------------->   |
 *             |  <-------------- FROZEN, or REFUSED, FAILED, end |
 *             | THAW or ABORT ------------------------------>   |
 *             |  <---------------------------- THAWED or ABORTED |   end
 *             | or FINISH ---------------------------------->   |
 *             |  <------------------------------------- FINISHED |   end
 *
 * A host that goes away has said ABORT, unless HELD was sent: then the agent keeps what is prepared
 * until some later session says RELEASE or ABORT. docs/agent-protocol.md has the reasons.
 *
 * Frame, little endian:
 *
 *   0  u32 magic      "vGA1"
 *   4  u16 type       enum agent_message
 *   6  u16 zero
 *   8  u64 session    nonce of the HELLO
 *  16  u64 mask       XORed over the payload, eight bytes at a time
 *  24  u32 sequence   frames of this session and direction so far, HELLO and HELLO_ACK not counted
 *  28  u32 length     of the payload
 *  32  u32 payload_sum  XXH3-64, lower half, of the payload as sent; DATA: 0, an image has its own
 *  36  u32 header_sum   XXH3-64, lower half, of bytes 0..35
 *  40  payload
 */
#define AGENT_PORT_NAME "org.vmgraft.agent.0"
// In the agent's file, with the version behind it: who it is can be read without running it.
#define AGENT_VERSION_MARK      "vmgraft-agent, version "
#define AGENT_PROTOCOL          1
#define AGENT_FRAME_HEADER      40u
#define AGENT_FRAME_HOST_BYTES  (64u << 10) // longest payload that a host sends
#define AGENT_FRAME_AGENT_BYTES (1u << 20)  // longest payload that an agent sends

enum agent_side { AGENT_SIDE_HOST, AGENT_SIDE_AGENT };

enum agent_message {
#define MESSAGE(NAME, number, name, from, doc) AGENT_##NAME = number,
#include "guestagent/protocol.def"
    AGENT_N_MESSAGES = 64,
};

// "hello-ack"; "?" for numbers that are none.
const char *agent_message_name(enum agent_message type);

struct agent_frame {
    enum agent_message type;
    uint64_t session;
    const uint8_t *payload; // borrowed until the next agent_wire_next or agent_wire_read
    uint32_t length;
};

/*
 * An AgentWire is one end of a channel: what was read and is not yet a frame, what is to be written
 * and which session both belong to. It owns no descriptor and never blocks by itself. What is no
 * frame of this session is passed over in silence: after a host went away, the ring of a
 * virtio-serial port may still hold what it sent.
 */
typedef struct AgentWire AgentWire;

AgentWire *agent_wire_new(enum agent_side side);
void agent_wire_free(AgentWire *w); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AgentWire, agent_wire_free)

// From now on frames carry and must carry this session id; both sequences start again; what was
// queued and not yet begun to be written is dropped.
void agent_wire_set_session(AgentWire *w, uint64_t session);
uint64_t agent_wire_session(const AgentWire *w);

// Queues a message. A payload longer than our side may send is a programming error. JSON is taken
// over; NULL stands for {}.
void agent_wire_queue(AgentWire *w, enum agent_message type, const void *payload, size_t len);
void agent_wire_queue_json(AgentWire *w, enum agent_message type, struct json_object *take);
// Queues zeros that complete whatever frame a dead session left unfinished at the other end.
void agent_wire_queue_padding(AgentWire *w);
size_t agent_wire_pending(const AgentWire *w); // queued bytes that were not yet written

// Session 0 is for two processes of one machine that trust each other: no masks.
//
// As read(2), once (take all frames out before), and write(2), until all is written or the
// descriptor would block: the latter is no error. -1 sets errno.
ssize_t agent_wire_read(AgentWire *w, int fd);
int agent_wire_write(AgentWire *w, int fd);
// Adds bytes as if read; for tests. Returns how many were taken.
size_t agent_wire_feed(AgentWire *w, const void *data, size_t len);

enum agent_wire_result {
    AGENT_WIRE_FRAME, // *ret is the next one
    AGENT_WIRE_MORE,  // nothing complete: read
    AGENT_WIRE_LOST,  // a frame of this session is missing: the session cannot go on
};
// An agent takes a HELLO of any session; setting that session is up to the caller.
enum agent_wire_result agent_wire_next(AgentWire *w, struct agent_frame *ret);

// The JSON object of a control message; PROTOCOL error where it is none. Free with json_object_put.
struct json_object *agent_frame_json(const struct agent_frame *frame, GError **error);

// Members of a message; the default where missing or of another type. Strings are borrowed.
const char *agent_json_string(struct json_object *obj, const char *key, const char *otherwise);
int64_t agent_json_int(struct json_object *obj, const char *key, int64_t otherwise);
bool agent_json_bool(struct json_object *obj, const char *key);

// {key: [...]} from a GPtrArray of char * or a GArray of uint32_t (NULL: empty), cut to what a
// frame can hold.
struct json_object *agent_json_strings(const char *key, const GPtrArray *strings);
struct json_object *agent_json_pids(const char *key, const GArray *pids);
// The reverse: appends copies of the strings (numbers) of the array at key.
void agent_json_get_strings(struct json_object *obj, const char *key, GPtrArray *ret);
void agent_json_get_pids(struct json_object *obj, const char *key, GArray *ret);
