// SPDX-License-Identifier: GPL-2.0-or-later
// The object behind a restore: made by plan.c, driven by restore.c.
#pragma once

#include "guestagent/restore.h"

// The tree of the image; fails where the image contradicts itself.
AgentRestore *agent_restore_new(FmtImage *meta, const struct agent_restore_options *opt,
                                GError **error);
void agent_restore_free(AgentRestore *r); // frees memory only; NULL-safe

// Refusals that concern the image and the machine as a whole.
void agent_plan_machine(AgentRestore *r);
