// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel's types from a JSON layout profile, for a kernel without BTF.
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "introspect/kernel.h"
#include "introspect/types.h"

/*
 * tests/oracle/make-profile writes it from a kernel's debug information:
 *
 *   {"release": "6.1.0-56-cloud-amd64",
 *    "members": {"task_struct.pid": {"offset": 2424, "size": 4, "elements": 1, "signed": true,
 *                                    "bit_offset": 0, "bit_size": 0}, ...},
 *    "types": {"task_struct": 9792, ...},
 *    "constants": {"PG_locked": 0, ...}}
 *
 * offset and size are in bytes and must be there; the others default to 1, false, 0 and 0.
 */
struct profile {
    IntroTypes base;
    struct json_object *root, *members, *types, *constants;
};

// A whole number in [min, max].
static bool get_int(struct json_object *obj, const char *key, int64_t min, int64_t max,
                    int64_t *ret)
{
    struct json_object *v;

    if (!json_object_object_get_ex(obj, key, &v) || !json_object_is_type(v, json_type_int))
        return false;
    *ret = json_object_get_int64(v);
    return *ret >= min && *ret <= max;
}

static bool profile_member(const IntroTypes *types, const char *type, const char *path,
                           struct intro_place *ret)
{
    const struct profile *p = (const struct profile *)types;
    g_autofree char *key = g_strdup_printf("%s.%s", type, path);
    struct json_object *m, *is_signed;
    int64_t offset, size, n_elements = 1, bit_offset = 0, bit_size = 0;

    if (!json_object_object_get_ex(p->members, key, &m) ||
        !json_object_is_type(m, json_type_object) ||
        !get_int(m, "offset", 0, UINT32_MAX, &offset) || !get_int(m, "size", 0, UINT32_MAX, &size))
        return false;
    if ((json_object_object_get_ex(m, "elements", NULL) &&
         !get_int(m, "elements", 0, UINT32_MAX, &n_elements)) ||
        (json_object_object_get_ex(m, "bit_offset", NULL) &&
         !get_int(m, "bit_offset", 0, 63, &bit_offset)) ||
        (json_object_object_get_ex(m, "bit_size", NULL) &&
         !get_int(m, "bit_size", 0, 64, &bit_size)) ||
        (bit_size && bit_offset + bit_size > 8 * size))
        return false;
    *ret = (struct intro_place){
        .is_signed = json_object_object_get_ex(m, "signed", &is_signed) &&
                     json_object_get_boolean(is_signed),
        .offset = offset,
        .size_bytes = size,
        .n_elements = n_elements,
        .bit_offset = bit_offset,
        .bit_size = bit_size,
    };
    return true;
}

static bool profile_size(const IntroTypes *types, const char *type, uint32_t *ret)
{
    const struct profile *p = (const struct profile *)types;
    int64_t size;

    if (!get_int(p->types, type, 1, UINT32_MAX, &size))
        return false;
    *ret = size;
    return true;
}

static bool profile_constant(const IntroTypes *types, const char *name, int64_t *ret)
{
    const struct profile *p = (const struct profile *)types;

    return get_int(p->constants, name, INT64_MIN, INT64_MAX, ret);
}

static void profile_free(IntroTypes *types)
{
    struct profile *p = (struct profile *)types;

    json_object_put(p->root);
    g_free(p);
}

static const struct intro_types_ops profile_ops = {
    .member = profile_member,
    .size = profile_size,
    .constant = profile_constant,
    .free = profile_free,
};

IntroTypes *intro_types_from_profile(const char *path, char **ret_release, GError **error)
{
    struct json_object *root = json_object_from_file(path), *release;
    struct profile *p;

    if (!root) {
        const char *why = json_util_get_last_err();

        g_set_error(error, INTRO_ERROR, INTRO_ERROR_NO_TYPES, "layout profile %s: %s", path,
                    why ? why : "cannot be read");
        return NULL;
    }
    p = g_new0(struct profile, 1);
    p->base.ops = &profile_ops;
    p->root = root;
    if (!json_object_object_get_ex(root, "release", &release) ||
        !json_object_is_type(release, json_type_string) ||
        !json_object_object_get_ex(root, "members", &p->members) ||
        !json_object_object_get_ex(root, "types", &p->types) ||
        !json_object_object_get_ex(root, "constants", &p->constants)) {
        g_set_error(error, INTRO_ERROR, INTRO_ERROR_NO_TYPES, "%s is not a layout profile", path);
        profile_free(&p->base);
        return NULL;
    }
    *ret_release = g_strdup(json_object_get_string(release));
    return &p->base;
}
