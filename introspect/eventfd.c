// SPDX-License-Identifier: GPL-2.0-or-later
// Eventfds (struct eventfd_ctx).
#include "introspect/file.h"
#include "introspect/reader.h"

#define KERNEL_EFD_SEMAPHORE 1
#define COUNT_OVERFLOWED     UINT64_MAX // only the kernel itself can signal that far

bool intro_record_eventfd(struct intro_opened *o, GError **error)
{
    struct intro_ctx *c = o->c;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva ctx = rd_ptr(&r, o->file, M_file_private);
    uint64_t count = rd(&r, ctx, M_eventfd_count), flags = rd(&r, ctx, M_eventfd_flags);
    uint64_t users = rd(&r, ctx, M_eventfd_kref);

    if (!rd_done(&r, error) ||
        !intro_check_spinlock(c->k, intro_member_addr(c->k, ctx, M_eventfd_lock), "eventfd", error))
        return false;
    // The file is one user. Others signal it from inside: a virtual machine, aio, a cgroup.
    if (users > 1)
        intro_refuse(c, "eventfd", "has an eventfd that the kernel signals as well");
    if (count == COUNT_OVERFLOWED)
        intro_refuse(c, "eventfd", "has an eventfd whose counter has overflowed");

    struct fmt_eventfd *rec = intro_object_add(c, ctx, FMT_EVENTFD);
    rec->count = count;
    rec->semaphore = flags & KERNEL_EFD_SEMAPHORE;
    o->rec->object = rec->rec.objref;
    return true;
}
