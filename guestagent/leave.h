// SPDX-License-Identifier: GPL-2.0-or-later
// What a tree that has moved away leaves behind in the kernel, and is to be removed with it.
#pragma once

#include <glib.h>

// Each is "sem ID", "msg ID", "shm ID" or "queue /NAME" (char *), as FINISH has them. What is not
// there any more, or is none of these, is passed over.
void agent_leave(const GPtrArray *things);
