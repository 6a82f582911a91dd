// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft-agent: options.
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>

#include "guestagent/local.h"
#include "guestagent/protocol.h"
#include "guestagent/session.h"
#include "guestagent/version.h"

static const char stamp[] __attribute__((used)) = AGENT_VERSION_MARK AGENT_VERSION;

static const char summary[] =
    "Runs inside a guest and does there what the vmgraft command on the host asks for:\n"
    "restoring processes, and holding a process still while it is captured.\n"
    "Needs root. Waits for the virtio-serial port org.vmgraft.agent.0 if it is not there yet.";

static const char description[] =
    "Examples:\n"
    "  vmgraft-agent                      serve the port until SIGTERM\n"
    "  vmgraft-agent --restore job.vmg    bring the process in an image back, without a host\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 usage, 3 refused with reasons (--restore).\n";

int main(int argc, char **argv)
{
    g_autofree char *port = NULL, *restore = NULL;
    gboolean verbose = FALSE, version = FALSE, new_pid_namespace = FALSE;
    GOptionEntry entries[] = {
        {"port", 0, 0, G_OPTION_ARG_FILENAME, &port, "Serve this device or unix socket", "PATH"},
        {"restore", 0, 0, G_OPTION_ARG_FILENAME, &restore, "Restore this image and exit", "FILE"},
        {"new-pid-namespace", 0, 0, G_OPTION_ARG_NONE, &new_pid_namespace,
         "With --restore: in a pid namespace of its own", NULL},
        {"verbose", 'v', 0, G_OPTION_ARG_NONE, &verbose, "Say what happens", NULL},
        {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Print the version", NULL},
        G_OPTION_ENTRY_NULL,
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_set_summary(context, summary);
    g_option_context_set_description(context, description);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "vmgraft-agent: %s; see vmgraft-agent --help\n", error->message);
        return 2;
    }
    if (argc > 1) {
        fprintf(stderr, "vmgraft-agent: takes no operand '%s'; see vmgraft-agent --help\n",
                argv[1]);
        return 2;
    }
    if (version) {
        printf("vmgraft-agent %s\n", AGENT_VERSION);
        return EXIT_SUCCESS;
    }
    if (restore)
        return agent_local_main(restore, new_pid_namespace);

    struct agent_session_options options = {.port_path = port, .verbose = verbose};

    if (!agent_session_run(&options, &error)) {
        fprintf(stderr, "vmgraft-agent: %s\n", error->message);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
