// SPDX-License-Identifier: GPL-2.0-or-later
// What is in an image, for people.
#pragma once

#include "formats/image.h"

// What one process has; sizes of pages are of the image, not of the process.
struct fmt_proc_summary {
    uint64_t n_threads;
    uint64_t n_fds;
    uint64_t n_vmas;
    uint64_t mapped_bytes; // all its mappings
    uint64_t data_pages;   // of its address space, with contents to restore
    uint64_t zero_pages;
    uint64_t clean_pages;
    uint64_t inherited_pages; // that it shares with others since a fork; not among the above
};

struct fmt_proc_summary fmt_proc_summary(const FmtImage *img, const struct fmt_proc *proc);

// Several lines of text: origin, processes, pages, notes. To be freed by the caller.
char *fmt_image_summary(const FmtImage *img);
