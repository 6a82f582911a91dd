// SPDX-License-Identifier: GPL-2.0-or-later
// The host's side of the agent protocol.
#pragma once

#include "cli/cli.h"
#include "cli/guest.h"
#include "formats/image.h"
#include "guestagent/protocol.h"
#include "vmm/machine.h"

#define CLI_AGENT_TIMEOUT_S 10.0

/*
 * A CliAgent is one session with the agent of one guest. Freeing it hangs up: the agent then undoes
 * what the session did, but for what was held, released or finished.
 *
 * Every function waits for the agent's answer and fails with
 *   CLI_ERROR_AGENT        it does not answer for the timeout, or breaks the protocol
 *   CLI_ERROR_REFUSED      it refuses; the reasons (char *) were added to `reasons`
 *   CLI_ERROR_FAILED       it tried and failed; everything is as before
 *   CLI_ERROR_INTERRUPTED  a signal came
 * Messages begin with the target's name.
 */
typedef struct CliAgent CliAgent;

struct cli_agent_info {
    const char *version, *release, *hostname; // borrowed from the CliAgent
    int64_t agent_pid;
    const char *held; // what it keeps for a move that was interrupted; NULL for nothing
};

// The channel of the agent in this guest. The error says which command installs it where it is
// missing; words: how a command line names the target.
GSocketConnection *cli_agent_open_channel(VmmMachine *vm, const char *target, const char *words,
                                          GError **error);
// A session over a channel, which is taken over, also on failure.
CliAgent *cli_agent_attach(struct cli *cli, GSocketConnection *channel, const char *target,
                           int64_t timeout_ms, GError **error);
// Both.
CliAgent *cli_agent_connect(struct cli *cli, VmmMachine *vm, const char *target, int64_t timeout_ms,
                            GError **error);
void cli_agent_free(CliAgent *a); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliAgent, cli_agent_free)

const struct cli_agent_info *cli_agent_info(const CliAgent *a);
// Whether it can take a job: it has nothing that it holds.
bool cli_agent_check_free(const CliAgent *a, GError **error);

struct cli_agent_restore_options {
    bool new_pid_namespace;
    int64_t elapsed_ns; // since the capture of a process that never rested; -1: not known
    int64_t asleep_ns;  // since the capture, by wall clocks, of one that did; -1: not known
    cli_guest *target;  // where its RAM can be written to from here (place.h); else NULL
};

// Sends the image, which is good for nothing else afterwards; done when everything is restored and
// stopped. Differences that do no harm are added to notes (char *).
bool cli_agent_restore(CliAgent *a, FmtImage *img, const struct cli_agent_restore_options *options,
                       GPtrArray *notes, GPtrArray *reasons, GError **error);
// From now on the agent keeps what is prepared though we vanish. `note` names it for people.
bool cli_agent_hold(CliAgent *a, const char *note, GError **error);
// pids (uint32_t), root first, as the guest sees them.
bool cli_agent_release(CliAgent *a, GArray *ret_pids, GError **error);
bool cli_agent_abort(CliAgent *a, GError **error);

// tracer_pid is what a capture takes as frozen_by.
bool cli_agent_freeze(CliAgent *a, uint32_t pid, GArray *ret_pids, uint32_t *ret_tracer_pid,
                      GPtrArray *reasons, GError **error);
bool cli_agent_thaw(CliAgent *a, GError **error);
// remove (char *): what the tree leaves in the source's kernel and has taken along, as leave.h
// names it.
bool cli_agent_finish(CliAgent *a, const GPtrArray *remove, GError **error);
