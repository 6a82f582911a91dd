// SPDX-License-Identifier: GPL-2.0-or-later
// A cursor over big-endian bytes that fails once and for all at the end. Internal to vmm/.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmm_bytes {
    const uint8_t *data;
    size_t len;
    size_t at;
    bool failed; // something was asked for beyond the end; everything reads as 0 from there
};

static inline uint64_t vmm_bytes_take(struct vmm_bytes *b, size_t n)
{
    uint64_t value = 0;

    if (b->failed || b->len - b->at < n) {
        b->failed = true;
        return 0;
    }
    while (n-- > 0)
        value = value << 8 | b->data[b->at++];
    return value;
}

static inline void vmm_bytes_skip(struct vmm_bytes *b, size_t n)
{
    if (b->failed || b->len - b->at < n)
        b->failed = true;
    else
        b->at += n;
}

static inline uint8_t vmm_bytes_u8(struct vmm_bytes *b)
{
    return (uint8_t)vmm_bytes_take(b, 1);
}

static inline uint16_t vmm_bytes_u16(struct vmm_bytes *b)
{
    return (uint16_t)vmm_bytes_take(b, 2);
}

static inline uint32_t vmm_bytes_u32(struct vmm_bytes *b)
{
    return (uint32_t)vmm_bytes_take(b, 4);
}

static inline uint64_t vmm_bytes_u64(struct vmm_bytes *b)
{
    return vmm_bytes_take(b, 8);
}
