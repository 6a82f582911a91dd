// SPDX-License-Identifier: GPL-2.0-or-later
// Ranges of addresses: what lies free between those that are used.

#include "guestagent/engine.h"

static int by_start(gconstpointer a, gconstpointer b)
{
    const struct agent_range *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

struct agent_range agent_range_largest_gap(GArray *used, uint64_t from)
{
    struct agent_range best = {0};

    g_array_sort(used, by_start);
    for (guint i = 0; i < used->len; i++) {
        const struct agent_range *range = &g_array_index(used, struct agent_range, i);

        if (range->start > from && range->start - from > best.end - best.start)
            best = (struct agent_range){from, range->start};
        from = MAX(from, range->end);
    }
    return best;
}
