// SPDX-License-Identifier: GPL-2.0-or-later
// Several versions of a page that processes share: some were born before their parent wrote to it.
//
//   parent:  A ---------- writes B ----------
//   children:  \ A   \ A            \ B
//
// The areas (cow.c) hold one version of each page, and the others are kept aside. They go into the
// memory of whoever clones before it clones the first that is to inherit them, as in the source.
// If that one is to keep what it has, the child gets a copy of its own, before it has children that
// inherit it or at the end. Everything that a process is to have it has, so or so: a version that
// is copied twice costs memory alone.
//
// In the areas is the version that is inherited first: its rank is the birth of its second owner
// (the first may have written it).

#include "guestagent/cow.h"

#include <linux/sched.h>
#include <string.h>

#include "guestagent/lineage.h"

void cow_rank(struct agent_cow *cow)
{
    const GArray *steps = cow->r->steps;

    for (guint i = 1; i < cow->sets->len; i++) {
        struct cow_set *set = cow_set_at(cow, i);
        unsigned n = 0;

        set->rank = steps->len;
        for (guint j = 0; j < steps->len && n < 2; j++) {
            const struct agent_step *s = &g_array_index(steps, struct agent_step, j);

            if (s->kind == AGENT_STEP_BIRTH && !(s->flags & CLONE_VM) && s->task->proc->mm &&
                fmt_cow_set_has(set->rec, s->task->proc->mm->rec.objref) && ++n == 2)
                set->rank = j;
        }
    }
}

/* ---- which versions are where ---- */

static const void *memory_of(const AgentProc *p)
{
    return p->mm ? (const void *)p->mm : p;
}

static GArray *written_in(const AgentProc *p)
{
    return g_hash_table_lookup(p->r->cow->views, memory_of(p));
}

static void add_written(const AgentProc *p, guint set)
{
    GArray *written = written_in(p);
    const uint16_t index = set;

    if (!written) {
        written = g_array_new(false, false, sizeof(uint16_t));
        g_hash_table_insert(p->r->cow->views, (void *)memory_of(p), written);
    }
    g_array_append_val(written, index);
}

static void paint(const struct cow_set *set, uint16_t index, uint16_t *view)
{
    for (guint i = 0; i < set->runs->len; i++) {
        const struct agent_range *run = &g_array_index(set->runs, struct agent_range, i);
        const uint64_t base = set->area->rec->start;

        for (uint64_t at = run->start; at < run->end; at += COW_PAGE_BYTES)
            view[(at - base) / COW_PAGE_BYTES] = index;
    }
}

const uint16_t *cow_view(const AgentProc *p, const struct cow_area *area, uint16_t **ret_own)
{
    const GArray *written = written_in(p);

    *ret_own = NULL;
    if (!written || written->len == 0)
        return area->owners;
    *ret_own = g_memdup2(area->owners, (area->rec->end - area->rec->start) / COW_PAGE_BYTES * 2);
    for (guint i = 0; i < written->len; i++) {
        const uint16_t index = g_array_index(written, uint16_t, i);

        if (cow_set_at(p->r->cow, index)->area == area)
            paint(cow_set_at(p->r->cow, index), index, *ret_own);
    }
    return *ret_own;
}

// What a process has of a set.
struct state {
    bool lacks; // some page
    bool keeps; // and some of these are another's which it is to keep
};

static struct state state_of(const AgentProc *p, guint index)
{
    const struct agent_cow *cow = p->r->cow;
    const struct cow_set *set = cow_set_at(cow, index);
    g_autofree uint16_t *own = NULL;
    const uint16_t *view = cow_view(p, set->area, &own);
    struct state state = {0};
    uint16_t last = 0;

    for (guint i = 0; i < set->runs->len; i++) {
        const struct agent_range *run = &g_array_index(set->runs, struct agent_range, i);

        for (uint64_t at = run->start; at < run->end; at += COW_PAGE_BYTES) {
            const uint16_t has = view[(at - set->area->rec->start) / COW_PAGE_BYTES];

            if (has == index || has == last)
                continue;
            last = has;
            state.lacks = true;
            state.keeps |= p->mm && fmt_cow_set_has(cow_set_at(cow, has)->rec, p->mm->rec.objref);
        }
    }
    return state;
}

/* ---- writing them ---- */

static bool write_aside(const struct agent_tracee *t, const struct cow_set *set, GError **error)
{
    for (guint i = 0; i < set->aside->len; i++) {
        const struct cow_aside *piece = &g_array_index(set->aside, struct cow_aside, i);
        size_t size;
        const void *data = g_bytes_get_data(piece->data, &size);

        if (!cow_write(t->tid, (uintptr_t)set->area->at + (piece->start - set->area->rec->start),
                       data, size, error))
            return false;
    }
    return true;
}

// The rest of it is in our own area.
static bool write_owned(const struct agent_tracee *t, const struct cow_set *set, guint index,
                        const uint16_t *view, GError **error)
{
    const uint64_t n = (set->area->rec->end - set->area->rec->start) / COW_PAGE_BYTES;

    for (uint64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && set->area->owners[end] == index && view[end] != index; end++)
            ;
        const uint8_t *at = set->area->at + i * COW_PAGE_BYTES;

        if (end > i && !cow_write(t->tid, (uintptr_t)at, at, (end - i) * COW_PAGE_BYTES, error))
            return false;
        end = MAX(end, i + 1);
    }
    return true;
}

static bool write_set(const AgentProc *p, guint index, GError **error)
{
    const struct agent_tracee *t = &agent_leader(p)->tracee;
    const struct cow_set *set = cow_set_at(p->r->cow, index);
    g_autofree uint16_t *own = NULL;
    const uint16_t *view = cow_view(p, set->area, &own);

    if (!write_aside(t, set, error) || !write_owned(t, set, index, view, error))
        return false;
    add_written(p, index);
    return true;
}

static bool wants(const AgentProc *p, guint index)
{
    return p->mm && fmt_cow_set_has(cow_set_at(p->r->cow, index)->rec, p->mm->rec.objref);
}

bool agent_cow_before_birth(const AgentProc *p, const AgentProc *by, GError **error)
{
    const struct agent_cow *cow = p->r->cow;

    if (!cow || !cow->has_aside || !by)
        return true;
    for (guint i = 1; i < cow->sets->len; i++) {
        if (!wants(p, i))
            continue;
        const struct state state = state_of(by, i);

        if (state.lacks && !state.keeps && !write_set(by, i, error))
            return false;
    }
    return true;
}

void agent_cow_after_birth(const AgentProc *p, const AgentProc *by)
{
    const GArray *inherited = p->r->cow && by ? written_in(by) : NULL;

    for (guint i = 0; inherited && i < inherited->len; i++)
        add_written(p, g_array_index(inherited, uint16_t, i));
}

// What they lack after all: not before, as children may inherit what was there.
bool agent_cow_after_births(AgentRestore *r, GError **error)
{
    for (guint i = 0; r->cow && r->cow->has_aside && i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        for (guint j = 1;
             p->rec->state != FMT_PROC_ZOMBIE && agent_mm_is_owner(p) && j < r->cow->sets->len; j++)
            if (wants(p, j) && state_of(p, j).lacks && !write_set(p, j, error))
                return false;
    }
    return true;
}
