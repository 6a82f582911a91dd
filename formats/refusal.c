// SPDX-License-Identifier: GPL-2.0-or-later
// The kinds of refusal, and which of them a user may accept as a loss.
#include "formats/refusal.h"

#include <stdlib.h>
#include <string.h>

static const struct fmt_refusal refusals[] = {
#define REFUSAL(kind, meaning, loss) {kind, meaning, loss},
#include "formats/refusals.def"
};

#define N_REFUSALS (sizeof(refusals) / sizeof(refusals[0]))

const struct fmt_refusal *fmt_refusals(size_t *ret_n)
{
    *ret_n = N_REFUSALS;
    return refusals;
}

static int by_kind(const void *kind, const void *refusal)
{
    return strcmp(kind, ((const struct fmt_refusal *)refusal)->kind);
}

const struct fmt_refusal *fmt_refusal_find(const char *kind)
{
    return bsearch(kind, refusals, N_REFUSALS, sizeof(refusals[0]), by_kind);
}
