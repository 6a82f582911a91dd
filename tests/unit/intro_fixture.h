// SPDX-License-Identifier: GPL-2.0-or-later
// Pieces of a kernel made by hand: guest memory, kallsyms tables.
#pragma once

#include <glib.h>

#include "introspect/kallsyms.h"
#include "vmm/memory.h"

// Guest RAM of n_pages from address 0 on, all zero.
struct fixture_ram {
    uint8_t *bytes;
    size_t n_pages;
    VmmMemory *mem;
};

void fixture_ram_init(struct fixture_ram *ram, size_t n_pages);
void fixture_ram_clear(struct fixture_ram *ram);

void fixture_put_u64(struct fixture_ram *ram, uint64_t at, uint64_t value);
void fixture_put_text(struct fixture_ram *ram, uint64_t at, const char *text);
// The ELF note whose description is text.
void fixture_put_note(struct fixture_ram *ram, uint64_t at, const char *text);

struct fixture_symbol {
    uint64_t address;
    const char *name; // with its type letter in front
};

enum fixture_kallsyms {
    FIXTURE_6_1,  // offsets first; addresses from the base, absolute ones from 0
    FIXTURE_6_4,  // offsets last
    FIXTURE_6_15, // offsets last; no absolute addresses
    FIXTURE_7_0,  // offsets last, each relative to its own place
};

// Writes the tables into out as they lie from the address `at` on.
void fixture_kallsyms(enum fixture_kallsyms kind, bool short_lengths,
                      const struct fixture_symbol *symbols, size_t n, uint64_t at, GByteArray *out,
                      struct intro_kallsyms_tables *ret);
