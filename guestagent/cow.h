// SPDX-License-Identifier: GPL-2.0-or-later
// Internal to cow.c and cow_birth.c: what the areas hold that processes inherit.
#pragma once

#include "guestagent/engine.h"

#define COW_PAGE_BYTES 4096ull

// Pages of a COW_SET that are in no area, since another set has the same addresses.
struct cow_aside {
    uint64_t start;
    GBytes *data;
};

struct cow_set {
    const struct fmt_cow_set *rec;
    struct cow_area *area;
    unsigned rank; // sets that are needed early come first; by births
    GArray *runs;  // struct agent_range: its pages, ascending
    GArray *aside; // struct cow_aside, ascending
};

struct cow_area {
    const struct fmt_cow *rec;
    uint8_t *at;      // in the store
    uint16_t *owners; // for each page the set that it belongs to, as an index in sets; 0: none
};

struct agent_cow {
    AgentRestore *r;
    uint8_t *store;
    uint64_t bytes;
    bool is_here;      // the agent still has it
    bool has_aside;    // some set has
    GArray *areas;     // struct cow_area
    GArray *sets;      // struct cow_set; the first is none
    GHashTable *views; // memory -> GArray of uint16_t: sets written over the areas there, in order
};

static inline struct cow_set *cow_set_at(const struct agent_cow *cow, guint i)
{
    return &g_array_index(cow->sets, struct cow_set, i);
}

// For each page of the area the set whose page the process has there. To be freed with g_free where
// *ret_own is set.
const uint16_t *cow_view(const AgentProc *p, const struct cow_area *area, uint16_t **ret_own);
// Writes to memory of the process, or of the agent.
bool cow_write(pid_t pid, uint64_t to, const void *data, uint64_t size, GError **error);
// cow_birth.c: gives each set its rank.
void cow_rank(struct agent_cow *cow);
