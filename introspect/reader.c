// SPDX-License-Identifier: GPL-2.0-or-later
// Reading many members in a row with one check at the end.
#include "introspect/reader.h"

#include <string.h>

uint64_t rd(IntroReader *r, struct gva obj, enum intro_member member)
{
    uint64_t value = 0;

    if (r->error || !intro_get(r->k, obj, member, &value, &r->error))
        return 0;
    return value;
}

struct gva rd_ptr(IntroReader *r, struct gva obj, enum intro_member member)
{
    return GVA(rd(r, obj, member));
}

uint64_t rd_opt(IntroReader *r, struct gva obj, enum intro_member member, uint64_t otherwise)
{
    return intro_has(r->k, member) ? rd(r, obj, member) : otherwise;
}

void rd_bytes(IntroReader *r, struct gva obj, enum intro_member member, void *ret,
              size_t size_bytes)
{
    const struct intro_place *place = intro_place(r->k, member);

    memset(ret, 0, size_bytes);
    if (r->error)
        return;
    if (!place->present) {
        uint64_t unused;
        intro_get(r->k, obj, member, &unused, &r->error); // for its message
        return;
    }
    if (!intro_read(r->k, GVA(obj.addr + place->offset), ret, MIN(size_bytes, place->size_bytes),
                    &r->error))
        memset(ret, 0, size_bytes);
}

uint32_t rd_u32_at(IntroReader *r, struct gva at)
{
    uint32_t value = 0;

    if (r->error || !intro_read_u32(r->k, at, &value, &r->error))
        return 0;
    return value;
}

uint64_t rd_u64_at(IntroReader *r, struct gva at)
{
    uint64_t value = 0;

    if (r->error || !intro_read_u64(r->k, at, &value, &r->error))
        return 0;
    return value;
}

struct gva rd_ptr_at(IntroReader *r, struct gva at)
{
    return GVA(rd_u64_at(r, at));
}

bool rd_done(IntroReader *r, GError **error)
{
    if (!r->error)
        return true;
    g_propagate_error(error, g_steal_pointer(&r->error));
    return false;
}
