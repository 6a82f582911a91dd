// SPDX-License-Identifier: GPL-2.0-or-later
// vmgraft remote-helper: the far end of a connection, which runs commands for a vmgraft elsewhere.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/remote.h"
#include "cli/remote_pump.h"
#include "cli/version.h"

#define MAX_WORDS 1000

struct child {
    pid_t pid;
    int pidfd;
};

// The command that is asked for; NULL where it is none.
static char **parse_run(GBytes *payload)
{
    g_autofree char *text = g_strndup(g_bytes_get_data(payload, NULL), g_bytes_get_size(payload));
    struct json_object *list = json_tokener_parse(text);
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

    for (size_t i = 0; i < n && n <= MAX_WORDS; i++)
        g_strv_builder_add(words, json_object_get_string(json_object_array_get_idx(list, i)));
    json_object_put(list);
    return n > 0 && n <= MAX_WORDS ? g_strv_builder_end(words) : NULL;
}

static _Noreturn void become(char **words, const int fds[4])
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    sigset_t none;

    g_ptr_array_add(argv, (char *)"vmgraft");
    for (; *words; words++)
        g_ptr_array_add(argv, *words);
    g_ptr_array_add(argv, NULL);
    // Were we killed, it would undo what it is at.
    prctl(PR_SET_PDEATHSIG, SIGHUP);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    for (int i = 0; i < 4; i++)
        dup2(fds[i], i); // all of them are above 3, and end with exec
    execv("/proc/self/exe", (char **)argv->pdata);
    fprintf(stderr, "vmgraft: /proc/self/exe: %s\n", g_strerror(errno));
    _exit(CLI_EXIT_FAILED);
}

// Above the four that a child has.
static int raise_fd(int fd)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, CLI_PUMP_STREAMS);

    close(fd);
    return high;
}

// One end for us, one for the child: [0] reads what [1] writes.
static bool make_pipe(int ret[2])
{
    if (pipe2(ret, O_CLOEXEC) < 0)
        return false;
    ret[0] = raise_fd(ret[0]);
    ret[1] = raise_fd(ret[1]);
    return ret[0] >= 0 && ret[1] >= 0;
}

static bool start(CliPump *pump, char **words, struct child *ret)
{
    int in[2], out[2], err[2], image[2];

    if (!make_pipe(in) || !make_pipe(out) || !make_pipe(err) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, image) < 0)
        return false;
    image[1] = raise_fd(image[1]);
    const int fds[4] = {in[0], out[1], err[1], image[1]};

    ret->pid = fork();
    if (ret->pid == 0)
        become(words, fds);
    for (size_t i = 0; i < 4; i++)
        close(fds[i]);
    cli_pump_connect(pump, 0, -1, in[1]);
    cli_pump_connect(pump, 1, out[0], -1);
    cli_pump_connect(pump, 2, err[0], -1);
    cli_pump_connect(pump, CLI_PUMP_IMAGE, image[0], fcntl(image[0], F_DUPFD_CLOEXEC, 3));
    ret->pidfd = ret->pid > 0 ? (int)syscall(SYS_pidfd_open, ret->pid, 0) : -1;
    return ret->pidfd >= 0;
}

static bool has_ended(const struct child *child, int *ret_status)
{
    return waitpid(child->pid, ret_status, WNOHANG) == child->pid;
}

static void obey(const struct child *child, const struct cli_pump_word *word)
{
    if (word->kind == CLI_PUMP_SIGNAL && g_bytes_get_size(word->payload) >= 1)
        kill(child->pid, *(const uint8_t *)g_bytes_get_data(word->payload, NULL));
}

// Until the command has ended and all that it said is on its way.
static bool serve(CliPump *pump, const struct child *child, GError **error)
{
    uint8_t answer[2];
    int status;

    while (!has_ended(child, &status)) {
        struct cli_pump_word word;

        if (!cli_pump_step(pump, child->pidfd, 1000, &word, error))
            return false;
        if (word.payload)
            obey(child, &word);
        g_clear_pointer(&word.payload, g_bytes_unref);
    }
    answer[1] = (uint8_t)(WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    answer[0] = (uint8_t)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + answer[1]);
    if (!cli_pump_flush(pump, error))
        return true; // nobody is there to be told
    cli_pump_say(pump, CLI_PUMP_EXIT, answer, sizeof(answer));
    cli_pump_flush(pump, NULL);
    return true;
}

static char **await_run(CliPump *pump)
{
    struct cli_pump_word word;
    char **words = NULL;

    while (!words && cli_pump_step(pump, -1, 1000, &word, NULL)) {
        if (word.kind == CLI_PUMP_RUN)
            words = parse_run(word.payload);
        g_clear_pointer(&word.payload, g_bytes_unref);
    }
    return words;
}

static enum cli_exit run(struct cli *cli, int argc, char **argv)
{
    g_autoptr(CliPump) pump = NULL;
    g_auto(GStrv) words = NULL;
    struct child child;
    enum cli_exit exit;

    if (!cli_parse(cli, NULL, argc, argv, &exit))
        return exit;
    signal(SIGPIPE, SIG_IGN);
    printf(CLI_PUMP_GREETING CLI_VERSION "\n");
    fflush(stdout);
    pump = cli_pump_new(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, CLI_PUMP_STREAMS),
                        fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, CLI_PUMP_STREAMS));
    words = await_run(pump);
    if (!words)
        return CLI_EXIT_FAILED;
    if (!start(pump, words, &child)) {
        cli_warn("cannot run a command: %s", g_strerror(errno));
        return CLI_EXIT_FAILED;
    }
    if (serve(pump, &child, NULL))
        return CLI_EXIT_DONE;
    // Whoever asked has gone: the command undoes what it is at, or completes it.
    g_clear_pointer(&pump, cli_pump_free);
    kill(child.pid, SIGHUP);
    waitpid(child.pid, NULL, 0);
    return CLI_EXIT_FAILED;
}

const struct cli_command cli_cmd_remote_helper = {
    .name = "remote-helper",
    .operands = "",
    .summary = "Serve a vmgraft of another host, on standard input and output",
    .about = "vmgraft runs this itself, through ssh, for qemu+ssh:// URIs.",
    .examples = "  ssh HOST vmgraft remote-helper",
    .run = run,
};
