// SPDX-License-Identifier: GPL-2.0-or-later
// A line on the terminal that tells how far long work has come.
#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#define FIRST_NS (500 * 1000000ll)
#define EVERY_NS (100 * 1000000ll)

struct CliProgress {
    const char *what;
    uint64_t total_bytes;
    int64_t start_ns, next_ns;
    bool enabled, shown;
};

CliProgress *cli_progress_new(const struct cli *cli, const char *what, uint64_t total_bytes)
{
    CliProgress *p = g_new0(CliProgress, 1);

    p->what = what;
    p->total_bytes = total_bytes;
    p->start_ns = cli_now_ns();
    p->next_ns = p->start_ns + FIRST_NS;
    p->enabled = !cli->quiet && isatty(STDERR_FILENO);
    return p;
}

void cli_progress_set(CliProgress *p, uint64_t done_bytes)
{
    int64_t now = p->enabled ? cli_now_ns() : 0;

    if (!p->enabled || now < p->next_ns)
        return;

    double seconds = (double)(now - p->start_ns) / 1e9;
    g_autofree char *done = cli_format_bytes(done_bytes);
    g_autofree char *rate = cli_format_bytes((uint64_t)((double)done_bytes / seconds));

    p->next_ns = now + EVERY_NS;
    p->shown = true;
    fprintf(stderr, "\r\033[K%s: %s", p->what, done);
    if (p->total_bytes > 0)
        fprintf(stderr, " (%.0f %%)", 100.0 * (double)done_bytes / (double)p->total_bytes);
    fprintf(stderr, ", %s/s", rate);
}

void cli_progress_end(CliProgress *p)
{
    if (p && p->shown)
        fputs("\r\033[K", stderr);
    g_free(p);
}
