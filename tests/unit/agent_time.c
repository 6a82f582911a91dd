// SPDX-License-Identifier: GPL-2.0-or-later
// Clocks of a restored process go on from where they were, plus the time that really passed.
#include "guestagent/engine.h"

#define S G_GINT64_CONSTANT(1000000000)

static const struct {
    const char *name;
    int64_t captured_ns, now_ns, elapsed_ns;
    int64_t then_ns; // what the process reads at the moment of `now`
} rows[] = {
    {"a younger machine", 5000 * S, 20 * S, 0, 5000 * S},
    {"an older machine", 20 * S, 5000 * S, 0, 20 * S},
    {"the same moment", 100 * S + 1, 100 * S, 0, 100 * S + 1},
    {"a live move that took 1.5 s", 100 * S, 7 * S, 3 * S / 2, 101 * S + S / 2},
    {"nobody measured", 100 * S, 7 * S, -1, 100 * S},
    {"wall clocks that disagree count as nothing", 100 * S, 7 * S, -3600 * S, 100 * S},
};

static void test_offset(const void *data)
{
    const size_t i = GPOINTER_TO_SIZE(data);
    const int64_t offset =
        agent_timens_offset(rows[i].captured_ns, rows[i].now_ns, rows[i].elapsed_ns);

    g_assert_cmpint(rows[i].now_ns + offset, ==, rows[i].then_ns);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/agent/time/", rows[i].name, NULL);

        g_test_add_data_func(path, GSIZE_TO_POINTER(i), test_offset);
    }
    return g_test_run();
}
