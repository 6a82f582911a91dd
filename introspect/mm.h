// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: address spaces (struct mm_struct) and their mappings (struct vm_area_struct).
#pragma once

#include "introspect/context.h"
#include "introspect/reader.h"

// Resident memory as /proc/PID/statm counts it.
uint64_t intro_mm_rss_bytes(IntroReader *r, struct gva mm);

// Calls fn with each vm_area_struct in order of address: from the maple tree (6.1) or the list
// before it.
bool intro_walk_vmas(IntroKernel *k, struct gva mm, intro_node_fn fn, void *user, GError **error);

// Reads an address space into MM and VMA records and wants its pages. Returns the objref of the MM
// record.
uint64_t intro_mm(struct intro_ctx *c, struct gva mm, GError **error);

// To be called when the whole tree has been read: refuses address spaces that a process outside of
// it uses as well (vfork, CLONE_VM).
bool intro_mm_check_peers(struct intro_ctx *c, GError **error);

// mapping.c: one vm_area_struct into a VMA record of mm_ref, and its pages.
bool intro_mapping(struct intro_ctx *c, struct gva vma, struct gva mm, uint64_t mm_ref,
                   GError **error);

// maple.c: the entries of a maple tree (struct maple_tree) that are pointers, in order.
bool intro_walk_maple(IntroKernel *k, struct gva tree, size_t max, intro_node_fn fn, void *user,
                      GError **error);

// FMT_VMA_* of the kernel's vm_flags.
uint64_t intro_vma_flags(uint64_t vm_flags);
