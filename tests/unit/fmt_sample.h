// SPDX-License-Identifier: GPL-2.0-or-later
// Images for the tests of formats/.
#pragma once

#include "formats/stream.h"

// Two records of each kind with every field set, and pages of all kinds; in full a run of pages
// that is longer than one extent.
FmtImage *sample_small(void);
FmtImage *sample_full(void);

// The least that looks like a process: one thread, one mapping, one page.
FmtImage *sample_tiny(void);

GByteArray *sample_encode(const FmtImage *img);

// Decodes bytes that are fed in pieces of piece_bytes. Contents are checked and dropped.
bool sample_decode(const uint8_t *data, size_t len, size_t piece_bytes, FmtImage **ret,
                   GError **error);

// Fails the test unless all records, extents and contents are the same.
void sample_assert_equal(const FmtImage *a, const FmtImage *b);

// A folder that is gone after sample_rmdir, and whether it is empty.
char *sample_mkdir(void);
bool sample_dir_is_empty(const char *dir);
void sample_rmdir(char *dir);
