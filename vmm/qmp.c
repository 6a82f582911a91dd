// SPDX-License-Identifier: GPL-2.0-or-later
// A client of the QEMU Machine Protocol, whichever way it reaches QEMU.
#include "vmm/qmp.h"

#include <string.h>

#include "vmm/machine.h"
#include "vmm/qmp_link.h"

struct VmmQmp {
    const struct vmm_qmp_link *link;
    void *user; // of the link
};

VmmQmp *vmm_qmp_new(const struct vmm_qmp_link *link, void *user)
{
    VmmQmp *qmp = g_new(VmmQmp, 1);

    *qmp = (VmmQmp){link, user};
    return qmp;
}

void vmm_qmp_close(VmmQmp *qmp)
{
    if (!qmp)
        return;
    qmp->link->close(qmp->user);
    g_free(qmp);
}

VmmQmp *vmm_qmp_open(const struct vmm_target *target, GError **error)
{
    return target->kind == VMM_TARGET_DOMAIN ? vmm_qmp_domain_open(target, error)
                                             : vmm_qmp_connect(target->socket, error);
}

static void set_refusal(const char *command, const VmmJson *refusal, GError **error)
{
    const char *class = vmm_json_string(refusal, "class");
    const char *text = vmm_json_string(refusal, "desc");
    bool unknown = class && strcmp(class, "CommandNotFound") == 0;

    g_set_error(error, VMM_ERROR, unknown ? VMM_ERROR_UNSUPPORTED : VMM_ERROR_STATE,
                "QEMU refuses %s: %s", command, text ? text : "no reason given");
}

VmmJson *vmm_qmp_call(VmmQmp *qmp, const char *command, VmmJson *args, int fd, GError **error)
{
    g_autoptr(VmmJson) request = json_object_new_object();
    g_autoptr(VmmJson) answer = NULL;
    VmmJson *value;

    json_object_object_add(request, "execute", json_object_new_string(command));
    if (args)
        json_object_object_add(request, "arguments", args);
    answer = qmp->link->exchange(qmp->user, request, fd, error);
    if (answer && json_object_object_get_ex(answer, "return", &value))
        return json_object_get(value);
    if (answer && json_object_object_get_ex(answer, "error", &value))
        set_refusal(command, value, error);
    else if (answer)
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: neither answer nor error");
    g_prefix_error(error, "%s: ", command);
    return NULL;
}

bool vmm_qmp_do(VmmQmp *qmp, const char *command, GError **error)
{
    g_autoptr(VmmJson) value = vmm_qmp_call(qmp, command, NULL, -1, error);

    return value != NULL;
}

char *vmm_qmp_hmp(VmmQmp *qmp, const char *line, GError **error)
{
    VmmJson *args = json_object_new_object();
    g_autoptr(VmmJson) value = NULL;

    json_object_object_add(args, "command-line", json_object_new_string(line));
    value = vmm_qmp_call(qmp, "human-monitor-command", args, -1, error);
    if (!value)
        return NULL;
    if (!json_object_is_type(value, json_type_string)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: `%s' printed no text", line);
        return NULL;
    }
    return g_strdup(json_object_get_string(value));
}

bool vmm_qmp_stop(VmmQmp *qmp, GError **error)
{
    return qmp->link->stop ? qmp->link->stop(qmp->user, error) : vmm_qmp_do(qmp, "stop", error);
}

bool vmm_qmp_cont(VmmQmp *qmp, GError **error)
{
    return qmp->link->cont ? qmp->link->cont(qmp->user, error) : vmm_qmp_do(qmp, "cont", error);
}

bool vmm_qmp_pid(VmmQmp *qmp, pid_t *ret, GError **error)
{
    return qmp->link->pid(qmp->user, qmp, ret, error);
}

unsigned vmm_qmp_n_resumes(VmmQmp *qmp, unsigned expected)
{
    return qmp->link->n_resumes(qmp->user, expected);
}

void vmm_qmp_idle(VmmQmp *qmp, unsigned ms)
{
    if (qmp->link->idle)
        qmp->link->idle(qmp->user, ms);
    else
        g_usleep(ms * 1000);
}

const char *vmm_json_string(const VmmJson *object, const char *key)
{
    VmmJson *value;

    if (!json_object_object_get_ex(object, key, &value) ||
        !json_object_is_type(value, json_type_string))
        return NULL;
    return json_object_get_string(value);
}

bool vmm_json_bool(const VmmJson *object, const char *key, bool *ret)
{
    VmmJson *value;

    if (!json_object_object_get_ex(object, key, &value) ||
        !json_object_is_type(value, json_type_boolean))
        return false;
    *ret = json_object_get_boolean(value);
    return true;
}

bool vmm_json_int(const VmmJson *object, const char *key, int64_t *ret)
{
    VmmJson *value;

    if (!json_object_object_get_ex(object, key, &value) ||
        !json_object_is_type(value, json_type_int))
        return false;
    *ret = json_object_get_int64(value);
    return true;
}
