// SPDX-License-Identifier: GPL-2.0-or-later
// QMP through libvirt, which has the monitor of its domains to itself.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libvirt/libvirt-qemu.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/domain.h"
#include "vmm/machine.h"
#include "vmm/qmp_link.h"

// libvirt passes events on behind the answers to what caused them, but in their order.
#define EVENT_USEC (5 * G_USEC_PER_SEC)

// How long libvirtd may take to close its copy of a descriptor that it has passed on.
#define HANDOVER_USEC (2 * G_USEC_PER_SEC)

struct domain_link {
    virConnectPtr conn;
    virDomainPtr dom;
    int events; // callback id, -1 for none
    unsigned n_resumes;
};

static void close_link(void *user)
{
    struct domain_link *link = user;

    if (link->events >= 0)
        virConnectDomainQemuMonitorEventDeregister(link->conn, link->events);
    vmm_domain_close(link->conn, link->dom);
    g_free(link);
}

static VmmJson *exchange(void *user, VmmJson *request, int fd, GError **error)
{
    struct domain_link *link = user;
    const char *line = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
    unsigned n_out = 0;
    int *out = NULL;
    char *text = NULL;
    VmmJson *answer;
    int done;

    if (fd >= 0)
        done =
            virDomainQemuMonitorCommandWithFiles(link->dom, line, 1, &fd, &n_out, &out, &text, 0);
    else
        done = virDomainQemuMonitorCommand(link->dom, line, &text, 0);
    if (done < 0) {
        vmm_domain_fail(error, virDomainGetName(link->dom));
        return NULL;
    }
    for (unsigned i = 0; i < n_out; i++)
        close(out[i]);
    free(out);
    answer = json_tokener_parse(text);
    free(text);
    if (json_object_is_type(answer, json_type_object))
        return answer;
    json_object_put(answer);
    g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "libvirt's answer is no JSON object");
    return NULL;
}

/* ---- events ---- */

static void note_resume(virConnectPtr conn, virDomainPtr dom, const char *event, long long seconds,
                        unsigned micros, const char *details, void *user)
{
    ((struct domain_link *)user)->n_resumes++;
}

static void note_timeout(int timer, void *user)
{
    *(bool *)user = true;
}

static unsigned n_resumes(void *user, unsigned expected)
{
    struct domain_link *link = user;
    bool late = false;
    int timer = virEventAddTimeout(0, note_timeout, &late, NULL);

    // First what is here already, without waiting.
    while (timer >= 0 && !late && virEventRunDefaultImpl() == 0)
        ;
    late = false;
    if (timer >= 0)
        virEventUpdateTimeout(timer, EVENT_USEC / 1000);
    while (timer >= 0 && link->n_resumes < expected && !late && virEventRunDefaultImpl() == 0)
        ;
    if (timer >= 0)
        virEventRemoveTimeout(timer);
    return link->n_resumes;
}

static void idle(void *user, unsigned ms)
{
    bool over = false;
    int timer = virEventAddTimeout((int)ms, note_timeout, &over, NULL);

    while (timer >= 0 && !over && virEventRunDefaultImpl() == 0)
        ;
    if (timer >= 0)
        virEventRemoveTimeout(timer);
}

/* ---- whose memory it is ---- */

static bool has_file_open(const char *pid, const struct stat *file)
{
    g_autofree char *path = g_strconcat("/proc/", pid, "/fd", NULL);
    DIR *folder = opendir(path);
    struct dirent *entry;
    struct stat st;
    bool found = false;

    while (folder && !found && (entry = readdir(folder)))
        found = fstatat(dirfd(folder), entry->d_name, &st, 0) == 0 && st.st_ino == file->st_ino &&
                st.st_dev == file->st_dev;
    if (folder)
        closedir(folder);
    return found;
}

// The processes other than us that have the file open; *ret_pid is the last of them.
static unsigned count_holders(const struct stat *file, pid_t *ret_pid)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *name;
    unsigned n = 0;
    guint64 pid;

    while (proc && (name = g_dir_read_name(proc))) {
        if (!g_ascii_string_to_unsigned(name, 10, 1, G_MAXINT, &pid, NULL) ||
            pid == (guint64)getpid() || !has_file_open(name, file))
            continue;
        *ret_pid = (pid_t)pid;
        n++;
    }
    return n;
}

static bool find_holder(int fd, pid_t *ret, GError **error)
{
    const int64_t deadline = g_get_monotonic_time() + HANDOVER_USEC;
    struct stat file;
    unsigned n;

    if (fstat(fd, &file) < 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "memfd: %s", g_strerror(errno));
        return false;
    }
    do {
        n = count_holders(&file, ret);
    } while (n > 1 && g_get_monotonic_time() < deadline);
    if (n == 1)
        return true;
    g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED, "%s",
                n == 0 ? "QEMU's process is not visible from here: run this on its host, as root"
                       : "several processes hold QEMU's descriptors");
    return false;
}

/*
 * Nothing in the monitor tells QEMU's process id, and libvirt keeps it to itself. So QEMU is handed
 * a file of ours, and whoever has that open is QEMU: which also proves that it is a process of this
 * host.
 */
static bool find_pid(void *user, VmmQmp *qmp, pid_t *ret, GError **error)
{
    int fd = memfd_create("vmgraft-mark", MFD_CLOEXEC);
    g_autoptr(VmmJson) answer = NULL;
    g_autoptr(VmmJson) removed = NULL;
    VmmJson *args;
    int64_t set;
    bool found;

    if (fd < 0) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE, "memfd: %s", g_strerror(errno));
        return false;
    }
    answer = vmm_qmp_call(qmp, "add-fd", NULL, fd, error);
    if (!answer || !vmm_json_int(answer, "fdset-id", &set)) {
        if (answer)
            g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: add-fd names no set");
        close(fd);
        return false;
    }
    found = find_holder(fd, ret, error);
    args = json_object_new_object();
    json_object_object_add(args, "fdset-id", json_object_new_int64(set));
    removed = vmm_qmp_call(qmp, "remove-fd", args, -1, NULL);
    close(fd);
    return found;
}

/* ---- pause ---- */

static bool stop(void *user, GError **error)
{
    struct domain_link *link = user;

    return virDomainSuspend(link->dom) == 0 || vmm_domain_fail(error, virDomainGetName(link->dom));
}

static bool cont(void *user, GError **error)
{
    struct domain_link *link = user;

    return virDomainResume(link->dom) == 0 || vmm_domain_fail(error, virDomainGetName(link->dom));
}

static const struct vmm_qmp_link domain_link = {
    .exchange = exchange,
    .pid = find_pid,
    .n_resumes = n_resumes,
    .stop = stop,
    .cont = cont,
    .idle = idle,
    .close = close_link,
};

VmmQmp *vmm_qmp_domain_open(const struct vmm_target *target, GError **error)
{
    struct domain_link *link = g_new0(struct domain_link, 1);

    link->events = -1;
    if (vmm_domain_open(target, &link->conn, &link->dom, error) &&
        vmm_domain_check(link->dom, error)) {
        link->events = virConnectDomainQemuMonitorEventRegister(link->conn, link->dom, "RESUME",
                                                                note_resume, link, NULL, 0);
        if (link->events >= 0)
            return vmm_qmp_new(&domain_link, link);
        vmm_domain_fail(error, virDomainGetName(link->dom));
    }
    close_link(link);
    return NULL;
}
