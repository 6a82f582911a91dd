// SPDX-License-Identifier: GPL-2.0-or-later
// Resolves layout.def against one kernel, and reads members by it.
#include <inttypes.h>
#include <string.h>

#include "introspect/kernel.h"
#include "introspect/kernel_private.h"

enum need { REQUIRED, OPTIONAL };

struct wanted {
    enum need need;
    const char *type; // a type's or constant's name, alternatives separated by '|'
    const char *path; // members only
};

static const struct wanted members[] = {
#define MEMBER(id, need, type, path, doc) {need, type, path},
#include "introspect/layout.def"
};

static const struct wanted types_wanted[] = {
#define TYPE(id, need, name, doc) {need, name, NULL},
#include "introspect/layout.def"
};

static const struct wanted constants[] = {
#define CONSTANT(id, need, name, doc) {need, name, NULL},
#include "introspect/layout.def"
    {OPTIONAL, NULL, NULL}, // there may be no others
};

static const char *const member_ids[] = {
#define MEMBER(id, need, type, path, doc) #id,
#include "introspect/layout.def"
};

/* ---- resolving ---- */

static bool resolve_member(const IntroTypes *types, const struct wanted *want,
                           struct intro_place *ret)
{
    g_auto(GStrv) names = g_strsplit(want->type, "|", -1);
    g_auto(GStrv) paths = g_strsplit(want->path, "|", -1);

    for (unsigned p = 0; paths[p]; p++) {
        for (unsigned t = 0; names[t]; t++) {
            if (types->ops->member(types, names[t], paths[p], ret)) {
                ret->present = true;
                ret->alternative = p;
                return true;
            }
        }
    }
    return false;
}

static bool resolve_size(const IntroTypes *types, const struct wanted *want, uint32_t *ret)
{
    g_auto(GStrv) names = g_strsplit(want->type, "|", -1);

    for (unsigned t = 0; names[t]; t++) {
        if (types->ops->size(types, names[t], ret))
            return true;
    }
    return false;
}

static bool resolve_constant(const IntroTypes *types, const struct wanted *want, int64_t *ret)
{
    g_auto(GStrv) names = g_strsplit(want->type, "|", -1);

    for (unsigned t = 0; names[t]; t++) {
        if (types->ops->constant(types, names[t], ret))
            return true;
    }
    return false;
}

static void note_missing(GString *missing, const struct wanted *want)
{
    if (want->need == OPTIONAL)
        return;
    g_string_append_printf(missing, "%s%s%s%s", missing->len ? ", " : "", want->type,
                           want->path ? "." : "", want->path ? want->path : "");
}

bool intro_layout_resolve(const IntroTypes *types, struct intro_layout *ret, GError **error)
{
    g_autoptr(GString) missing = g_string_new(NULL);
    g_autofree struct intro_layout *layout = g_new0(struct intro_layout, 1);

    for (unsigned i = 0; i < INTRO_N_MEMBERS; i++) {
        if (!resolve_member(types, &members[i], &layout->places[i]))
            note_missing(missing, &members[i]);
    }
    for (unsigned i = 0; i < INTRO_N_TYPES; i++) {
        if (!resolve_size(types, &types_wanted[i], &layout->type_bytes[i]))
            note_missing(missing, &types_wanted[i]);
    }
    for (unsigned i = 0; i < INTRO_N_CONSTANTS; i++) {
        layout->constants[i].present =
            resolve_constant(types, &constants[i], &layout->constants[i].value);
        if (!layout->constants[i].present)
            note_missing(missing, &constants[i]);
    }
    if (missing->len) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_LAYOUT, "this kernel does not have %s",
                    missing->str);
        return false;
    }
    *ret = *layout;
    return true;
}

/* ---- reading ---- */

const struct intro_place *intro_place(const IntroKernel *k, enum intro_member member)
{
    return &k->layout.places[member];
}

uint32_t intro_sizeof(const IntroKernel *k, enum intro_type type)
{
    return k->layout.type_bytes[type];
}

bool intro_constant(const IntroKernel *k, enum intro_const c, int64_t *ret)
{
    if (!k->layout.constants[c].present)
        return false;
    *ret = k->layout.constants[c].value;
    return true;
}

struct gva intro_member_addr(const IntroKernel *k, struct gva obj, enum intro_member member)
{
    return GVA(obj.addr + intro_place(k, member)->offset);
}

struct gva intro_container(const IntroKernel *k, struct gva at, enum intro_member member)
{
    return GVA(at.addr - intro_place(k, member)->offset);
}

// The lowest n_bits of v, sign extended where is_signed.
static uint64_t extend(uint64_t v, unsigned n_bits, bool is_signed)
{
    unsigned unused = 64 - n_bits;

    return is_signed ? (uint64_t)((int64_t)(v << unused) >> unused) : v << unused >> unused;
}

bool intro_get(IntroKernel *k, struct gva obj, enum intro_member member, uint64_t *ret,
               GError **error)
{
    const struct intro_place *place = intro_place(k, member);
    uint64_t v = 0;

    if (!place->present || place->size_bytes == 0 || place->size_bytes > sizeof(v)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_LAYOUT, "this kernel has no scalar %s (%s.%s)",
                    member_ids[member], members[member].type, members[member].path);
        return false;
    }
    if (!intro_read(k, GVA(obj.addr + place->offset), &v, place->size_bytes, error)) {
        g_prefix_error(error, "%s of 0x%" PRIx64 ": ", member_ids[member], obj.addr);
        return false;
    }
    v = GUINT64_FROM_LE(v);
    if (place->bit_size)
        *ret = extend(v >> place->bit_offset, place->bit_size, place->is_signed);
    else
        *ret = extend(v, 8 * place->size_bytes, place->is_signed);
    return true;
}

bool intro_get_ptr(IntroKernel *k, struct gva obj, enum intro_member member, struct gva *ret,
                   GError **error)
{
    uint64_t v;

    if (!intro_get(k, obj, member, &v, error))
        return false;
    *ret = GVA(v);
    return true;
}
