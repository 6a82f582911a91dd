// SPDX-License-Identifier: GPL-2.0-or-later
// Loads an image with checksums put right and exports all of its processes as cores.
#include <glib/gstdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fmt_resign.h"
#include "formats/export.h"
#include "fuzz.h"

static FmtImage *load(const uint8_t *data, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    FmtImage *img = NULL;

    if (write(fd, data, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0)
        img = fmt_load_fd(fd, NULL);
    close(fd);
    return img;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *copy = g_memdup2(data, size);
    g_autoptr(FmtImage) img = NULL;
    const struct fmt_proc *proc;

    if (!copy)
        return 0;
    fmt_resign(copy, size);
    img = load(copy, size);
    for (size_t i = 0; img && FMT_NEXT(img, PROC, i, proc); i++) {
        g_autofree char *path = g_strdup_printf("%s/fuzz_fmt_core.%d", g_get_tmp_dir(), getpid());

        fmt_export_core(img, proc->pid, path, NULL);
        g_unlink(path);
    }
    return 0;
}
