// SPDX-License-Identifier: GPL-2.0-or-later
// The channel of a guest's agent, opened by another process or on another host.
#include "cli/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/signals.h"
#include "guestagent/protocol.h"

#define MAX_LINE 16384

bool cli_channel_answer(const char *failure)
{
    struct json_object *answer = json_object_new_object();
    g_autofree char *line = NULL;
    bool ok = true;

    if (failure)
        json_object_object_add(answer, "error", json_object_new_string(failure));
    line = g_strconcat(json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN), "\n", NULL);
    for (size_t at = 0, len = strlen(line); ok && at < len;) {
        ssize_t n = write(CLI_STREAM_FD, line + at, len - at);

        ok = n >= 0;
        at += (size_t)MAX(n, 0);
    }
    json_object_put(answer);
    return ok;
}

static char **command_line(struct cli *cli, const char *operand, const char *uri)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    g_autofree char *shown = cli_remote_shown(cli, operand, uri);
    g_autofree char *called = cli_remote_words(cli, operand, uri);

    g_strv_builder_add(words, "/proc/self/exe");
    if (cli_remote_wanted(cli, operand, uri))
        g_strv_builder_add_many(words, "remote-link", uri ? uri : "", NULL);
    g_strv_builder_add(words, "remote-channel");
    if (!cli_remote_wanted(cli, operand, uri) && uri)
        g_strv_builder_add_many(words, "--connect", uri, NULL);
    g_strv_builder_add_many(words, "--", operand, shown, called, NULL);
    return g_strv_builder_end(words);
}

bool cli_channel_start(struct cli *cli, const char *operand, const char *uri, int *ret_fd,
                       GError **error)
{
    g_auto(GStrv) words = command_line(cli, operand, uri);
    int pair[2];
    GPid pid;
    bool ok;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "socketpair: %s", g_strerror(errno));
        return false;
    }
    const int fds[4] = {-1, -1, STDERR_FILENO, pair[1]};

    ok = cli_remote_spawn(words, fds, &pid, error);
    close(pair[1]);
    if (ok)
        *ret_fd = pair[0];
    else
        close(pair[0]);
    return ok;
}

// Byte by byte: what follows is for somebody else.
static bool read_line(struct cli *cli, int fd, GString *line, GError **error)
{
    char c = '\0';

    while (c != '\n' && line->len < MAX_LINE) {
        struct pollfd fds[] = {{fd, POLLIN, 0}, {cli->signal_fd, POLLIN, 0}};

        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno != EINTR)
            break;
        if (cli_signals_check(cli, error))
            return false;
        if (!fds[0].revents)
            continue;
        if (read(fd, &c, 1) != 1)
            break;
        g_string_append_c(line, c);
    }
    if (c == '\n')
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_AGENT, "the channel to the agent could not be opened");
    return false;
}

GSocketConnection *cli_channel_await(struct cli *cli, int fd, GError **error)
{
    g_autoptr(GSocket) socket = g_socket_new_from_fd(fd, error);
    g_autoptr(GString) line = g_string_new(NULL);
    const char *failure;
    struct json_object *obj;
    bool ok;

    if (!socket) {
        close(fd);
        return NULL;
    }
    if (!read_line(cli, fd, line, error))
        return NULL;
    obj = json_tokener_parse(line->str);
    failure = agent_json_string(obj, "error", NULL);
    ok = json_object_is_type(obj, json_type_object) && !failure;
    if (!ok)
        g_set_error(error, CLI_ERROR, CLI_ERROR_AGENT, "%s",
                    failure ? failure : "the channel to the agent could not be opened");
    json_object_put(obj);
    return ok ? g_socket_connection_factory_create_connection(socket) : NULL;
}
