// SPDX-License-Identifier: GPL-2.0-or-later
// CPU feature names: out of the kernel's words, of this CPU, and what one lacks of the other.
#include "formats/cpu_features.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>

static void test_words(void)
{
    uint32_t words[10] = {0};

    words[0] = 1u << 26;
    words[9] = 1u << 5 | 1u << 16;
    g_autofree char *all = fmt_cpu_features_from_kernel(words, 10);
    g_autofree char *short_of = fmt_cpu_features_from_kernel(words, 9);
    g_autofree char *none = fmt_cpu_features_from_kernel(NULL, 0);

    g_assert_cmpstr(all, ==, "sse2 avx2 avx512f");
    g_assert_cmpstr(short_of, ==, "sse2");
    g_assert_cmpstr(none, ==, "");
}

static void test_missing(void)
{
    g_autofree char *some = fmt_cpu_features_missing("sse2 erms avx2 novel", "avx sse2");
    g_autofree char *hint = fmt_cpu_features_missing("sse2 erms", "sse2");
    g_autofree char *null = fmt_cpu_features_missing(NULL, NULL);

    g_assert_cmpstr(some, ==, "avx2 novel");
    g_assert_null(hint);
    g_assert_null(null);
}

static char *cpuinfo_flags(void)
{
    g_autofree char *cpuinfo = NULL;

    g_assert_true(g_file_get_contents("/proc/cpuinfo", &cpuinfo, NULL, NULL));
    const char *flags = strstr(cpuinfo, "\nflags");
    g_assert_nonnull(flags);
    flags = strchr(flags, ':') + 2;
    return g_strndup(flags, strcspn(flags, "\n"));
}

// The kernel enumerates the same registers: of the names in the table, what it shows is what we
// see. It has no text for some.
static void test_here(void)
{
    static const char *const unnamed[] = {"fzrm", "fsrs", "fsrc", "amx_fp16", NULL};
    uint32_t ones[32];
    g_autofree char *flags = cpuinfo_flags();
    g_autofree char *here = fmt_cpu_features_here();
    g_auto(GStrv) shown = g_strsplit(flags, " ", -1);
    g_auto(GStrv) seen = g_strsplit(here, " ", -1);

    memset(ones, 0xff, sizeof(ones));
    g_autofree char *all = fmt_cpu_features_from_kernel(ones, G_N_ELEMENTS(ones));
    g_auto(GStrv) names = g_strsplit(all, " ", -1);
    for (char **name = names; *name; name++) {
        bool is_seen = g_strv_contains((const char *const *)seen, *name);
        bool is_shown = g_strv_contains((const char *const *)shown, *name);

        if (is_seen != is_shown && !g_strv_contains(unnamed, *name))
            g_error("%s is %sseen but %sshown", *name, is_seen ? "" : "not ",
                    is_shown ? "" : "not ");
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpu/words", test_words);
    g_test_add_func("/cpu/missing", test_missing);
    g_test_add_func("/cpu/here", test_here);
    return g_test_run();
}
