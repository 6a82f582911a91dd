// SPDX-License-Identifier: GPL-2.0-or-later
// Bytes from the other end of the agent's channel: frames and the JSON in them.
#include "fuzz.h"
#include "guestagent/protocol.h"

// The first byte chooses which end reads; the session is that of the corpus.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(AgentWire) wire = NULL;
    g_autoptr(GPtrArray) strings = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) pids = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    enum agent_wire_result got = AGENT_WIRE_MORE;
    struct agent_frame frame;

    if (size == 0)
        return 0;
    wire = agent_wire_new(data[0] & 1 ? AGENT_SIDE_HOST : AGENT_SIDE_AGENT);
    agent_wire_set_session(wire, 7);
    for (size_t at = 1; at < size && got != AGENT_WIRE_LOST;) {
        at += agent_wire_feed(wire, data + at, size - at);
        while ((got = agent_wire_next(wire, &frame)) == AGENT_WIRE_FRAME) {
            struct json_object *obj = agent_frame_json(&frame, NULL);

            if (!obj)
                continue;
            agent_json_string(obj, "message", NULL);
            agent_json_int(obj, "protocol", 0);
            agent_json_bool(obj, "new_pid_namespace");
            agent_json_get_strings(obj, "reasons", strings);
            agent_json_get_pids(obj, "pids", pids);
            json_object_put(obj);
        }
    }
    return 0;
}
