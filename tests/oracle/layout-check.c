// SPDX-License-Identifier: GPL-2.0-or-later
// A developer's tool: what layout.def becomes in the raw BTF of kernels (/sys/kernel/btf/vmlinux),
// or in layout profiles (*.json).
#include <glib.h>
#include <stdio.h>

#include "introspect/types.h"

static const char *const members[] = {
#define MEMBER(id, need, type, path, doc) type "." path,
#include "introspect/layout.def"
};

static void print_layout(const struct intro_layout *layout)
{
    for (unsigned i = 0; i < INTRO_N_MEMBERS; i++) {
        const struct intro_place *p = &layout->places[i];

        if (!p->present) {
            printf("      -              %s\n", members[i]);
            continue;
        }
        printf("%7u", p->offset);
        if (p->bit_size)
            printf(":%-2u bits %-4u", p->bit_offset, p->bit_size);
        else
            printf(" size %-6u  ", p->size_bytes);
        printf("  %s%s", members[i], p->is_signed ? " signed" : "");
        if (p->n_elements != 1)
            printf(" [%u]", p->n_elements);
        if (p->alternative)
            printf(" (alternative %u)", p->alternative);
        printf("\n");
    }
}

static IntroTypes *load_types(const char *path, GError **error)
{
    g_autofree char *bytes = NULL, *release = NULL;
    gsize len;

    if (g_str_has_suffix(path, ".json"))
        return intro_types_from_profile(path, &release, error);
    if (!g_file_get_contents(path, &bytes, &len, error))
        return NULL;
    return intro_types_from_btf(bytes, len, error);
}

int main(int argc, char **argv)
{
    int status = argc > 1 ? 0 : 2;

    for (int i = 1; i < argc; i++) {
        g_autofree struct intro_layout *layout = g_new0(struct intro_layout, 1);
        g_autoptr(GError) error = NULL;
        g_autoptr(IntroTypes) types = load_types(argv[i], &error);

        if (types && intro_layout_resolve(types, layout, &error))
            print_layout(layout);
        if (error) {
            fprintf(stderr, "%s: %s\n", argv[i], error->message);
            status = 1;
        }
    }
    if (status == 2)
        fprintf(stderr, "usage: layout-check BTF|PROFILE.json...\n");
    return status;
}
