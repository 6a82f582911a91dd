// SPDX-License-Identifier: GPL-2.0-or-later
// Makes an image of a live process by ptrace and /proc, for tests of the exporters.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "formats/image.h"

// Stops all threads of pid, says whether `ready` takes their registers, makes the image if so, and
// lets them go on. NULL where they were not ready.
FmtImage *live_image(pid_t pid, bool (*ready)(const FmtImage *img));
