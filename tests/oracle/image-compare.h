// SPDX-License-Identifier: GPL-2.0-or-later
// What the parts of image-compare share.
#pragma once

#include "formats/image.h"

struct compare {
    FmtImage *a, *b;             // from outside, from inside
    GHashTable *a_to_b, *b_to_a; // objrefs that were found to be one object
    GString *where;              // names the record that is being compared
    bool in_mapping;             // what is referred to is referred to by a mapping
    bool running;                // threads run: registers, stacks and times are not compared
    bool no_pages;               // records alone
    bool quiet;
    unsigned n_differences;
    uint64_t n_pages; // compared
};

void compare_differ(struct compare *c, const char *format, ...) G_GNUC_PRINTF(2, 3);

// All of both images, anew.
void compare_images(struct compare *c);
bool compare_is_passed_over(enum fmt_type type, const char *field);
bool compare_is_owner(enum fmt_type type, const char *field);
// a and b are the same image: whether every change of a is noticed; lists what is not.
bool compare_try(struct compare *c);

// Compares a field that needs more than equality; false where it is none of these.
bool compare_special(struct compare *c, const void *a, const void *b, const char *field);
// Contents of an address space, of shared memory, of a file.
void compare_pages(struct compare *c, const void *a, const void *b);
