// SPDX-License-Identifier: GPL-2.0-or-later
// Credentials: ids, groups, capabilities, securebits, no_new_privs.

#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "guestagent/engine.h"

static const struct fmt_cred *cred_of(const AgentTask *t)
{
    return fmt_image_by_ref(t->proc->r->img, t->rec->cred, FMT_CRED);
}

// What the agent has itself: a line of /proc/self/status.
static uint64_t own_set(const char *name)
{
    g_autofree char *text = NULL;
    const char *line;

    if (!g_file_get_contents("/proc/self/status", &text, NULL, NULL) ||
        !(line = strstr(text, name)))
        return 0;
    return g_ascii_strtoull(line + strlen(name), NULL, 16);
}

uint64_t agent_own_caps(void)
{
    return own_set("\nCapEff:\t");
}

static void plan(AgentRestore *r)
{
    const uint64_t can = own_set("\nCapPrm:\t") & own_set("\nCapBnd:\t");

    for (guint i = 0; i < r->procs->len; i++) {
        const AgentProc *p = g_ptr_array_index(r->procs, i);

        if (p->rec->state == FMT_PROC_ZOMBIE)
            continue;
        for (guint j = 0; j < p->tasks->len; j++) {
            const AgentTask *t = g_ptr_array_index(p->tasks, j);
            const struct fmt_cred *cred = cred_of(t);

            if (!cred) {
                agent_refuse(r, "credentials", p->rec->pid, -1,
                             "the image has no credentials of thread %" G_GUINT64_FORMAT,
                             t->rec->tid);
                continue;
            }
            const uint64_t want = cred->cap_permitted | cred->cap_inheritable | cred->cap_ambient;

            if (want & ~can)
                agent_refuse(r, "capabilities", p->rec->pid, -1,
                             "thread %" G_GUINT64_FORMAT " has capabilities %#" G_GINT64_MODIFIER
                             "x that cannot be had here",
                             t->rec->tid, want & ~can);
            else if (cred->cap_bounding & ~can)
                agent_note(r, "capabilities", p->rec->pid, -1,
                           "its bounding set loses capabilities %#" G_GINT64_MODIFIER
                           "x that cannot be had here",
                           cred->cap_bounding & ~can);
        }
    }
}

static bool set_capabilities(AgentTask *t, uint64_t effective, uint64_t permitted,
                             uint64_t inheritable, GError **error)
{
    const struct {
        struct __user_cap_header_struct header;
        struct __user_cap_data_struct data[2];
    } cap = {
        {_LINUX_CAPABILITY_VERSION_3, 0},
        {{effective, permitted, inheritable},
         {effective >> 32, permitted >> 32, inheritable >> 32}},
    };
    uint64_t at;

    return agent_remote_put(&t->tracee, 0, &cap, sizeof cap, &at, error) &&
           agent_remote(&t->tracee, "capset", SYS_capset, NULL, error, at, at + sizeof cap.header);
}

static bool set_ids(AgentTask *t, const struct fmt_cred *c, GError **error)
{
    const struct agent_tracee *tr = &t->tracee;
    gsize bytes = 0;
    const void *groups = c->groups ? g_bytes_get_data(c->groups, &bytes) : NULL;
    uint64_t at = 0;

    if (bytes > AGENT_SCRATCH_BYTES / 2)
        return agent_fail(error, "%zu supplementary groups are too many", bytes / 4);
    return (bytes == 0 || agent_remote_put(tr, 0, groups, bytes, &at, error)) &&
           agent_remote(tr, "setgroups", SYS_setgroups, NULL, error, bytes / 4, at) &&
           agent_remote(tr, "setresgid", SYS_setresgid, NULL, error, c->gid, c->egid, c->sgid) &&
           agent_remote(tr, "setfsgid", SYS_setfsgid, NULL, error, c->fsgid) &&
           agent_remote(tr, "setresuid", SYS_setresuid, NULL, error, c->uid, c->euid, c->suid) &&
           agent_remote(tr, "setfsuid", SYS_setfsuid, NULL, error, c->fsuid);
}

static bool drop_bounding(AgentTask *t, const struct fmt_cred *c, GError **error)
{
    const uint64_t have = own_set("\nCapBnd:\t");

    for (unsigned i = 0; i < 64; i++) {
        if (have & ~c->cap_bounding & 1ull << i &&
            !agent_remote(&t->tracee, "PR_CAPBSET_DROP", SYS_prctl, NULL, error, PR_CAPBSET_DROP,
                          i))
            return false;
    }
    return true;
}

static bool raise_ambient(AgentTask *t, const struct fmt_cred *c, GError **error)
{
    for (unsigned i = 0; i < 64; i++) {
        if (c->cap_ambient & 1ull << i &&
            !agent_remote(&t->tracee, "PR_CAP_AMBIENT_RAISE", SYS_prctl, NULL, error,
                          PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i))
            return false;
    }
    return true;
}

// All with the agent's full capabilities, kept across the change of ids by a securebit; they go
// with the last step.
static bool finish_task(AgentTask *t, GError **error)
{
    const struct agent_tracee *tr = &t->tracee;
    const struct fmt_cred *c = cred_of(t);
    const uint64_t all = own_set("\nCapPrm:\t");

    if (!agent_remote(tr, "PR_SET_SECUREBITS", SYS_prctl, NULL, error, PR_SET_SECUREBITS,
                      SECBIT_NO_SETUID_FIXUP) ||
        !set_ids(t, c, error) || !set_capabilities(t, all, all, c->cap_inheritable, error) ||
        !raise_ambient(t, c, error) || !drop_bounding(t, c, error) ||
        !agent_remote(tr, "PR_SET_SECUREBITS", SYS_prctl, NULL, error, PR_SET_SECUREBITS,
                      c->securebits) ||
        !set_capabilities(t, c->cap_effective, c->cap_permitted, c->cap_inheritable, error))
        return false;
    return !t->rec->no_new_privs ||
           agent_remote(tr, "PR_SET_NO_NEW_PRIVS", SYS_prctl, NULL, error, PR_SET_NO_NEW_PRIVS, 1);
}

const struct agent_aspect agent_aspect_cred = {
    .name = "credentials",
    .plan = plan,
    .finish_task = finish_task,
};
