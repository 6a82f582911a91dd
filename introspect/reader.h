// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: reading many members in a row with one check at the end.
#pragma once

#include "introspect/kernel.h"

/*
 * The first error sticks and everything read after it is 0, so a function reads what it needs and
 * asks once whether all of it was there:
 *
 *   g_auto(IntroReader) r = INTRO_READER(k);
 *   rec->pid = rd(&r, task, M_task_pid);
 *   struct gva mm = rd_ptr(&r, task, M_task_mm);
 *   if (!rd_done(&r, error)) return false;
 *
 * Loops must look at r.error (or at a value that 0 ends): what is read after an error is 0, not
 * garbage.
 */
typedef struct {
    IntroKernel *k;
    GError *error;
} IntroReader;

#define INTRO_READER(kernel)                                                                       \
    {                                                                                              \
        .k = (kernel)                                                                              \
    }

static inline void intro_reader_clear(IntroReader *r)
{
    g_clear_error(&r->error);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(IntroReader, intro_reader_clear)

uint64_t rd(IntroReader *r, struct gva obj, enum intro_member member);
struct gva rd_ptr(IntroReader *r, struct gva obj, enum intro_member member);
// For OPTIONAL members: otherwise where this kernel does not have it.
uint64_t rd_opt(IntroReader *r, struct gva obj, enum intro_member member, uint64_t otherwise);
// The whole member as bytes: at most size_bytes, the rest of ret is zeroed.
void rd_bytes(IntroReader *r, struct gva obj, enum intro_member member, void *ret,
              size_t size_bytes);
uint32_t rd_u32_at(IntroReader *r, struct gva at);
uint64_t rd_u64_at(IntroReader *r, struct gva at);
struct gva rd_ptr_at(IntroReader *r, struct gva at);

// The address of element i of an array member whose elements are stride bytes.
static inline struct gva rd_elem(IntroReader *r, struct gva obj, enum intro_member member,
                                 uint64_t i, uint32_t stride)
{
    return GVA(intro_member_addr(r->k, obj, member).addr + i * stride);
}

// A time in two members, as nanoseconds.
static inline int64_t rd_time_ns(IntroReader *r, struct gva obj, enum intro_member sec,
                                 enum intro_member nsec)
{
    return (int64_t)(rd(r, obj, sec) * UINT64_C(1000000000) + rd(r, obj, nsec));
}

// True where everything was read; else moves the error out.
bool rd_done(IntroReader *r, GError **error);
