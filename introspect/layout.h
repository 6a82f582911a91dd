// SPDX-License-Identifier: GPL-2.0-or-later
// Which members of which kernel structures we read, and where they are in this kernel.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/addr.h"

/*
 * layout.def has one line for each member that is read anywhere. Offsets are resolved once, from
 * BTF. A member that changed its name or place has its alternatives in order; none of the code
 * compares kernel versions. Code reads a member by its id:
 *
 *   struct gva task = ...;
 *   uint64_t pid;
 *   if (!intro_get(k, task, M_task_pid, &pid, error)) ...
 */
enum intro_member {
#define MEMBER(id, need, type, path, doc) M_##id,
#include "introspect/layout.def"
    INTRO_N_MEMBERS,
};

// Types whose size we need (array strides, the end of task_struct ...).
enum intro_type {
#define TYPE(id, need, name, doc) T_##id,
#include "introspect/layout.def"
    INTRO_N_TYPES,
};

// Enumerators and other constants that BTF knows by name (PG_locked, XA ...).
enum intro_const {
#define CONSTANT(id, need, name, doc) C_##id,
#include "introspect/layout.def"
    INTRO_N_CONSTANTS,
};

struct intro_place {
    bool present;
    uint8_t bit_offset;  // bitfields: lowest bit within the little-endian word at offset; else 0
    uint8_t bit_size;    // bitfields: width; else 0
    bool is_signed;      // scalars are sign extended
    uint32_t offset;     // bytes from the start of the structure
    uint32_t size_bytes; // of the whole member; of an array, all of it
    uint32_t n_elements; // arrays: the number of elements (0: flexible); else 1
    uint8_t alternative; // which of the '|' alternatives matched, from 0
};

typedef struct IntroKernel IntroKernel;

// Place of a member. present is false for an OPTIONAL one that this kernel does not have.
const struct intro_place *intro_place(const IntroKernel *k, enum intro_member member);
static inline bool intro_has(const IntroKernel *k, enum intro_member member)
{
    return intro_place(k, member)->present;
}
// sizeof(type) in bytes; 0 where OPTIONAL and absent.
uint32_t intro_sizeof(const IntroKernel *k, enum intro_type type);
bool intro_constant(const IntroKernel *k, enum intro_const c, int64_t *ret);

// The address of a member within the structure at obj.
struct gva intro_member_addr(const IntroKernel *k, struct gva obj, enum intro_member member);

// Reads a scalar member (at most 8 bytes; bitfields; sign or zero extended). LAYOUT error where
// this kernel does not have it.
bool intro_get(IntroKernel *k, struct gva obj, enum intro_member member, uint64_t *ret,
               GError **error);
// The same for a pointer.
bool intro_get_ptr(IntroKernel *k, struct gva obj, enum intro_member member, struct gva *ret,
                   GError **error);
// container_of: the structure whose member is at `at`.
struct gva intro_container(const IntroKernel *k, struct gva at, enum intro_member member);
