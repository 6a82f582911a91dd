// SPDX-License-Identifier: GPL-2.0-or-later
// Connections to libvirt, and what state a domain is in.
#include "vmm/domain.h"

#include <libvirt/libvirt-qemu.h>
#include <libvirt/virterror.h>
#include <string.h>

#include "vmm/machine.h"

// A libvirtd that does not answer for so long is gone.
#define KEEPALIVE_SECONDS 5
#define KEEPALIVE_TIMES   4

// libvirt prints every error to stderr unless somebody takes it.
static void be_quiet(void *user, virErrorPtr error)
{
}

static void prepare_library(void)
{
    static gsize once;

    if (!g_once_init_enter(&once))
        return;
    virSetErrorFunc(NULL, be_quiet);
    virEventRegisterDefaultImpl();
    g_once_init_leave(&once, 1);
}

static const struct {
    int code;
    enum vmm_error means;
} codes[] = {
    {VIR_ERR_OPERATION_INVALID, VMM_ERROR_STATE},
    {VIR_ERR_OPERATION_FAILED, VMM_ERROR_STATE},
    {VIR_ERR_OPERATION_TIMEOUT, VMM_ERROR_TIMEOUT},
    {VIR_ERR_AGENT_UNRESPONSIVE, VMM_ERROR_TIMEOUT},
    {VIR_ERR_NO_SUPPORT, VMM_ERROR_UNSUPPORTED},
    {VIR_ERR_OPERATION_UNSUPPORTED, VMM_ERROR_UNSUPPORTED},
    {VIR_ERR_CONFIG_UNSUPPORTED, VMM_ERROR_UNSUPPORTED},
};

bool vmm_domain_fail(GError **error, const char *what)
{
    const virError *last = virGetLastError();
    enum vmm_error means = VMM_ERROR_CONNECT;

    for (size_t i = 0; last && i < G_N_ELEMENTS(codes); i++) {
        if (codes[i].code == last->code)
            means = codes[i].means;
    }
    g_set_error(error, VMM_ERROR, means, "%s: %s", what,
                last && last->message ? last->message : "libvirt gives no reason");
    return false;
}

// As virsh does: an id if it is a number and there is one, a UUID if it looks like one, else a
// name.
static virDomainPtr look_up(virConnectPtr conn, const char *text)
{
    guint64 id;
    virDomainPtr dom = NULL;

    if (g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT, &id, NULL))
        dom = virDomainLookupByID(conn, (int)id);
    if (!dom && g_uuid_string_is_valid(text))
        dom = virDomainLookupByUUIDString(conn, text);
    return dom ? dom : virDomainLookupByName(conn, text);
}

bool vmm_domain_open(const struct vmm_target *target, virConnectPtr *ret_conn,
                     virDomainPtr *ret_dom, GError **error)
{
    virConnectPtr conn;
    virDomainPtr dom;
    const char *driver;

    prepare_library();
    conn = virConnectOpenAuth(target->uri, virConnectAuthPtrDefault, 0);
    if (!conn)
        return vmm_domain_fail(error, target->uri ? target->uri : "libvirt");
    driver = virConnectGetType(conn);
    if (g_strcmp0(driver, "QEMU") != 0) {
        g_autofree char *uri = virConnectGetURI(conn);

        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "%s: its domains are %s's, only QEMU's have the monitor that is needed here",
                    uri, driver ? driver : "unknown");
        vmm_domain_close(conn, NULL);
        return false;
    }
    virConnectSetKeepAlive(conn, KEEPALIVE_SECONDS, KEEPALIVE_TIMES);
    if (!(dom = look_up(conn, target->domain))) {
        vmm_domain_fail(error, target->domain);
        vmm_domain_close(conn, NULL);
        return false;
    }
    *ret_conn = conn;
    *ret_dom = dom;
    return true;
}

void vmm_domain_close(virConnectPtr conn, virDomainPtr dom)
{
    if (dom)
        virDomainFree(dom);
    if (conn)
        virConnectClose(conn);
}

bool vmm_domain_check(virDomainPtr dom, GError **error)
{
    const char *name = virDomainGetName(dom);
    int state = VIR_DOMAIN_NOSTATE, reason = 0;
    virDomainJobInfo job;

    if (virDomainGetState(dom, &state, &reason, 0) < 0)
        return vmm_domain_fail(error, name);
    if (state == VIR_DOMAIN_SHUTOFF || state == VIR_DOMAIN_CRASHED) {
        bool crashed = state == VIR_DOMAIN_CRASHED || reason == VIR_DOMAIN_SHUTOFF_CRASHED;

        if (virDomainIsActive(dom) == 1)
            return true; // it crashed and was kept
        if (virDomainHasManagedSaveImage(dom, 0) == 1)
            g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                        "domain %s is saved to disk: it has no memory to look into until it is "
                        "started again",
                        name);
        else
            g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                        "domain %s %s: it has no memory to look into", name,
                        crashed ? "has crashed" : "is shut off");
        return false;
    }
    if (virDomainGetJobInfo(dom, &job) == 0 && job.type != VIR_DOMAIN_JOB_NONE) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                    "domain %s is being migrated, saved or dumped: wait until that is over "
                    "(virsh domjobinfo %s)",
                    name, name);
        return false;
    }
    return true;
}

bool vmm_domain_rescue(const struct vmm_target *target, bool pause)
{
    virConnectPtr conn;
    virDomainPtr dom;
    int state, reason;
    bool done = false;

    if (!vmm_domain_open(target, &conn, &dom, NULL))
        return false;
    // Any other state is not ours to end.
    if (virDomainGetState(dom, &state, &reason, 0) == 0 && pause)
        done = state != VIR_DOMAIN_RUNNING || virDomainSuspend(dom) == 0;
    else if (virDomainGetState(dom, &state, &reason, 0) == 0)
        done = state != VIR_DOMAIN_PAUSED || reason != VIR_DOMAIN_PAUSED_USER ||
               virDomainResume(dom) == 0;
    vmm_domain_close(conn, dom);
    return done;
}

bool vmm_domain_end_disks(const struct vmm_target *target)
{
    virConnectPtr conn;
    virDomainPtr dom;
    char *answer = NULL;

    if (!vmm_domain_open(target, &conn, &dom, NULL))
        return false;
    bool done =
        virDomainIsActive(dom) == 0 ||
        virDomainQemuMonitorCommand(dom, "{\"execute\":\"nbd-server-stop\"}", &answer, 0) == 0;
    free(answer);
    vmm_domain_close(conn, dom);
    return done;
}
