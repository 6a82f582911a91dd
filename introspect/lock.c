// SPDX-License-Identifier: GPL-2.0-or-later
// Tells whether a lock that guards what is about to be read is held.
#include "introspect/context.h"

/*
 * While the guest is paused nobody takes or drops a lock, so a lock that is free now means that
 * what it guards is whole. One that is held means that some thread was in the middle of a change:
 * INTRO_ERROR_BUSY, and the take is tried again after a moment of running.
 */
static bool check(IntroKernel *k, struct gva lock, enum intro_member member, uint64_t held_mask,
                  const char *kind, const char *what, GError **error)
{
    uint64_t word;

    if (!intro_get(k, lock, member, &word, error))
        return false;
    if (!(word & held_mask))
        return true;
    g_set_error(error, INTRO_ERROR, INTRO_ERROR_BUSY,
                "%s: the %s at %#" G_GINT64_MODIFIER "x is held (%#" G_GINT64_MODIFIER "x)", what,
                kind, lock.addr, word);
    return false;
}

bool intro_check_spinlock(IntroKernel *k, struct gva lock, const char *what, GError **error)
{
    return check(k, lock, M_spinlock_word, UINT64_MAX, "spinlock", what, error);
}

bool intro_check_mutex(IntroKernel *k, struct gva lock, const char *what, GError **error)
{
    // The low bits are MUTEX_FLAG_WAITERS, _HANDOFF and _PICKUP.
    return check(k, lock, M_mutex_owner, ~UINT64_C(7), "mutex", what, error);
}

bool intro_check_rwsem_write(IntroKernel *k, struct gva lock, const char *what, GError **error)
{
    // RWSEM_WRITER_LOCKED; readers do not disturb us.
    return check(k, lock, M_rwsem_count, 1, "semaphore", what, error);
}
