// SPDX-License-Identifier: GPL-2.0-or-later
// XXH3 of 64 and 128 bits, computed with plain integers: an emulated CPU does that several times as
// fast as vectors, and the agent runs on one wherever there is no KVM. The values are those of
// libxxhash.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <glib.h>

struct fmt_hash128 {
    uint64_t lo;
    uint64_t hi;
};

uint64_t fmt_hash64(const void *data, size_t len);
struct fmt_hash128 fmt_hash128(const void *data, size_t len);

// The same for data that comes in pieces. One state gives either width, at any time.
typedef struct FmtHash FmtHash;

FmtHash *fmt_hash_new(void);
void fmt_hash_free(FmtHash *hash); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FmtHash, fmt_hash_free)
void fmt_hash_reset(FmtHash *hash);
void fmt_hash_update(FmtHash *hash, const void *data, size_t len);
uint64_t fmt_hash_get64(const FmtHash *hash);
struct fmt_hash128 fmt_hash_get128(const FmtHash *hash);
