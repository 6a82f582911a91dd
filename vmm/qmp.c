// SPDX-License-Identifier: GPL-2.0-or-later
// A client of the QEMU Machine Protocol on a unix socket.
#include "vmm/qmp.h"

#include <gio/gio.h>
#include <gio/gunixfdmessage.h>
#include <gio/gunixsocketaddress.h>
#include <string.h>

#include "vmm/machine.h"

#define GREETING_USEC (3 * G_USEC_PER_SEC)
// `stop` flushes the guest's disks: a slow disk is no error.
#define COMMAND_USEC   (30 * G_USEC_PER_SEC)
#define LINE_MAX_BYTES (64u << 20)
#define READ_BYTES     (64u << 10)

struct VmmQmp {
    GSocket *socket;
    GByteArray *input; // received, not yet consumed
    size_t scanned;    // of input, known to hold no newline
    int64_t next_id;
    unsigned n_resumes;
};

void vmm_qmp_close(VmmQmp *qmp)
{
    if (!qmp)
        return;
    if (qmp->socket)
        g_socket_close(qmp->socket, NULL);
    g_clear_object(&qmp->socket);
    g_byte_array_unref(qmp->input);
    g_free(qmp);
}

// What came is no QMP: nothing that follows on this connection can be trusted.
static void abandon(VmmQmp *qmp)
{
    g_socket_close(qmp->socket, NULL);
}

static bool fill_input(VmmQmp *qmp, int64_t deadline_usec, GError **error)
{
    int64_t left = deadline_usec - g_get_monotonic_time();
    g_autoptr(GError) failure = NULL;
    gssize n;
    guint had = qmp->input->len;

    if (left <= 0 || !g_socket_condition_timed_wait(qmp->socket, G_IO_IN, left, NULL, &failure)) {
        if (!failure || g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_TIMED_OUT))
            g_set_error(error, VMM_ERROR, VMM_ERROR_TIMEOUT, "QMP: no answer in time");
        else
            g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "QMP: %s", failure->message);
        return false;
    }
    g_byte_array_set_size(qmp->input, had + READ_BYTES);
    n = g_socket_receive(qmp->socket, (char *)qmp->input->data + had, READ_BYTES, NULL, &failure);
    g_byte_array_set_size(qmp->input, had + (n > 0 ? (guint)n : 0));
    if (n < 0)
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "QMP: %s", failure->message);
    else if (n == 0)
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT,
                    "QMP: the other end closed the connection (QEMU has gone?)");
    return n > 0;
}

// The newline that ends the first line of what has been received, or NULL.
static const uint8_t *find_newline(VmmQmp *qmp)
{
    const uint8_t *newline = NULL;

    if (qmp->scanned < qmp->input->len)
        newline = memchr(qmp->input->data + qmp->scanned, '\n', qmp->input->len - qmp->scanned);
    qmp->scanned = newline ? 0 : qmp->input->len;
    return newline;
}

// The next line as JSON object, owned by the caller.
static VmmJson *read_message(VmmQmp *qmp, int64_t deadline_usec, GError **error)
{
    const uint8_t *newline;
    size_t len;
    VmmJson *message = NULL;
    struct json_tokener *tokener;

    while (!(newline = find_newline(qmp))) {
        if (qmp->input->len > LINE_MAX_BYTES) {
            abandon(qmp);
            g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: a line exceeds %u bytes",
                        LINE_MAX_BYTES);
            return NULL;
        }
        if (!fill_input(qmp, deadline_usec, error))
            return NULL;
    }
    len = (size_t)(newline - qmp->input->data) + 1;
    tokener = json_tokener_new();
    message = json_tokener_parse_ex(tokener, (const char *)qmp->input->data, (int)len);
    json_tokener_free(tokener);
    g_byte_array_remove_range(qmp->input, 0, (guint)len);
    if (!json_object_is_type(message, json_type_object)) {
        json_object_put(message);
        abandon(qmp);
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "this socket does not speak QMP");
        return NULL;
    }
    return message;
}

static void note_event(VmmQmp *qmp, const char *event)
{
    if (strcmp(event, "RESUME") == 0)
        qmp->n_resumes++;
}

static bool send_all(VmmQmp *qmp, const char *text, int fd, GError **error)
{
    g_autoptr(GSocketControlMessage) control = NULL;
    g_autoptr(GError) failure = NULL;
    GOutputVector vector = {.buffer = text, .size = strlen(text)};

    if (fd >= 0) {
        control = g_unix_fd_message_new();
        if (!g_unix_fd_message_append_fd(G_UNIX_FD_MESSAGE(control), fd, error))
            return false;
    }
    while (vector.size > 0) {
        gssize n = g_socket_send_message(qmp->socket, NULL, &vector, 1, control ? &control : NULL,
                                         control ? 1 : 0, G_SOCKET_MSG_NONE, NULL, &failure);

        if (n < 0) {
            g_set_error(error, VMM_ERROR,
                        g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_TIMED_OUT)
                            ? VMM_ERROR_TIMEOUT
                            : VMM_ERROR_CONNECT,
                        "QMP: %s", failure->message);
            return false;
        }
        g_clear_object(&control);
        vector.buffer = (const char *)vector.buffer + n;
        vector.size -= (gsize)n;
    }
    return true;
}

