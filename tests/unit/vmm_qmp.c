// SPDX-License-Identifier: GPL-2.0-or-later
// The QMP client against peers that misbehave; QEMU itself is met in tests/vm.
#include "vmm/qmp.h"

#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <string.h>

#include "vmm/channel.h"
#include "vmm/machine.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define OK(id)   "{\"return\": {}, \"id\": " id "}\r\n"

// A peer that says each of `lines` (NULL-terminated): the first at once, each further one when it
// has got a line. Then it closes, or waits for the client to do so.
struct peer {
    const char *const *lines;
    bool stays;
    char *folder, *path;
    GSocket *listener;
    GThread *thread;
};

static void say(GSocket *socket, const char *text)
{
    // In pieces: nothing says that a line comes in one.
    for (size_t len = strlen(text); len > 0;) {
        gssize n = g_socket_send(socket, text, MIN(len, 7), NULL, NULL);

        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

static bool hear_line(GSocket *socket)
{
    char byte;

    while (g_socket_receive(socket, &byte, 1, NULL, NULL) == 1) {
        if (byte == '\n')
            return true;
    }
    return false;
}

static gpointer serve(gpointer user)
{
    struct peer *peer = user;
    g_autoptr(GSocket) socket = g_socket_accept(peer->listener, NULL, NULL);

    for (size_t i = 0; peer->lines[i]; i++) {
        if (i > 0 && !hear_line(socket))
            break;
        say(socket, peer->lines[i]);
    }
    while (peer->stays && hear_line(socket))
        ;
    g_socket_close(socket, NULL);
    return NULL;
}

static void peer_start(struct peer *peer)
{
    g_autoptr(GSocketAddress) address = NULL;

    peer->folder = g_dir_make_tmp("vmm-qmp-XXXXXX", NULL);
    peer->path = g_build_filename(peer->folder, "qmp", NULL);
    address = g_unix_socket_address_new(peer->path);
    peer->listener = g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, 0, NULL);
    g_assert_true(g_socket_bind(peer->listener, address, FALSE, NULL));
    g_assert_true(g_socket_listen(peer->listener, NULL));
    peer->thread = g_thread_new("peer", serve, peer);
}

static void peer_stop(struct peer *peer)
{
    g_thread_join(peer->thread);
    g_object_unref(peer->listener);
    g_unlink(peer->path);
    g_rmdir(peer->folder);
    g_free(peer->path);
    g_free(peer->folder);
}

static void expect_no_connection(const char *const *lines, bool stays, int code, const char *reason)
{
    struct peer peer = {.lines = lines, .stays = stays};
    g_autoptr(GError) error = NULL;

    peer_start(&peer);
    g_assert_null(vmm_qmp_connect(peer.path, &error));
    g_assert_error(error, VMM_ERROR, code);
    if (!strstr(error->message, reason))
        g_error("\"%s\" lacks \"%s\"", error->message, reason);
    peer_stop(&peer);
}

static void test_no_qmp(void)
{
    static const char *const garbage[] = {"SSH-2.0-OpenSSH\r\n", NULL};
    static const char *const number[] = {"42\n", NULL};
    static const char *const other[] = {"{\"hello\": 1}\n", NULL};
    static const char *const cut[] = {"{\"QMP\": {", NULL};
    static const char *const silent[] = {NULL};
    static const char *const leaves[] = {GREETING, "", NULL};

    expect_no_connection(garbage, false, VMM_ERROR_PROTOCOL, "does not speak QMP");
    expect_no_connection(number, false, VMM_ERROR_PROTOCOL, "does not speak QMP");
    expect_no_connection(other, false, VMM_ERROR_PROTOCOL, "does not speak QMP");
    expect_no_connection(cut, false, VMM_ERROR_CONNECT, "closed the connection");
    expect_no_connection(silent, true, VMM_ERROR_TIMEOUT, "another client holds this QMP socket");
    expect_no_connection(leaves, false, VMM_ERROR_CONNECT, "qmp_capabilities");
}

static void test_no_socket(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_strnfill(200, 'x');

    g_assert_null(vmm_qmp_connect("/nonexistent/qmp", &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_CONNECT);
    g_clear_error(&error);
    g_assert_null(vmm_qmp_connect(path, &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_TARGET);
}

static void test_answers(void)
{
    static const char *const lines[] = {
        GREETING,
        OK("1"),
        // Events, and what was meant for a command that has been given up.
        "{\"event\": \"RESUME\"}\n{\"return\": \"old\", \"id\": 1}\n{\"return\": \"new\", \"id\": "
        "2}\n",
        "{\"id\": 3, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such\"}}\n",
        "{\"id\": 4, \"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n",
        "{\"id\": 5}\n",
        "{\"id\": 6, \"return\": 7}\n",
        NULL,
    };
    struct peer peer = {.lines = lines};
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    VmmQmp *qmp;

    peer_start(&peer);
    qmp = vmm_qmp_connect(peer.path, &error);
    g_assert_no_error(error);
    text = vmm_qmp_hmp(qmp, "info version", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, "new");
    g_assert_cmpuint(vmm_qmp_n_resumes(qmp, 1), ==, 1);
    g_assert_false(vmm_qmp_do(qmp, "foo", &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_UNSUPPORTED);
    g_clear_error(&error);
    g_assert_false(vmm_qmp_do(qmp, "foo", &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_STATE);
    g_assert_nonnull(strstr(error->message, "not now"));
    g_clear_error(&error);
    g_assert_false(vmm_qmp_do(qmp, "foo", &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL);
    g_clear_error(&error);
    g_assert_null(vmm_qmp_hmp(qmp, "info version", &error)); // a number is no text
    g_assert_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL);
    g_clear_error(&error);
    g_assert_false(vmm_qmp_do(qmp, "foo", &error));
    g_assert_error(error, VMM_ERROR, VMM_ERROR_CONNECT);
    vmm_qmp_close(qmp);
    peer_stop(&peer);
}

static void test_chardev_names(void)
{
    static const struct {
        const char *filename, *path;
        bool is_socket, connected;
    } cases[] = {
        {"disconnected:unix:/tmp/a,b.sock,server=on", "/tmp/a,b.sock", true, false},
        {"disconnected:unix:/tmp/a.sock,server", "/tmp/a.sock", true, false},
        {"unix:/tmp/a.sock,server=on", "/tmp/a.sock", true, true},
        {"unix:", NULL, true, true},
        {"pty:/dev/pts/3", NULL, false, false},
        {"disconnected:tcp:127.0.0.1:1", NULL, false, false},
        {"", NULL, false, false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = NULL;
        bool connected = false;

        g_assert_cmpint(vmm_channel_parse_filename(cases[i].filename, &path, &connected), ==,
                        cases[i].is_socket);
        g_assert_cmpstr(path, ==, cases[i].path);
        g_assert_cmpint(connected, ==, cases[i].connected);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/qmp/no-qmp", test_no_qmp);
    g_test_add_func("/vmm/qmp/no-socket", test_no_socket);
    g_test_add_func("/vmm/qmp/answers", test_answers);
    g_test_add_func("/vmm/qmp/chardev-names", test_chardev_names);
    return g_test_run();
}
