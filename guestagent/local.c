// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft-agent --restore FILE: one shot, without a host.

#include "guestagent/local.h"

#include <stdio.h>
#include <sys/types.h>

#include "formats/stream.h"
#include "guestagent/restore.h"

static bool all_pages(AgentRestore *r, const FmtImage *img, GError **error)
{
    for (size_t i = 0; i < fmt_image_n_extents(img); i++) {
        const struct fmt_extent *e = fmt_image_extent(img, i);

        if (!agent_restore_pages(r, &e->pages, 0, e->data, e->pages.n_pages * 4096, error))
            return false;
    }
    return true;
}

static GArray *restore(const char *path, const struct agent_restore_options *opt,
                       GPtrArray *refusals, GPtrArray *notes, uid_t *ret_stranger, GError **error)
{
    g_autoptr(FmtImage) img = fmt_load(path, error);
    AgentRestore *r = img ? agent_restore_plan(img, opt, refusals, notes, error) : NULL;
    GArray *pids = NULL;

    if (!r)
        return NULL;

    const uid_t stranger = agent_restore_stranger(r);

    if (agent_restore_build(r, error) && all_pages(r, img, error) &&
        agent_restore_finish(r, error) && agent_restore_release(r, &pids, error)) {
        *ret_stranger = stranger;
        return pids;
    }
    agent_restore_abort(r);
    return NULL;
}

static void say(const char *what, const GPtrArray *list)
{
    for (guint i = 0; i < list->len; i++) {
        const struct agent_refusal *one = g_ptr_array_index(list, i);

        fprintf(stderr, "vmgraft-agent: %s: ", what);
        if (one->pid)
            fprintf(stderr, "pid %" G_GUINT64_FORMAT ": ", one->pid);
        if (one->fd >= 0)
            fprintf(stderr, "descriptor %" G_GINT64_FORMAT ": ", one->fd);
        fprintf(stderr, "%s (%s)\n", one->text, one->kind);
    }
}

int agent_local_main(const char *path, bool new_pid_namespace)
{
    const struct agent_restore_options opt = {
        .new_pid_namespace = new_pid_namespace,
        .elapsed_ns = -1,
        .asleep_ns = -1,
    };
    g_autoptr(GPtrArray) refusals = agent_refusal_list_new(), notes = agent_refusal_list_new();
    g_autoptr(GError) error = NULL;
    uid_t stranger;
    g_autoptr(GArray) pids = restore(path, &opt, refusals, notes, &stranger, &error);

    say("note", notes);
    say("refused", refusals);
    if (!pids) {
        fprintf(stderr, "vmgraft-agent: %s\n", error->message);
        return refusals->len > 0 ? 3 : 1;
    }
    for (guint i = 0; i < pids->len; i++)
        printf("%d\n", (int)g_array_index(pids, pid_t, i));
    agent_restore_part(stranger);
    return 0;
}
