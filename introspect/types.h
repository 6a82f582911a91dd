// SPDX-License-Identifier: GPL-2.0-or-later
// Where knowledge of the kernel's types comes from: BTF, or a layout profile.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "introspect/layout.h"

/*
 * A source answers for single names, without alternatives: those are layout.c's matter. A path is
 * "a.b.c" as layout.def has it. Answers are false where there is no such thing (or it is hostile
 * nonsense, which comes to the same).
 */
typedef struct IntroTypes IntroTypes;

struct intro_types_ops {
    bool (*member)(const IntroTypes *types, const char *type, const char *path,
                   struct intro_place *ret);
    bool (*size)(const IntroTypes *types, const char *type, uint32_t *ret_bytes);
    bool (*constant)(const IntroTypes *types, const char *name, int64_t *ret);
    void (*free)(IntroTypes *types);
};

// The first member of each source's own structure.
struct IntroTypes {
    const struct intro_types_ops *ops;
};

static inline void intro_types_free(IntroTypes *types)
{
    if (types)
        types->ops->free(types);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(IntroTypes, intro_types_free)

// From raw BTF (copied). CORRUPT where libbpf does not take it.
#define INTRO_BTF_MAX_BYTES (64u << 20) // ten times what a distribution's kernel has
IntroTypes *intro_types_from_btf(const void *btf, size_t len, GError **error);

// From a JSON layout profile (see profile.c). *ret_release is the kernel it is for, to be freed.
IntroTypes *intro_types_from_profile(const char *path, char **ret_release, GError **error);

// What layout.def asks for, in one kernel.
struct intro_layout {
    struct intro_place places[INTRO_N_MEMBERS];
    uint32_t type_bytes[INTRO_N_TYPES];
    struct {
        bool present;
        int64_t value;
    } constants[INTRO_N_CONSTANTS + 1]; // there may be none
};

// Resolves all of layout.def; the LAYOUT error names every REQUIRED thing that is missing.
bool intro_layout_resolve(const IntroTypes *types, struct intro_layout *ret, GError **error);
