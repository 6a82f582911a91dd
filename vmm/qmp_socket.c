// SPDX-License-Identifier: GPL-2.0-or-later
// QMP over a unix socket.

#include <gio/gio.h>
#include <gio/gunixfdmessage.h>
#include <gio/gunixsocketaddress.h>
#include <string.h>

#include "vmm/machine.h"
#include "vmm/qmp_link.h"

#define GREETING_USEC (3 * G_USEC_PER_SEC)
// `stop` flushes the guest's disks: a slow disk is no error.
#define COMMAND_USEC   (30 * G_USEC_PER_SEC)
#define LINE_MAX_BYTES (64u << 20)
#define READ_BYTES     (64u << 10)

struct wire {
    GSocket *socket;
    GByteArray *input; // received, not yet consumed
    size_t scanned;    // of input, known to hold no newline
    int64_t next_id;
    unsigned n_resumes;
};

static void close_wire(void *user)
{
    struct wire *wire = user;

    if (wire->socket)
        g_socket_close(wire->socket, NULL);
    g_clear_object(&wire->socket);
    g_byte_array_unref(wire->input);
    g_free(wire);
}

// What came is no QMP: nothing that follows on this connection can be trusted.
static void abandon(struct wire *wire)
{
    g_socket_close(wire->socket, NULL);
}

static bool fill_input(struct wire *wire, int64_t deadline_usec, GError **error)
{
    int64_t left = deadline_usec - g_get_monotonic_time();
    g_autoptr(GError) failure = NULL;
    gssize n;
    guint had = wire->input->len;

    if (left <= 0 || !g_socket_condition_timed_wait(wire->socket, G_IO_IN, left, NULL, &failure)) {
        if (!failure || g_error_matches(failure, G_IO_ERROR, G_IO_ERROR_TIMED_OUT))
            g_set_error(error, VMM_ERROR, VMM_ERROR_TIMEOUT, "QMP: no answer in time");
        else
            g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "QMP: %s", failure->message);
        return false;
    }
    g_byte_array_set_size(wire->input, had + READ_BYTES);
    n = g_socket_receive(wire->socket, (char *)wire->input->data + had, READ_BYTES, NULL, &failure);
    g_byte_array_set_size(wire->input, had + (n > 0 ? (guint)n : 0));
    if (n < 0)
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "QMP: %s", failure->message);
    else if (n == 0)
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT,
                    "QMP: the other end closed the connection (QEMU has gone?)");
    return n > 0;
}

// The newline that ends the first line of what has been received, or NULL.
static const uint8_t *find_newline(struct wire *wire)
{
    const uint8_t *newline = NULL;

    if (wire->scanned < wire->input->len)
        newline = memchr(wire->input->data + wire->scanned, '\n', wire->input->len - wire->scanned);
    wire->scanned = newline ? 0 : wire->input->len;
    return newline;
}

// The next line as JSON object, owned by the caller.
static VmmJson *read_message(struct wire *wire, int64_t deadline_usec, GError **error)
{
    const uint8_t *newline;
    size_t len;
    VmmJson *message = NULL;
    struct json_tokener *tokener;

    while (!(newline = find_newline(wire))) {
        if (wire->input->len > LINE_MAX_BYTES) {
            abandon(wire);
            g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "QMP: a line exceeds %u bytes",
                        LINE_MAX_BYTES);
            return NULL;
        }
        if (!fill_input(wire, deadline_usec, error))
            return NULL;
    }
    len = (size_t)(newline - wire->input->data) + 1;
    tokener = json_tokener_new();
    message = json_tokener_parse_ex(tokener, (const char *)wire->input->data, (int)len);
    json_tokener_free(tokener);
    g_byte_array_remove_range(wire->input, 0, (guint)len);
    if (!json_object_is_type(message, json_type_object)) {
        json_object_put(message);
        abandon(wire);
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "this socket does not speak QMP");
        return NULL;
    }
    return message;
}

static void note_event(struct wire *wire, const char *event)
{
    if (strcmp(event, "RESUME") == 0)
        wire->n_resumes++;
}

static bool send_all(struct wire *wire, const char *text, int fd, GError **error)
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
        gssize n = g_socket_send_message(wire->socket, NULL, &vector, 1, control ? &control : NULL,
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

// The answer to request `id`.
static VmmJson *await_answer(struct wire *wire, int64_t id, GError **error)
{
    int64_t deadline = g_get_monotonic_time() + COMMAND_USEC;

    for (;;) {
        g_autoptr(VmmJson) message = read_message(wire, deadline, error);
        const char *event;
        int64_t answers;

        if (!message)
            return NULL;
        event = vmm_json_string(message, "event");
        if (event)
            note_event(wire, event);
        // An answer to a command that timed out earlier is nobody's any more.
        else if (vmm_json_int(message, "id", &answers) && answers == id)
            return g_steal_pointer(&message);
    }
}

static VmmJson *exchange(void *user, VmmJson *request, int fd, GError **error)
{
    struct wire *wire = user;
    g_autofree char *line = NULL;
    int64_t id = wire->next_id++;

    if (g_socket_is_closed(wire->socket)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "QMP: the connection is closed");
        return NULL;
    }
    json_object_object_add(request, "id", json_object_new_int64(id));
    line = g_strconcat(json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN), "\n", NULL);
    return send_all(wire, line, fd, error) ? await_answer(wire, id, error) : NULL;
}

// The process at the other end.
static bool peer_pid(void *user, VmmQmp *qmp, pid_t *ret, GError **error)
{
    struct wire *wire = user;
    g_autoptr(GCredentials) credentials = g_socket_get_credentials(wire->socket, error);
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

// QEMU sends its event before the answer to the command that caused it.
static unsigned n_resumes(void *user, unsigned expected)
{
    return ((struct wire *)user)->n_resumes;
}

static const struct vmm_qmp_link socket_link = {
    .exchange = exchange,
    .pid = peer_pid,
    .n_resumes = n_resumes,
    .close = close_wire,
};

static bool connect_socket(struct wire *wire, const char *path, GError **error)
{
    g_autoptr(GSocketAddress) address = NULL;
    g_autoptr(GError) failure = NULL;

    if (strlen(path) > 107) { // sun_path less its NUL
        g_set_error(error, VMM_ERROR, VMM_ERROR_TARGET, "%s: too long for a socket's name", path);
        return false;
    }
    wire->socket =
        g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, error);
    if (!wire->socket)
        return false;
    g_socket_set_timeout(wire->socket, COMMAND_USEC / G_USEC_PER_SEC);
    address = g_unix_socket_address_new(path);
    if (!g_socket_connect(wire->socket, address, NULL, &failure)) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_CONNECT, "%s: %s", path, failure->message);
        return false;
    }
    return true;
}

static bool greet(struct wire *wire, GError **error)
{
    GError *failure = NULL;
    g_autoptr(VmmJson) greeting =
        read_message(wire, g_get_monotonic_time() + GREETING_USEC, &failure);

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
    return true;
}

VmmQmp *vmm_qmp_connect(const char *path, GError **error)
{
    struct wire *wire = g_new0(struct wire, 1);
    g_autoptr(VmmQmp) qmp = vmm_qmp_new(&socket_link, wire);

    wire->input = g_byte_array_new();
    wire->next_id = 1;
    if (!connect_socket(wire, path, error))
        return NULL;
    if (!greet(wire, error) || !vmm_qmp_do(qmp, "qmp_capabilities", error)) {
        g_prefix_error(error, "%s: ", path);
        return NULL;
    }
    return g_steal_pointer(&qmp);
}
