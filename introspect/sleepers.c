// SPDX-License-Identifier: GPL-2.0-or-later
// What the threads of a tree sleep by, noted down before the guest's agent wakes them up.
#include "introspect/sleepers.h"

#include "introspect/process.h"
#include "introspect/regs.h"
#include "introspect/task.h"

#define SYSCALL_BYTES 2

struct note {
    uint64_t nvcsw; // how often it had gone to sleep
    uint64_t ip;    // behind the instruction that entered its call
    struct intro_sleep sleep;
};

struct IntroSleepers {
    GHashTable *by_task; // task address -> struct note
};

struct look {
    IntroKernel *k;
    const struct intro_clock *clock;
    struct intro_timers *timers;
    IntroSleepers *sleepers;
};

static bool find_sleep(struct look *l, struct gva task, struct note *ret, bool *ret_found,
                       GError **error)
{
    const struct intro_sleep *sleep = intro_timers_find(l->timers, task);
    struct intro_chain chain;
    struct intro_regs regs;
    struct gva at;

    if (!intro_user_regs(l->k, task, &at, &regs, error))
        return false;
    ret->ip = regs.ip;
    *ret_found = sleep != NULL;
    if (sleep)
        ret->sleep = *sleep;
    return sleep || (intro_unwind(l->k, task, at, &chain, error) &&
                     intro_wheel_find(l->k, l->clock, task, &chain, &ret->sleep, ret_found, error));
}

static bool look_at(struct gva task, void *user, GError **error)
{
    struct look *l = user;
    g_auto(IntroReader) r = INTRO_READER(l->k);
    uint64_t running = rd(&r, task, M_task_on_cpu) | rd(&r, task, M_task_on_rq);
    struct gva mm = rd_ptr(&r, task, M_task_mm);
    struct note note = {.nvcsw = rd(&r, task, M_task_nvcsw)};
    bool found;

    if (!rd_done(&r, error))
        return false;
    // What cannot be found here starts over; that is no reason not to look at the others.
    if (!running && mm.addr && find_sleep(l, task, &note, &found, NULL) && found)
        g_hash_table_insert(l->sleepers->by_task, GSIZE_TO_POINTER(task.addr),
                            g_memdup2(&note, sizeof(note)));
    return true;
}

static bool look_at_tree(struct look *l, uint32_t pid, GError **error)
{
    struct gva root;

    if (!intro_find_process(l->k, pid, &root, error))
        return false;
    g_autoptr(GArray) tree = intro_tree(l->k, root, error);
    for (guint i = 0; tree && i < tree->len; i++)
        if (!intro_walk_threads(l->k, g_array_index(tree, struct gva, i), look_at, l, error))
            return false;
    return tree != NULL;
}

IntroSleepers *intro_sleepers_read(IntroKernel *k, uint32_t pid, GArray *vcpus,
                                   const struct vmm_clock *clock, GError **error)
{
    g_autoptr(IntroSleepers) sleepers = g_new0(IntroSleepers, 1);
    struct intro_clock now;
    struct look look = {.k = k, .clock = &now, .sleepers = sleepers};

    intro_kernel_new_pause(k);
    sleepers->by_task = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    if (!intro_clock_read(k, vcpus, clock, &now, error) ||
        !(look.timers = intro_timers_read(k, &now, error)))
        return NULL;
    bool ok = look_at_tree(&look, pid, error);
    intro_timers_free(look.timers);
    return ok ? g_steal_pointer(&sleepers) : NULL;
}

void intro_sleepers_free(IntroSleepers *sleepers)
{
    if (!sleepers)
        return;
    g_hash_table_unref(sleepers->by_task);
    g_free(sleepers);
}

bool intro_sleepers_find(const struct intro_ctx *c, struct gva task, uint64_t ip,
                         struct intro_sleep *ret, bool *ret_found, GError **error)
{
    const struct note *note = c->opt->sleepers ? g_hash_table_lookup(c->opt->sleepers->by_task,
                                                                     GSIZE_TO_POINTER(task.addr))
                                               : NULL;
    uint64_t nvcsw;

    *ret_found = false;
    if (!note)
        return true;
    if (!intro_get(c->k, task, M_task_nvcsw, &nvcsw, error))
        return false;
    // Once more: for the stop.
    if (nvcsw != note->nvcsw + 1 || ip != note->ip - SYSCALL_BYTES)
        return true;
    *ret = note->sleep;
    ret->remaining_ns = MAX(0, ret->expires_ns - intro_clock_now(c->clock, ret->clock));
    *ret_found = true;
    return true;
}
