// SPDX-License-Identifier: GPL-2.0-or-later
// Internal: pages that processes of the tree share since a fork, until one of them writes.
#pragma once

#include "introspect/context.h"

/*
 * In a tree of processes the pages of private memory are collected first (intro_cow_want), in the
 * order of address spaces and addresses, and wanted when all are known (intro_cow_resolve): those
 * that several address spaces have in the same frame at the same address once, as pages of a
 * COW_SET.
 */
typedef struct intro_cow intro_cow;

struct intro_cow *intro_cow_new(IntroKernel *k);
void intro_cow_free(struct intro_cow *cow); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(intro_cow, intro_cow_free)

// size_bytes of guest memory at `from` are the pages from `start` on of a private mapping. `maybe`:
// the page tables forbid to write there, as they do where a frame is shared.
void intro_cow_want(struct intro_cow *cow, const struct fmt_vma *vma, uint64_t start,
                    struct gpa from, uint64_t size_bytes, bool maybe);

// Makes the COW and COW_SET records of c->img and wants all pages that were collected in c->cow.
void intro_cow_resolve(struct intro_ctx *c);
