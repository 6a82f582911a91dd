// SPDX-License-Identifier: GPL-2.0-or-later
// Seccomp: the mode of a thread and its filters (kernel/seccomp.c).
#include "introspect/context.h"
#include "introspect/reader.h"

/*
 * Filters form a tree: each has the one that was there before it. A thread has a leaf and all that
 * leads to it. The program as it was given (classic BPF) is kept with CONFIG_CHECKPOINT_RESTORE.
 */
#define MODE_STRICT     1
#define MODE_FILTER     2
#define MAX_FILTERS     8192 // of a thread: MAX_INSNS_PER_PATH allows fewer
#define MAX_INSNS       4096 // BPF_MAXINSNS
#define INSN_BYTES      8    // sizeof(struct sock_filter)
#define FILTER_FLAG_LOG 2    // SECCOMP_FILTER_FLAG_LOG

// NULL where the program was not kept.
static GBytes *read_program(struct intro_ctx *c, IntroReader *r, struct gva filter)
{
    struct gva prog = rd_ptr(r, filter, M_seccomp_filter_prog);
    struct gva orig = r->error ? GVA(0) : rd_ptr(r, prog, M_bpf_prog_orig);

    if (!orig.addr)
        return NULL;
    const uint64_t n = rd(r, orig, M_fprog_len);
    struct gva insns = rd_ptr(r, orig, M_fprog_filter);

    if (r->error)
        return NULL;
    if (n == 0 || n > MAX_INSNS) {
        g_set_error(&r->error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                    "seccomp_filter at %#" G_GINT64_MODIFIER "x: %" G_GUINT64_FORMAT
                    " instructions",
                    filter.addr, n);
        return NULL;
    }
    g_autofree uint8_t *bytes = g_malloc(n * INSN_BYTES);
    if (!intro_read(c->k, insns, bytes, n * INSN_BYTES, &r->error))
        return NULL;
    return g_bytes_new_take(g_steal_pointer(&bytes), n * INSN_BYTES);
}

static bool read_filter(struct intro_ctx *c, struct gva filter, struct fmt_seccomp_filter *rec,
                        struct gva *ret_prev, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);

    rec->program = read_program(c, &r, filter);
    rec->flags = rd(&r, filter, M_seccomp_filter_log) ? FILTER_FLAG_LOG : 0;
    *ret_prev = rd_ptr(&r, filter, M_seccomp_filter_prev);
    const bool listener = rd_opt(&r, filter, M_seccomp_filter_notif, 0);
    if (!rd_done(&r, error))
        return false;
    if (!rec->program)
        intro_refuse(c, "seccomp",
                     "has a seccomp filter of which the kernel has not kept the program");
    if (listener)
        intro_refuse(c, "seccomp", "has a seccomp filter with a listener");
    return true;
}

static bool read_chain(struct intro_ctx *c, struct gva filter, struct fmt_task *task,
                       GError **error)
{
    uint64_t *link = &task->seccomp_filter;

    for (unsigned n = 0; filter.addr; n++) {
        struct gva prev;

        if ((*link = intro_object_ref(c, filter)))
            return true;
        if (n == MAX_FILTERS) {
            g_set_error(error, INTRO_ERROR, INTRO_ERROR_CORRUPT,
                        "thread %" G_GUINT64_FORMAT ": its seccomp filters do not end", task->tid);
            return false;
        }
        struct fmt_seccomp_filter *rec = intro_object_add(c, filter, FMT_SECCOMP_FILTER);
        if (!read_filter(c, filter, rec, &prev, error))
            return false;
        *link = rec->rec.objref;
        link = &rec->prev;
        filter = prev;
    }
    return true;
}

bool intro_seccomp(struct intro_ctx *c, struct gva task, struct fmt_task *rec, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva filter;

    rec->seccomp = rd_opt(&r, task, M_task_seccomp_mode, 0);
    if (rec->seccomp == 0 || rec->seccomp == MODE_STRICT)
        return rd_done(&r, error);
    if (rec->seccomp != MODE_FILTER || !intro_has(c->k, M_task_seccomp_filter)) {
        intro_refuse(c, "seccomp", "is in a seccomp mode (%" G_GUINT64_FORMAT ") that is not known",
                     rec->seccomp);
        return rd_done(&r, error);
    }
    filter = rd_ptr(&r, task, M_task_seccomp_filter);
    return rd_done(&r, error) && read_chain(c, filter, rec, error);
}
