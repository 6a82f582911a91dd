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
    bool has_sleep, has_key;
    struct intro_sleep sleep;
    struct intro_futex_key key;
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

static bool find_sleep(struct look *l, struct gva task, struct note *ret)
{
    const struct intro_sleep *sleep = intro_timers_find(l->timers, task);
    struct intro_chain chain;
    struct intro_regs regs;
    struct gva at;

    if (!intro_user_regs(l->k, task, &at, &regs, NULL) ||
        !intro_unwind(l->k, task, at, &chain, NULL))
        return false;
    ret->ip = regs.ip;
    ret->has_sleep = sleep != NULL;
    if (sleep)
        ret->sleep = *sleep;
    else if (!intro_wheel_find(l->k, l->clock, task, &chain, &ret->sleep, &ret->has_sleep, NULL))
        return false;
    ret->has_key = intro_futex_key(l->k, task, &chain, &ret->key);
    return true;
}

static bool look_at(struct gva task, void *user, GError **error)
{
    struct look *l = user;
    g_auto(IntroReader) r = INTRO_READER(l->k);
    uint64_t running = rd(&r, task, M_task_on_cpu) | rd(&r, task, M_task_on_rq);
    struct gva mm = rd_ptr(&r, task, M_task_mm);
    struct note note = {.nvcsw = rd(&r, task, M_task_nvcsw)};

    if (!rd_done(&r, error))
        return false;
    // What cannot be found here starts over; that is no reason not to look at the others.
    if (!running && mm.addr && find_sleep(l, task, &note))
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

// What was noted of a thread that has done nothing since but stop: gone to sleep once more.
static const struct note *find(const struct intro_ctx *c, struct gva task, uint64_t ip)
{
    const struct note *note = c->opt->sleepers ? g_hash_table_lookup(c->opt->sleepers->by_task,
                                                                     GSIZE_TO_POINTER(task.addr))
                                               : NULL;
    uint64_t nvcsw;

    return note && note->ip == ip && intro_get(c->k, task, M_task_nvcsw, &nvcsw, NULL) &&
                   nvcsw == note->nvcsw + 1
               ? note
               : NULL;
}

bool intro_sleepers_find(const struct intro_ctx *c, struct gva task, uint64_t ip,
                         struct intro_sleep *ret)
{
    const struct note *note = find(c, task, ip + SYSCALL_BYTES);

    if (!note || !note->has_sleep)
        return false;
    *ret = note->sleep;
    ret->remaining_ns = MAX(0, ret->expires_ns - intro_clock_now(c->clock, ret->clock));
    return true;
}

const struct intro_futex_key *intro_sleepers_key(const struct intro_ctx *c, struct gva task,
                                                 uint64_t ip)
{
    const struct note *note = find(c, task, ip);

    return note && note->has_key ? &note->key : NULL;
}
