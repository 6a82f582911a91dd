// SPDX-License-Identifier: GPL-2.0-or-later
// The pause loop: takes a process tree at a moment at which all its threads are at a safe point.
#pragma once

#include "cli/guest.h"
#include "formats/image.h"
#include "introspect/capture.h"

#define CLI_CAPTURE_DEADLINE_S 10.0

// The options that take files along, as given.
typedef struct cli_carry {
    gboolean files;
    char *limit; // NULL: the default
} cli_carry;

#define CLI_CARRY_OPTIONS(carry)                                                                   \
    {"carry-files",                                                                                \
     0,                                                                                            \
     0,                                                                                            \
     G_OPTION_ARG_NONE,                                                                            \
     &(carry)->files,                                                                              \
     "Take small regular files along, for a target that lacks them",                               \
     NULL},                                                                                        \
    {                                                                                              \
        "carry-limit", 0, 0, G_OPTION_ARG_STRING, &(carry)->limit,                                 \
            "Files of up to this size are small: bytes, or with K, M, G (default 1M); implies "    \
            "--carry-files",                                                                       \
            "SIZE"                                                                                 \
    }

// The carry_bytes of a capture.
bool cli_parse_carry(const struct cli_carry *carry, uint64_t *ret_bytes, GError **error);
void cli_carry_clear(struct cli_carry *carry);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(cli_carry, cli_carry_clear)

struct cli_capture_stats {
    uint64_t pause_ns; // of the take that succeeded; 0 where the guest was left or found paused
    int64_t taken_ns;  // CLOCK_MONOTONIC of the host at that pause
    unsigned n_takes;  // pauses that it needed
    uint64_t n_pages;  // with contents
};

// With what is left of a guest that was paused: --leave-paused.
enum cli_after { CLI_AFTER_RESUME, CLI_AFTER_LEAVE_PAUSED };

// On CLI_ERROR_REFUSED the reasons (char *) were added to `reasons`. The guest runs again when this
// returns, unless it was paused before or is to be left so.
FmtImage *cli_capture(struct cli *cli, struct cli_guest *guest,
                      const struct intro_capture_options *options, int64_t deadline_ms,
                      enum cli_after after, struct cli_capture_stats *ret, GPtrArray *reasons,
                      GError **error);

// Adds pause_ms, pages ... to a JSON object.
void cli_capture_add_json(const struct cli_capture_stats *stats, struct json_object *obj);
