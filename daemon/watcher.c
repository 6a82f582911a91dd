// SPDX-License-Identifier: GPL-2.0-or-later
// The connection to libvirt: its events in, and the domains that they are about.
#include "daemon/watcher.h"

#include <libvirt/virterror.h>
#include <stdlib.h>

#include "daemon/domain.h"
#include "daemon/request.h"

#define RETRY_FIRST_MS 500
#define RETRY_MOST_MS  30000
#define BEHIND_MS      2000
// A libvirtd that does not answer for so long is gone.
#define KEEPALIVE_S 5
#define KEEPALIVE_N 4

struct DaemonWatcher {
    struct daemon_house house;
    GHashTable *domains; // UUID -> DaemonDomain
    int events[2];       // callback ids
    int retry;           // timer: connect again
    unsigned retry_ms;
    int behind; // timer: say again what libvirt would not take
};

static const char *uri(const DaemonWatcher *w)
{
    return w->house.options->uri ? w->house.options->uri : "libvirt";
}

/* ---- domains ---- */

static void go_on_all(void *user)
{
    DaemonWatcher *w = user;
    GHashTableIter at;
    gpointer d;
    bool behind = false;

    g_hash_table_iter_init(&at, w->domains);
    while (g_hash_table_iter_next(&at, NULL, &d)) {
        daemon_domain_go_on(d);
        behind |= daemon_domain_is_behind(d);
    }
    virEventUpdateTimeout(w->behind, behind ? BEHIND_MS : -1);
}

static void on_behind(int timer, void *user)
{
    go_on_all(user);
}

static DaemonDomain *find_domain(DaemonWatcher *w, virDomainPtr dom)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    DaemonDomain *d;

    if (virDomainGetUUIDString(dom, uuid) < 0)
        return NULL;
    d = g_hash_table_lookup(w->domains, uuid);
    if (!d) {
        d = daemon_domain_new(&w->house, uuid);
        g_hash_table_insert(w->domains, (gpointer)daemon_domain_uuid(d), d);
    }
    return d;
}

static void look(DaemonWatcher *w, virDomainPtr dom)
{
    DaemonDomain *d = find_domain(w, dom);

    if (!d)
        return;
    daemon_domain_look(d, dom);
    if (daemon_domain_is_behind(d))
        virEventUpdateTimeout(w->behind, BEHIND_MS);
}

static void forget(DaemonWatcher *w, virDomainPtr dom)
{
    DaemonDomain *d = find_domain(w, dom);

    if (d && !daemon_domain_is_busy(d))
        g_hash_table_remove(w->domains, daemon_domain_uuid(d));
}

/* ---- events ---- */

static void on_metadata(virConnectPtr conn, virDomainPtr dom, int type, const char *which,
                        void *user)
{
    if (type == VIR_DOMAIN_METADATA_ELEMENT && g_strcmp0(which, DAEMON_REQUEST_URI) == 0)
        look(user, dom);
}

static int on_lifecycle(virConnectPtr conn, virDomainPtr dom, int event, int detail, void *user)
{
    DaemonWatcher *w = user;
    DaemonDomain *d;

    switch (event) {
    case VIR_DOMAIN_EVENT_STARTED:
        look(w, dom);
        break;
    case VIR_DOMAIN_EVENT_SUSPENDED:
        if ((d = find_domain(w, dom)))
            daemon_domain_go_on(d);
        break;
    case VIR_DOMAIN_EVENT_UNDEFINED:
        forget(w, dom);
        break;
    }
    return 0;
}

/* ---- connection ---- */

static void disconnect(DaemonWatcher *w)
{
    virConnectPtr conn = g_steal_pointer(&w->house.conn);

    if (!conn)
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(w->events); i++) {
        if (w->events[i] >= 0)
            virConnectDomainEventDeregisterAny(conn, w->events[i]);
        w->events[i] = -1;
    }
    virConnectUnregisterCloseCallback(conn, NULL);
    virConnectClose(conn);
}

static void retry_later(DaemonWatcher *w)
{
    virEventUpdateTimeout(w->retry, (int)w->retry_ms);
    w->retry_ms = MIN(w->retry_ms * 2, RETRY_MOST_MS);
}

static void on_close(virConnectPtr conn, int reason, void *user)
{
    DaemonWatcher *w = user;

    g_message("%s has gone; trying again", uri(w));
    retry_later(w); // not from within its own callback
}

static void look_at_all(DaemonWatcher *w)
{
    virDomainPtr *doms;
    int n = virConnectListAllDomains(w->house.conn, &doms, 0);

    for (int i = 0; i < n; i++) {
        look(w, doms[i]);
        virDomainFree(doms[i]);
    }
    if (n >= 0)
        free(doms);
}

static bool register_events(DaemonWatcher *w)
{
    virConnectPtr conn = w->house.conn;

    w->events[0] =
        virConnectDomainEventRegisterAny(conn, NULL, VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
                                         VIR_DOMAIN_EVENT_CALLBACK(on_metadata), w, NULL);
    w->events[1] =
        virConnectDomainEventRegisterAny(conn, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                         VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), w, NULL);
    return w->events[0] >= 0 && w->events[1] >= 0 &&
           virConnectRegisterCloseCallback(conn, on_close, w, NULL) == 0;
}

static void on_retry(int timer, void *user)
{
    daemon_watcher_connect(user);
}

void daemon_watcher_connect(DaemonWatcher *w)
{
    virEventUpdateTimeout(w->retry, -1);
    disconnect(w);
    w->house.conn = virConnectOpen(w->house.options->uri);
    if (w->house.conn)
        virConnectSetKeepAlive(w->house.conn, KEEPALIVE_S, KEEPALIVE_N);
    if (!w->house.conn || !register_events(w)) {
        const virError *last = virGetLastError();

        g_message("%s: %s; trying again in %.1f s", uri(w),
                  last && last->message ? last->message : "no connection", w->retry_ms / 1e3);
        disconnect(w);
        retry_later(w);
        return;
    }
    w->retry_ms = RETRY_FIRST_MS;
    g_message("watching %s", uri(w));
    look_at_all(w);
}

DaemonWatcher *daemon_watcher_new(const struct daemon_options *options)
{
    DaemonWatcher *w = g_new0(DaemonWatcher, 1);

    w->house = (struct daemon_house){
        .options = options,
        .busy = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
        .job_ended = go_on_all,
        .user = w,
    };
    w->domains =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)daemon_domain_free);
    w->events[0] = w->events[1] = -1;
    w->retry_ms = RETRY_FIRST_MS;
    w->retry = virEventAddTimeout(-1, on_retry, w, NULL);
    w->behind = virEventAddTimeout(-1, on_behind, w, NULL);
    return w;
}

void daemon_watcher_free(DaemonWatcher *w)
{
    if (!w)
        return;
    disconnect(w);
    g_hash_table_unref(w->domains);
    g_hash_table_unref(w->house.busy);
    virEventRemoveTimeout(w->retry);
    virEventRemoveTimeout(w->behind);
    g_free(w);
}

void daemon_watcher_quit(DaemonWatcher *w)
{
    GHashTableIter at;
    gpointer d;

    w->house.quit = true;
    g_hash_table_iter_init(&at, w->domains);
    while (g_hash_table_iter_next(&at, NULL, &d))
        daemon_domain_interrupt(d);
}

bool daemon_watcher_is_idle(const DaemonWatcher *w)
{
    return w->house.n_jobs == 0;
}
