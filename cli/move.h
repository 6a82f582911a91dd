// SPDX-License-Identifier: GPL-2.0-or-later
// A move from guest to guest as a two-phase commit: at every point of failure one copy lives.
#pragma once

#include "cli/capture.h"

/*
 *   source                 this process              target              if we fail here
 *
 *                  <-----  FREEZE                                        nothing was done
 *   all stopped    ----->  pause, take, resume                           source goes on
 *                          RESTORE, image  ------->  checks, builds      target aborts, source goes
 * on
 *                                          <-------  PREPARED            target aborts, source goes
 * on HOLD            ------->  keeps it            both wait: agent abort | release
 *   - - - - - - - - - - - - - - - point of no return - - - - - - - - - - - - - - - - - - - - - - -
 * - kills it       <-----  FINISH                                        looked up from outside
 *                  ----->  FINISHED                                      target holds: agent
 * release RELEASE         ------->  lets it run
 *                                          <-------  RELEASED            done
 */
// One side of a move, as its user knows it.
struct cli_move_side {
    const char *operand;
    const char *uri;   // of libvirt, NULL: as virsh has it
    const char *shown; // for messages
    const char *words; // for a command line that names it
};

struct cli_move_options {
    struct cli_move_side source, target;
    int target_channel;  // a stream to remote-channel (channel.h), taken over; -1: the target is a
                         // guest of this host
    const char *process; // see select.h; pid is what it turned out to be
    uint32_t pid;
    bool copy; // the original lives on: no freeze, no finish
    bool new_pid_namespace;
    GPtrArray *allow;     // as in struct intro_capture_options
    uint64_t carry_bytes; // likewise
    bool disks;           // what of it is not in the source's memory is read from its disks
    int64_t deadline_ms;  // for a safe moment
    int64_t timeout_ms;   // of the agents
};

struct cli_move_result {
    struct cli_capture_stats capture;
    uint64_t image_bytes;
    int64_t still_ns; // from the freeze, or the capture of a copy, until it ran in the target
    int64_t total_ns;
    GArray *pids;     // uint32_t, in the target, root first
    GPtrArray *notes; // char *
};

void cli_move_result_clear(struct cli_move_result *r);

// Moves; reasons (char *) as in cli_capture. When it fails, what has become of both sides was said
// in notes on stderr, unless the source simply goes on and nothing is left in the target.
bool cli_move(struct cli *cli, struct cli_move_options *options, struct cli_move_result *ret,
              GPtrArray *reasons, GError **error);
