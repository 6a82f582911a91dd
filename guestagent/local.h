// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft-agent --restore FILE: one shot, without a host.
#pragma once

#include <stdbool.h>

// Restores the image file and prints the pids, one on each line, root first; notes and reasons go
// to stderr. Returns the exit status: 0 done, 1 failed, 3 refused.
int agent_local_main(const char *path, bool new_pid_namespace);
