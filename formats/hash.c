// SPDX-License-Identifier: GPL-2.0-or-later
// XXH3 computed with plain integers. To be compiled without automatic vectorization.
#include "formats/hash.h"

#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_SCALAR
#include <xxhash.h>

struct FmtHash {
    XXH3_state_t state;
};

uint64_t fmt_hash64(const void *data, size_t len)
{
    return XXH3_64bits(data, len);
}

struct fmt_hash128 fmt_hash128(const void *data, size_t len)
{
    XXH128_hash_t hash = XXH3_128bits(data, len);

    return (struct fmt_hash128){hash.low64, hash.high64};
}

FmtHash *fmt_hash_new(void)
{
    FmtHash *hash = g_aligned_alloc0(1, sizeof(FmtHash), _Alignof(FmtHash));

    fmt_hash_reset(hash);
    return hash;
}

void fmt_hash_free(FmtHash *hash)
{
    g_aligned_free(hash);
}

void fmt_hash_reset(FmtHash *hash)
{
    XXH3_128bits_reset(&hash->state);
}

void fmt_hash_update(FmtHash *hash, const void *data, size_t len)
{
    XXH3_128bits_update(&hash->state, data, len);
}

uint64_t fmt_hash_get64(const FmtHash *hash)
{
    return XXH3_64bits_digest(&hash->state);
}

struct fmt_hash128 fmt_hash_get128(const FmtHash *hash)
{
    XXH128_hash_t value = XXH3_128bits_digest(&hash->state);

    return (struct fmt_hash128){value.low64, value.high64};
}
