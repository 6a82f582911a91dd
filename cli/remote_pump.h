// SPDX-License-Identifier: GPL-2.0-or-later
// What two vmgrafts on two hosts say to each other over ssh: some streams, and the few words
// around.
#pragma once

#include "cli/cli.h"

/*
 *   near (the user's)                                far (vmgraft remote-helper)
 *
 *    |  <------------- "vmgraft-remote VERSION\n"   |  after what a shell may print
 *    |  RUN ["capture", ...] -------------------->  |  runs that vmgraft command
 *    |  DATA 0, END 0 --------------------------->  |  its standard input
 *    |  <------------------ DATA 1, 2; END 1, 2     |  its output
 *    |  DATA 3, END 3 <---------> DATA 3, END 3     |  its descriptor 3: an image, or the
 *    |                                              |  channel of an agent
 *    |  SIGNAL ---------------------------------->  |  Ctrl-C, for the command to undo
 *    |  <---------------------------------- EXIT    |  its end
 *    |  ALIVE <------------------------> ALIVE      |  each 3 s
 *
 * Whoever hears nothing for 15 s takes the other for lost, as at the end of the file. At the far
 * end the command is then told by SIGHUP and the ends of its streams: it undoes, or completes, as
 * it does with a terminal that goes away.
 *
 * Frame: u8 kind, u8 stream, u16 zero, u32 length, little endian; then the payload.
 */
#define CLI_PUMP_GREETING "vmgraft-remote "
#define CLI_PUMP_STREAMS  4
#define CLI_PUMP_IMAGE    CLI_STREAM_FD // the stream with a descriptor of its own

enum cli_pump_kind {
    CLI_PUMP_DATA,
    CLI_PUMP_END,
    CLI_PUMP_RUN,    // JSON: an array of strings
    CLI_PUMP_SIGNAL, // u8
    CLI_PUMP_EXIT,   // u8 exit code, u8 signal that ended it or 0
    CLI_PUMP_ALIVE,
    CLI_PUMP_N_KINDS,
};

typedef struct CliPump CliPump;

// The descriptors, here and below, are the pump's from now on.
CliPump *cli_pump_new(int in, int out);
void cli_pump_free(CliPump *p); // NULL-safe; closes all
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliPump, cli_pump_free)

// What is read from `from` goes into the stream, what comes out of it to `to`; either may be -1. A
// socket for both is to be given twice, as two descriptors.
void cli_pump_connect(CliPump *p, unsigned stream, int from, int to);

// Queues one of the other words.
void cli_pump_say(CliPump *p, enum cli_pump_kind kind, const void *payload, size_t len);

struct cli_pump_word {
    enum cli_pump_kind kind; // none of DATA, END, ALIVE
    GBytes *payload;         // owned by the caller
};

// Moves what can be moved, and waits at most wait_ms until something can, or until other_fd (-1:
// none) is readable. ret_word: kind is ALIVE where nothing was said. CLI_ERROR_FAILED: the other
// end is lost, or makes no sense.
bool cli_pump_step(CliPump *p, int other_fd, int wait_ms, struct cli_pump_word *ret_word,
                   GError **error);

// Writes what has come for our side, and only that; for the end. False where a reader has gone.
bool cli_pump_drain(CliPump *p, GError **error);
// Sends what is there to be read on our side, and what is queued; for the end.
bool cli_pump_flush(CliPump *p, GError **error);
