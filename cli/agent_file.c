// SPDX-License-Identifier: GPL-2.0-or-later
// Finds the agent's program and looks whether it would run in any guest.
#include "cli/agent_file.h"

#include <elf.h>
#include <stdbool.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/version.h"

// From where this program is: installed elsewhere than was planned, in one folder, not installed.
static const char *const places[] = {"../sbin", ".", "../guestagent"};

static char *find(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *folder = self ? g_path_get_dirname(self) : NULL;

    for (size_t i = 0; folder && i < G_N_ELEMENTS(places); i++) {
        g_autofree char *near = g_build_filename(folder, places[i], "vmgraft-agent", NULL);

        if (g_file_test(near, G_FILE_TEST_IS_REGULAR))
            return g_canonicalize_filename(near, NULL);
    }
    return g_strdup(CLI_SBINDIR "/vmgraft-agent");
}

static bool is_static(const char *bytes, gsize len)
{
    Elf64_Ehdr head;
    Elf64_Phdr segment;

    if (len < sizeof(head))
        return false;
    memcpy(&head, bytes, sizeof(head));
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64 ||
        head.e_machine != EM_X86_64 || head.e_phentsize != sizeof(segment))
        return false;
    for (unsigned i = 0; i < head.e_phnum; i++) {
        if (head.e_phoff > len || len - head.e_phoff < (i + 1) * sizeof(segment))
            return false;
        memcpy(&segment, bytes + head.e_phoff + i * sizeof(segment), sizeof(segment));
        if (segment.p_type == PT_INTERP)
            return false;
    }
    return true;
}

char *cli_agent_file(const char *given, GError **error)
{
    g_autofree char *path = given ? g_strdup(given) : find();
    g_autoptr(GMappedFile) file = g_mapped_file_new(path, FALSE, error);

    if (!file) {
        g_prefix_error(error, "no agent to install (--agent FILE says where it is): ");
        return NULL;
    }
    if (!is_static(g_mapped_file_get_contents(file), g_mapped_file_get_length(file))) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "%s is no static program for x86-64, as the agent has to be", path);
        return NULL;
    }
    return g_steal_pointer(&path);
}
