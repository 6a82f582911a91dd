// SPDX-License-Identifier: GPL-2.0-or-later
// What a CPU offers to programs, as names: CPU.features of an image.
#pragma once

#include <glib.h>
#include <stdint.h>

// Names of cpu_features.def, separated by one space, in the order of the table; "" for none. To be
// freed by the caller.

// From the kernel's boot_cpu_data.x86_capability. Words from n_words on count as 0.
char *fmt_cpu_features_from_kernel(const uint32_t *words, size_t n_words);

// Of the CPU this runs on, as far as the running kernel lets programs use it.
char *fmt_cpu_features_here(void);

// XCR0 of the CPU this runs on: the XSAVE components that its kernel has enabled. 0: it has no
// XSAVE.
uint64_t fmt_cpu_xcr0_here(void);

// Names in `needed` that `have` lacks; NULL where nothing is missing. What only makes programs
// faster does not count; a name that is not in the table does. Either may be NULL for none.
char *fmt_cpu_features_missing(const char *needed, const char *have);
