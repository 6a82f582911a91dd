// SPDX-License-Identifier: GPL-2.0-or-later
// The notes of an ELF core.
#pragma once

#include "formats/image.h"

// All notes of a process, in the order of the kernel's own cores. img and proc are borrowed.
GByteArray *fmt_core_notes(const FmtImage *img, const struct fmt_proc *proc);
