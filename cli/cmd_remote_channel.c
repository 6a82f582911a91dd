// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft remote-channel: opens the channel of a guest's agent for another vmgraft (channel.h).
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "cli/agent_client.h"
#include "cli/channel.h"

// What one side has said and the other has not taken.
struct half {
    int from, to;
    uint8_t bytes[64 << 10];
    size_t start, end;
};

// False at the end of the file, or where nobody reads.
static bool fill(struct half *h)
{
    ssize_t n = read(h->from, h->bytes, sizeof(h->bytes));

    h->start = 0;
    h->end = (size_t)MAX(n, 0);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static bool empty(struct half *h)
{
    ssize_t n = write(h->to, h->bytes + h->start, h->end - h->start);

    h->start += (size_t)MAX(n, 0);
    return n >= 0 || errno == EAGAIN || errno == EINTR;
}

// Who hangs up has nothing more to say that anybody waits for: the rest is dropped.
static void pass_on(int a, int b)
{
    g_autofree struct half *there = g_new0(struct half, 1), *back = g_new0(struct half, 1);
    struct half *const halves[] = {there, back};
    bool open = true;

    there->from = back->to = a;
    there->to = back->from = b;
    while (open) {
        struct pollfd fds[] = {{a, 0, 0}, {b, 0, 0}};

        for (size_t i = 0; i < 2; i++) {
            const bool full = halves[i]->start < halves[i]->end;

            // fds[i] is where halves[i] reads.
            fds[full ? 1 - i : i].events |= full ? POLLOUT : POLLIN;
        }
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return;
        for (size_t i = 0; i < 2 && open; i++) {
            const bool full = halves[i]->start < halves[i]->end;

            if (full && fds[1 - i].revents & (POLLOUT | POLLERR | POLLHUP))
                open = empty(halves[i]);
            else if (!full && fds[i].revents & (POLLIN | POLLERR | POLLHUP))
                open = fill(halves[i]);
        }
    }
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    g_autoptr(GSocketConnection) channel = NULL;
    g_autoptr(GError) error = NULL;
    enum cli_exit exit;

    if (!cli_parse(cli, NULL, argc, argv, &exit))
        return exit;
    signal(SIGPIPE, SIG_IGN);
    {
        g_autoptr(VmmMachine) vm = vmm_machine_open(cli->operands[0], cli->connect, &error);

        if (vm)
            channel = cli_agent_open_channel(vm, cli->operands[1], cli->operands[2], &error);
    }
    cli_channel_answer(channel ? NULL : error->message);
    if (!channel)
        return CLI_EXIT_FAILED;
    g_socket_set_blocking(g_socket_connection_get_socket(channel), FALSE);
    pass_on(CLI_STREAM_FD, g_socket_get_fd(g_socket_connection_get_socket(channel)));
    return CLI_EXIT_DONE;
}

const struct cli_command cli_cmd_remote_channel = {
    .name = "remote-channel",
    .operands = "TARGET SHOWN WORDS",
    .min_operands = 3,
    .max_operands = 3,
    .has_target = true,
    .summary = "Open the channel of a guest's agent for another vmgraft",
    .about = "vmgraft runs this itself, to move processes between hosts.",
    .examples = "  vmgraft remote-channel -- web 'web on host' '-c qemu+ssh://host/system web'",
    .run = run,
};
