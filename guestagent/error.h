// SPDX-License-Identifier: GPL-2.0-or-later
// The error domain of the agent.
#pragma once

#include <glib.h>
#include <stdbool.h>

#define AGENT_ERROR (agent_error_quark())
GQuark agent_error_quark(void);

enum agent_error {
    AGENT_ERROR_FAILED,   // a step failed on this machine
    AGENT_ERROR_REFUSED,  // cannot be done; the reasons are in a list beside the error
    AGENT_ERROR_MISMATCH, // contents of a file here are not those of the source
    AGENT_ERROR_IMAGE,    // the image contradicts itself
    AGENT_ERROR_CHANNEL,  // the port is not there, cannot be opened, or broke
    AGENT_ERROR_PROTOCOL, // the other side says what it may not say
};

// Sets error from errno: "<what>: <strerror>". Returns false.
bool agent_set_errno(GError **error, enum agent_error code, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
