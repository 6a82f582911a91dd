// SPDX-License-Identifier: GPL-2.0-or-later
// Signalfds (struct signalfd_ctx).
#include "introspect/file.h"
#include "introspect/reader.h"

bool intro_record_signalfd(struct intro_opened *o, GError **error)
{
    struct intro_ctx *c = o->c;
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva ctx = rd_ptr(&r, o->file, M_file_private);
    uint64_t refused; // signals that it does not take

    rd_bytes(&r, ctx, M_signalfd_mask, &refused, sizeof(refused));
    if (!rd_done(&r, error))
        return false;

    struct fmt_eventfd *rec = intro_object_add(c, ctx, FMT_EVENTFD);
    rec->mask = ~GUINT64_FROM_LE(refused);
    o->rec->object = rec->rec.objref;
    return true;
}
