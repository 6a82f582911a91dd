// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's own symbol table, decoded once.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "introspect/vmcoreinfo.h"

typedef struct IntroKallsyms IntroKallsyms;

// Reads len bytes of the kernel image at a kernel virtual address.
typedef bool (*intro_image_read_fn)(void *user, struct gva at, void *ret, size_t len,
                                    GError **error);

// Where the tables are: kernel virtual addresses. The markers follow the names and are found there.
// relative_base is 0 where the kernel has none.
struct intro_kallsyms_tables {
    uint64_t num_syms, names, token_table, token_index, offsets, relative_base;
};

// The tables as VMCOREINFO tells them (since 6.0); false where it does not.
bool intro_kallsyms_tables_from(const IntroVmcoreinfo *info, struct intro_kallsyms_tables *ret);

// Searches the kernel image for the tables (5.10 and other kernels before 6.0). `image` is a copy
// of image_len bytes of it from the address image_at.
bool intro_kallsyms_tables_search(const uint8_t *image, size_t image_len, struct gva image_at,
                                  struct intro_kallsyms_tables *ret, GError **error);

// Decodes all symbols; what does not reproduce stext as the address of _stext is CORRUPT.
IntroKallsyms *intro_kallsyms_new(const struct intro_kallsyms_tables *tables, uint64_t stext,
                                  intro_image_read_fn read, void *user, GError **error);
void intro_kallsyms_free(IntroKallsyms *syms); // NULL-safe
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IntroKallsyms, intro_kallsyms_free)

// All symbols in order of address. i is below the count; the name is borrowed.
size_t intro_kallsyms_count(const IntroKallsyms *syms);
const char *intro_kallsyms_get(const IntroKallsyms *syms, size_t i, uint64_t *ret_address);

// Several static symbols may share a name: then it is the one with the lowest address.
bool intro_kallsyms_find(const IntroKallsyms *syms, const char *name, uint64_t *ret);

// The name of the greatest symbol at or below `at`, within [_text, _end); else NULL. Borrowed.
const char *intro_kallsyms_at(const IntroKallsyms *syms, uint64_t at, uint64_t *ret_offset);
