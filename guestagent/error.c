// SPDX-License-Identifier: GPL-2.0-or-later
// The error domain of the agent.
#include "guestagent/error.h"

#include <errno.h>

GQuark agent_error_quark(void)
{
    return g_quark_from_static_string("agent-error");
}

bool agent_set_errno(GError **error, enum agent_error code, const char *format, ...)
{
    int err = errno;
    va_list args;

    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, AGENT_ERROR, (int)code, "%s: %s", what, g_strerror(err));
    errno = err;
    return false;
}
