// SPDX-License-Identifier: GPL-2.0-or-later
// What /proc/self/smaps says of each mapping and must say after a move as well.
#pragma once

// Remembers it. To be called when everything is set up, and not while the subject may be moved: an
// open file of /proc is refused.
void smaps_remember(void);
// Fails the subject at the first mapping that differs from what was remembered.
void smaps_check(void);
