// SPDX-License-Identifier: GPL-2.0-or-later
// Clocks of a restored process go on from where they were, plus the time that really passed, each
// time it is moved.
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

// Of a tree that has been moved before: its processes are in a time namespace with offsets. Who has
// ended is in none.
static void test_namespaces(void)
{
    g_autoptr(FmtImage) img = fmt_image_new();
    g_autoptr(GPtrArray) procs = g_ptr_array_new();
    g_autoptr(GPtrArray) refusals = agent_refusal_list_new(), notes = agent_refusal_list_new();
    struct fmt_proc root = {.pid = 10, .timens_monotonic_ns = -7 * S, .timens_boottime_ns = 3 * S};
    struct fmt_proc zombie = {.pid = 11, .state = FMT_PROC_ZOMBIE}, stray = {.pid = 12};
    AgentProc of_root = {.rec = &root}, of_zombie = {.rec = &zombie}, of_stray = {.rec = &stray};
    AgentRestore r = {.img = img, .procs = procs, .refusals = refusals, .notes = notes};

    g_ptr_array_add(procs, &of_root);
    g_ptr_array_add(procs, &of_zombie);
    agent_time_plan(&r);
    g_assert_cmpuint(refusals->len, ==, 0);

    g_ptr_array_add(procs, &of_stray);
    agent_time_plan(&r);
    g_assert_cmpuint(refusals->len, ==, 1);
    g_assert_cmpuint(((struct agent_refusal *)refusals->pdata[0])->pid, ==, 12);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/agent/time/", rows[i].name, NULL);

        g_test_add_data_func(path, GSIZE_TO_POINTER(i), test_offset);
    }
    g_test_add_func("/agent/time/namespaces", test_namespaces);
    return g_test_run();
}
