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

bool intro_namespaces(struct intro_ctx *c, struct gva task, GError **error)
{
    g_auto(IntroReader) r = INTRO_READER(c->k);
    struct gva nsproxy = rd_ptr(&r, task, M_task_nsproxy), initial;

    if (!nsproxy.addr || !intro_symbol(c->k, "init_nsproxy", &initial, NULL))
        return rd_done(&r, error);
    for (size_t i = 0; i < G_N_ELEMENTS(namespaces); i++)
        if (rd(&r, nsproxy, namespaces[i].member) != rd(&r, initial, namespaces[i].member))
            intro_refuse(c, "namespace", "does not live in the guest's initial %s namespace",
                         namespaces[i].name);
    return rd_done(&r, error);
}
