// SPDX-License-Identifier: GPL-2.0-or-later
// The compressed names of kallsyms.
#pragma once

#include "introspect/kallsyms.h"

#define INTRO_KALLSYMS_MAX_SYMBOLS    (1u << 22) // ten times what a large kernel has
#define INTRO_KALLSYMS_MAX_NAME_BYTES 1024       // KSYM_NAME_LEN is 512 since 6.1, with the NUL
#define INTRO_KALLSYMS_TOKENS         256
#define INTRO_KALLSYMS_MARKER_EVERY   256 // names from one marker to the next

// How many bytes hold the length of a name: up to 6.0 always one; since 6.1 two where bit 7 of the
// first is set. A table without long names is the same in both.
enum intro_kallsyms_lengths { INTRO_LENGTHS_LONG, INTRO_LENGTHS_SHORT, INTRO_N_LENGTHS };

// Steps over the name at *at in names[0..len): its tokens are [*ret_start, *at) then.
bool intro_kallsyms_step(enum intro_kallsyms_lengths lengths, const uint8_t *names, size_t len,
                         size_t *at, size_t *ret_start);

// Walks n names in names[0..len) and finds the markers right behind them; false where they do not
// agree with the names. *ret_markers is where they start.
bool intro_kallsyms_check_names(enum intro_kallsyms_lengths lengths, const uint8_t *names,
                                size_t len, uint32_t n, size_t *ret_markers);

// All names, expanded and NUL-terminated one behind the other; *ret_starts holds the uint32_t
// offset of each, in the order of the table.
bool intro_kallsyms_read_names(const struct intro_kallsyms_tables *tables, intro_image_read_fn read,
                               void *user, GString **ret_names, GArray **ret_starts,
                               GError **error);
