// SPDX-License-Identifier: GPL-2.0-or-later
// A developer's tool: what layout.def becomes in the raw BTF of kernels (/sys/kernel/btf/vmlinux).
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
        printf("  %s%s%.0d\n", members[i], p->alternative ? "  #" : "", p->alternative);
    }
}

int main(int argc, char **argv)
{
    int status = argc > 1 ? 0 : 2;

    for (int i = 1; i < argc; i++) {
        g_autofree struct intro_layout *layout = g_new0(struct intro_layout, 1);
        g_autoptr(IntroTypes) types = NULL;
        g_autoptr(GError) error = NULL;
        g_autofree char *bytes = NULL;
        gsize len;

        if (g_file_get_contents(argv[i], &bytes, &len, &error))
            types = intro_types_from_btf(bytes, len, &error);
        if (types && intro_layout_resolve(types, layout, &error))
            print_layout(layout);
        if (error) {
            fprintf(stderr, "%s: %s\n", argv[i], error->message);
            status = 1;
        }
    }
    if (status == 2)
        fprintf(stderr, "usage: layout-check BTF...\n");
    return status;
}
