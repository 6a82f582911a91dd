// SPDX-License-Identifier: GPL-2.0-or-later
// Runs a fuzz target over its corpus: each file whole, cut short and with bytes changed.
#include <stdio.h>
#include <string.h>

#include "fuzz.h"

#define N_VARIANTS 200

// The target gets an exact copy, so that a sanitizer sees every step beyond its end.
static void run(const char *data, gsize len)
{
    g_autofree uint8_t *exact = g_memdup2(data, len);

    LLVMFuzzerTestOneInput(exact ? exact : (const uint8_t *)"", len);
}

static void run_variants(const char *data, gsize len, GRand *random)
{
    run(data, len);
    for (int i = 0; len > 0 && i < N_VARIANTS; i++) {
        g_autofree char *changed = g_memdup2(data, len);
        gsize cut = len;

        if (i % 4 == 0)
            cut = (gsize)g_rand_int_range(random, 0, (gint32)len);
        for (int n = i % 5; n > 0; n--)
            changed[g_rand_int_range(random, 0, (gint32)len)] = (char)g_rand_int(random);
        run(changed, cut);
    }
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) dir = argc == 2 ? g_dir_open(argv[1], 0, &error) : NULL;
    g_autoptr(GRand) random = g_rand_new_with_seed(1);
    const char *name;
    int n = 0;

    if (!dir) {
        fprintf(stderr, "%s\n", error ? error->message : "usage: replay CORPUS-DIRECTORY");
        return 1;
    }
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(argv[1], name, NULL);
        g_autofree char *data = NULL;
        gsize len;

        if (!g_file_get_contents(path, &data, &len, &error)) {
            fprintf(stderr, "%s\n", error->message);
            return 1;
        }
        run_variants(data, len, random);
        n++;
    }
    printf("%d files\n", n);
    return n > 0 ? 0 : 1;
}
