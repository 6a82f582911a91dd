// SPDX-License-Identifier: GPL-2.0-or-later
// A command to run: what was asked for, and the process made of it.

#pragma once

#include <pwd.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define COMMAND_MAX_WORDS 4096

struct command {
    bool detach;
    const char *user;   // name or number, NULL: root
    const char *output; // file for the output of a detached command, NULL: /dev/null
    char *argv[COMMAND_MAX_WORDS + 1];
};

// Parse the payload of EXEC: options "name=value", an empty string, then the words of the command,
// each ending in a NUL. The result points into `data`.
bool command_parse(char *data, size_t length, struct command *ret);

// Find `user`, by name or number; a number need not be known. The strings of the result are valid
// until the next call.
bool command_user(const char *user, struct passwd *ret);

// Run the command in a session of its own with fds[] as its descriptors 0, 1 and 2, and no others.
// All of fds must lie above 2. The pid, which is the command's own, or -1 with errno set.
pid_t command_spawn(const struct command *command, const struct passwd *user, const int fds[3]);