static void set_refusal(const char *command, const VmmJson *refusal, GError **error)
{
    const char *class = vmm_json_string(refusal, "class");
    const char *text = vmm_json_string(refusal, "desc");
    bool unknown = class && strcmp(class, "CommandNotFound") == 0;

    g_set_error(error, VMM_ERROR, unknown ? VMM_ERROR_UNSUPPORTED : VMM_ERROR_STATE,
                "QEMU refuses %s: %s", command, text ? text : "no reason given");
}

static VmmJson *await_answer(VmmQmp *qmp, const char *command, int64_t id, GError **error)
{
    int64_t deadline = g_get_monotonic_time() + COMMAND_USEC;

    for (;;) {
        g_autoptr(VmmJson) message = read_message(qmp, deadline, error);
        VmmJson *value;
        const char *event;
        int64_t answers;

        if (!message)
            return NULL;
        event = vmm_json_string(message, "event");
        if (event) {
            note_event(qmp, event);
            continue;
        }
        // An answer to a command that timed out earlier is nobody's any more.
        if (!vmm_json_int(message, "id", &answers) || answers != id)
            continue;
        if (json_object_object_get_ex(message, "error", &value)) {
            set_refusal(command, value, error);
            return NULL;
        }
        if (json_object_object_get_ex(message, "return", &value))
            return json_object_get(value);
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: %s got neither answer nor error",
                    command);
        return NULL;
    }
}

VmmJson *vmm_qmp_call(VmmQmp *qmp, const char *command, VmmJson *args, int fd, GError **error)
{
    g_autoptr(VmmJson) request = json_object_new_object();
    g_autofree char *line = NULL;
    VmmJson *value;
    int64_t id = qmp->next_id++;

    json_object_object_add(request, "execute", json_object_new_string(command));
    if (args)
        json_object_object_add(request, "arguments", args);
    json_object_object_add(request, "id", json_object_new_int64(id));
    line = g_strconcat(json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN), "\n", NULL);
    if (g_socket_is_closed(qmp->socket)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "QMP: the connection is closed");
        return NULL;
    }
    value = send_all(qmp, line, fd, error) ? await_answer(qmp, command, id, error) : NULL;
    if (!value)
        g_prefix_error(error, "%s: ", command);
    return value;
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

bool vmm_qmp_peer_pid(VmmQmp *qmp, pid_t *ret, GError **error)
{
    g_autoptr(GCredentials) credentials = g_socket_get_credentials(qmp->socket, error);
    pid_t pid;

    if (!credentials)
        return false;
    pid = g_credentials_get_unix_pid(credentials, error);
    if (pid <= 0) {
        g_clear_error(error);
        g_set_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED,
                    "QEMU's process id is not visible from here (another pid namespace)");
        return false;
    }
    *ret = pid;
    return true;
}

unsigned vmm_qmp_n_resumes(const VmmQmp *qmp)
{
    return qmp->n_resumes;
}

static bool connect_socket(VmmQmp *qmp, const char *path, GError **error)
{
    g_autoptr(GSocketAddress) address = NULL;
    g_autoptr(GError) failure = NULL;

    if (strlen(path) > 107) { // sun_path less its NUL
        g_set_error(error, VMM_ERROR, VMM_ERROR_TARGET, "%s: too long for a socket's name", path);
        return false;
    }
    qmp->socket =
        g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, error);
    if (!qmp->socket)
        return false;
    g_socket_set_timeout(qmp->socket, COMMAND_USEC / G_USEC_PER_SEC);
    address = g_unix_socket_address_new(path);
    if (!g_socket_connect(qmp->socket, address, NULL, &failure)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "%s: %s", path, failure->message);
        return false;
    }
    return true;
}

static bool negotiate(VmmQmp *qmp, GError **error)
{
    GError *failure = NULL;
    g_autoptr(VmmJson) greeting =
        read_message(qmp, g_get_monotonic_time() + GREETING_USEC, &failure);

    if (!greeting) {
        if (g_error_matches(failure, VMM_ERROR, VMM_ERROR_TIMEOUT)) {
            g_clear_error(&failure);
            g_set_error(&failure, VMM_ERROR, VMM_ERROR_TIMEOUT,
                        "no greeting within %d s: another client holds this QMP socket",
                        (int)(GREETING_USEC / G_USEC_PER_SEC));
        }
        g_propagate_error(error, failure);
        return false;
    }
    if (!json_object_object_get_ex(greeting, "QMP", NULL)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "this socket does not speak QMP");
        return false;
    }
    return vmm_qmp_do(qmp, "qmp_capabilities", error);
}

VmmQmp *vmm_qmp_connect(const char *path, GError **error)
{
    g_autoptr(VmmQmp) qmp = g_new0(VmmQmp, 1);

    qmp->input = g_byte_array_new();
    qmp->next_id = 1;
    if (!connect_socket(qmp, path, error))
        return NULL;
    if (!negotiate(qmp, error)) {
        g_prefix_error(error, "%s: ", path);
        return NULL;
    }
    return g_steal_pointer(&qmp);
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
