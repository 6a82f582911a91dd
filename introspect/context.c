// SPDX-License-Identifier: GPL-2.0-or-later
// What the parts of one take share: the object hash, refusals and notes.
#include "introspect/context.h"

#include <string.h>

#include "formats/refusal.h"

uint64_t intro_object_ref(const struct intro_ctx *c, struct gva at)
{
    return GPOINTER_TO_SIZE(g_hash_table_lookup(c->objects, GSIZE_TO_POINTER(at.addr)));
}

void *intro_object_add(struct intro_ctx *c, struct gva at, enum fmt_type type)
{
    struct fmt_record *rec = fmt_image_add(c->img, type);

    g_hash_table_insert(c->objects, GSIZE_TO_POINTER(at.addr), GSIZE_TO_POINTER(rec->objref));
    return rec;
}

struct later {
    intro_later_fn fn;
    struct gva at;
    uint64_t ref, pid;
    int64_t fd;
};

void intro_later(struct intro_ctx *c, intro_later_fn fn, struct gva at, uint64_t ref)
{
    const struct later later = {fn, at, ref, c->pid, c->fd};

    if (!c->later)
        c->later = g_array_new(FALSE, FALSE, sizeof(struct later));
    g_array_append_val(c->later, later);
}

bool intro_later_run(struct intro_ctx *c, GError **error)
{
    const uint64_t pid = c->pid;

    for (guint i = 0; c->later && i < c->later->len; i++) {
        const struct later *later = &g_array_index(c->later, struct later, i);

        c->pid = later->pid;
        c->fd = later->fd;
        if (!later->fn(c, later->at, later->ref, error))
            return false;
    }
    c->pid = pid;
    c->fd = -1;
    return true;
}

void intro_refusal_free(struct intro_refusal *refusal)
{
    if (!refusal)
        return;
    g_free(refusal->kind);
    g_free(refusal->text);
    g_free(refusal);
}

static void add_note(struct intro_ctx *c, enum fmt_note_level level, const char *kind, char *text)
{
    struct fmt_note *note = fmt_image_add(c->img, FMT_NOTE);

    note->level = level;
    note->kind = g_strdup(kind);
    note->text = text;
    note->pid = c->pid;
    note->fd = c->fd;
}

static bool is_allowed(const struct intro_ctx *c, const char *kind)
{
    const struct fmt_refusal *refusal = fmt_refusal_find(kind);

    for (guint i = 0; c->opt->allow && i < c->opt->allow->len; i++)
        if (strcmp(c->opt->allow->pdata[i], kind) == 0)
            return refusal && refusal->loss;
    return false;
}

// Threads of one process may all say the same.
static bool is_known(const struct intro_ctx *c, const char *kind, const char *text)
{
    for (guint i = 0; i < c->refusals->len; i++) {
        const struct intro_refusal *r = c->refusals->pdata[i];

        if (r->pid == c->pid && r->fd == c->fd && strcmp(r->kind, kind) == 0 &&
            strcmp(r->text, text) == 0)
            return true;
    }
    return false;
}

bool intro_refuse(struct intro_ctx *c, const char *kind, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);

    if (c->opt->forensic || is_allowed(c, kind)) {
        add_note(c, c->opt->forensic ? FMT_NOTE_REFUSAL : FMT_NOTE_LOSS, kind,
                 g_steal_pointer(&text));
        return true;
    }

    if (is_known(c, kind, text))
        return false;
    struct intro_refusal *refusal = g_new0(struct intro_refusal, 1);
    refusal->kind = g_strdup(kind);
    refusal->pid = c->pid;
    refusal->fd = c->fd;
    refusal->text = g_steal_pointer(&text);
    g_ptr_array_add(c->refusals, refusal);
    return false;
}

void intro_note(struct intro_ctx *c, enum fmt_note_level level, const char *kind,
                const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add_note(c, level, kind, g_strdup_vprintf(format, args));
    va_end(args);
}
