// SPDX-License-Identifier: GPL-2.0-or-later
// Namespaces of a thread other than those of the guest's init.
#include "introspect/reader.h"
#include "introspect/task.h"

static const struct {
    enum intro_member member;
    const char *name;
} namespaces[] = {
    {M_nsproxy_mnt_ns, "mount"},     {M_nsproxy_net_ns, "network"}, {M_nsproxy_ipc_ns, "IPC"},
    {M_nsproxy_cgroup_ns, "cgroup"}, {M_nsproxy_uts_ns, "UTS"},
};

// Where its children would live: unshare() and setns() change that alone.
static void check_children(IntroReader *r, struct intro_ctx *c, struct gva task, struct gva nsproxy)
{
    struct gva pid_ns = rd_ptr(r, nsproxy, M_nsproxy_pid_for_children);

    if (rd(r, pid_ns, M_pidns_level) != intro_pid_level(r, task))
        intro_refuse(c, "pid-namespace", "its next children live in another pid namespace");
    if (intro_has(c->k, M_nsproxy_time_ns) && intro_has(c->k, M_nsproxy_time_for_children) &&
        rd(r, nsproxy, M_nsproxy_time_ns) != rd(r, nsproxy, M_nsproxy_time_for_children))
        intro_refuse(c, "time-namespace", "its next children live in another time namespace");
}

bool intro_namespaces(struct intro_ctx *c, struct gva task, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva nsproxy = rd_ptr(&r, task, M_task_nsproxy), initial;

    if (nsproxy.addr)
        check_children(&r, c, task, nsproxy);
    if (!nsproxy.addr || !intro_symbol(c->k, "init_nsproxy", &initial, NULL))
        return rd_done(&r, error);
    for (size_t i = 0; i < G_N_ELEMENTS(namespaces); i++)
        if (rd(&r, nsproxy, namespaces[i].member) != rd(&r, initial, namespaces[i].member))
            intro_refuse(c, "namespace", "does not live in the guest's initial %s namespace",
                         namespaces[i].name);
    return rd_done(&r, error);
}
