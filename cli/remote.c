// SPDX-License-Identifier: GPL-2.0-or-later
// The near end of a connection: ssh to another host's vmgraft, and a command that is run there.
#include "cli/remote.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/remote_pump.h"
#include "cli/signals.h"
#include "cli/version.h"

#define MAX_GREETING (64u << 10) // with what a shell there may print before
#define EXIT_OF_SSH  255
#define NOT_FOUND    127 // by the shell there
#define NOT_TO_RUN   126

struct ssh {
    GPid pid;
    int in, out;  // its standard input and output
    int messages; // a file with what it says on its own
};

/* ---- names ---- */

bool cli_remote_wanted(const struct cli *cli, const char *operand, const char *uri)
{
    return !cli->here && !strchr(operand, '/') && !g_str_has_prefix(operand, "qmp:") &&
           cli_remote_is(uri);
}

char *cli_remote_shown(const struct cli *cli, const char *operand, const char *uri)
{
    g_auto(cli_remote) remote = {0};

    if (!cli_remote_wanted(cli, operand, uri) || !cli_remote_parse(uri, &remote, NULL))
        return g_strdup(operand);
    return g_strdup_printf("%s on %s", operand, remote.host);
}

char *cli_remote_words(const struct cli *cli, const char *operand, const char *uri)
{
    g_auto(cli_remote) remote = {0};

    if (!cli_remote_wanted(cli, operand, uri) || !cli_remote_parse(uri, &remote, NULL))
        return g_strdup(operand);
    g_autofree char *quoted = g_shell_quote(remote.uri);

    return g_strdup_printf("-c %s %s", strpbrk(remote.uri, "?&;") ? quoted : remote.uri, operand);
}

/* ---- ssh ---- */

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static bool start(const cli_remote *r, struct ssh *ret, GError **error)
{
    g_auto(GStrv) argv = cli_remote_ssh(r);
    int in[2] = {-1, -1}, out[2] = {-1, -1}, messages = memfd_create("vmgraft-ssh", MFD_CLOEXEC);
    bool ok = messages >= 0 && pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0;
    const int fds[4] = {in[0], out[1], messages, -1};

    if (!ok)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "pipe: %s", g_strerror(errno));
    // ssh seeks to where it writes, as the file is only its own.
    ok = ok && cli_remote_spawn(argv, fds, &ret->pid, error);
    if (!ok)
        g_prefix_error(error, "%s: ", r->host);
    close_fd(in[0]);
    close_fd(out[1]);
    ret->in = in[1];
    ret->out = out[0];
    ret->messages = messages;
    return ok;
}

// The last line of what ssh, or the shell there, has said; NULL for nothing.
static char *last_words(const struct ssh *ssh)
{
    char text[4096];
    off_t end = lseek(ssh->messages, 0, SEEK_END);
    ssize_t n =
        pread(ssh->messages, text, sizeof(text) - 1, MAX(end - (off_t)sizeof(text) + 1, (off_t)0));
    char *last;

    text[MAX(n, 0)] = '\0';
    g_strchomp(text);
    last = strrchr(text, '\n');
    last = last ? last + 1 : text;
    return *last ? g_strdup(g_str_has_prefix(last, "ssh: ") ? last + 5 : last) : NULL;
}

// ssh has ended, or will as nobody reads it, and no vmgraft has greeted us.
static void explain(const cli_remote *r, const struct ssh *ssh, GError **error)
{
    int status = 0;
    g_autofree char *words = NULL;
    int code;

    close(ssh->in);
    close(ssh->out);
    waitpid(ssh->pid, &status, 0);
    words = last_words(ssh);
    code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == NOT_FOUND)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "%s: vmgraft is not installed there, or not in the PATH that ssh gives it: "
                    "?vmgraft=/path/to/vmgraft in the URI says where it is (%s)",
                    r->host, words ? words : "not found");
    else if (code == CLI_EXIT_USAGE)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                    "%s: the vmgraft there is older than this one (%s), and knows nothing of "
                    "other hosts: install the same on both",
                    r->host, CLI_VERSION);
    else if (code == EXIT_OF_SSH)
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: ssh: %s", r->host,
                    words ? words : "it fails and does not say why");
    else
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: vmgraft does not run there: %s",
                    r->host, words ? words : "it ends and does not say why");
}

static bool check_version(const cli_remote *r, const char *version, GError **error)
{
    if (strcmp(version, CLI_VERSION) == 0)
        return true;
    g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED,
                "%s: the vmgraft there is version %s, this is %s: install the same on both",
                r->host, version, CLI_VERSION);
    return false;
}

// Waits for the far end; what a shell prints when it starts is passed over.
static bool await_greeting(const cli_remote *r, const struct ssh *ssh, GError **error)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char c;

    for (size_t i = 0; i < MAX_GREETING; i++) {
        if (read(ssh->out, &c, 1) != 1)
            break;
        if (c != '\n') {
            g_string_append_c(line, c);
            continue;
        }
        if (g_str_has_prefix(line->str, CLI_PUMP_GREETING))
            return check_version(r, line->str + strlen(CLI_PUMP_GREETING), error);
        g_string_truncate(line, 0);
    }
    explain(r, ssh, error);
    return false;
}

/* ---- a command there ---- */

static void say_run(CliPump *pump, char **words)
{
    struct json_object *list = json_object_new_array();
    const char *text;

    for (; *words; words++)
        json_object_array_add(list, json_object_new_string(*words));
    text = json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN);
    cli_pump_say(pump, CLI_PUMP_RUN, text, strlen(text));
    json_object_put(list);
}

static bool is_exit(const struct cli_pump_word *word, enum cli_exit *ret)
{
    gsize size;
    const uint8_t *bytes = word->payload ? g_bytes_get_data(word->payload, &size) : NULL;

    if (word->kind != CLI_PUMP_EXIT || !bytes || size < 1)
        return false;
    *ret = bytes[0];
    return true;
}

static bool follow(struct cli *cli, CliPump *pump, enum cli_exit *ret, GError **error)
{
    bool told = false, over = false;

    while (!over) {
        struct cli_pump_word word;

        if (!told && cli_signals_check(cli, NULL)) {
            const uint8_t number = (uint8_t)cli->signal;

            cli_pump_say(pump, CLI_PUMP_SIGNAL, &number, 1);
            told = true;
        }
        if (!cli_pump_step(pump, told ? -1 : cli->signal_fd, 1000, &word, error))
            return false;
        over = is_exit(&word, ret);
        g_clear_pointer(&word.payload, g_bytes_unref);
    }
    // What failed there has been said; that its reader here has gone may be why.
    return cli_pump_drain(pump, *ret == CLI_EXIT_DONE ? error : NULL) || *ret != CLI_EXIT_DONE;
}

static void connect_streams(CliPump *pump, struct cli_remote_streams s)
{
    cli_pump_connect(pump, 0, s.in, -1);
    cli_pump_connect(pump, 1, -1, s.out);
    cli_pump_connect(pump, 2, -1, s.err);
    cli_pump_connect(pump, CLI_PUMP_IMAGE, s.image.from, s.image.to);
}

static void close_streams(struct cli_remote_streams s)
{
    close_fd(s.in);
    close_fd(s.out);
    close_fd(s.err);
    close_fd(s.image.from);
    close_fd(s.image.to);
}

bool cli_remote_run(struct cli *cli, const cli_remote *r, char **words,
                    struct cli_remote_streams streams, enum cli_exit *ret, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(CliPump) pump = NULL;
    g_autofree char *last = NULL;
    struct ssh ssh;
    bool ok;

    cli_debug(cli, "%s: connecting by %s", r->host, r->command ? r->command : "ssh");
    if (!start(r, &ssh, error) || !await_greeting(r, &ssh, error)) {
        close_streams(streams);
        return false;
    }
    if (!streams.deaf)
        cli_signals_hold(cli);
    pump = cli_pump_new(ssh.out, ssh.in);
    say_run(pump, words);
    connect_streams(pump, streams);
    ok = follow(cli, pump, ret, &why);
    g_clear_pointer(&pump, cli_pump_free);
    if (!ok) {
        last = last_words(&ssh);
        g_set_error(error, CLI_ERROR, CLI_ERROR_FAILED, "%s: %s%s%s", r->host, why->message,
                    last ? ": ssh: " : "", last ? last : "");
    }
    close(ssh.messages);
    return ok;
}

/* ---- this command there ---- */

static GPtrArray *far_words(const struct cli *cli, const char *uri, const char *const *extra)
{
    GPtrArray *words = g_ptr_array_new_with_free_func(g_free);

    g_ptr_array_add(words, g_strdup(cli->words[0]));
    g_ptr_array_add(words, g_strconcat("--connect-here=", uri, NULL));
    for (; extra && *extra; extra++)
        g_ptr_array_add(words, g_strdup(*extra));
    for (char **word = cli->words + 1; *word; word++)
        g_ptr_array_add(words, g_strdup(*word));
    g_ptr_array_add(words, NULL);
    return words;
}

enum cli_exit cli_remote_delegate(struct cli *cli, const char *const *extra,
                                  struct cli_remote_image image)
{
    g_auto(cli_remote) remote = {0};
    g_autoptr(GError) error = NULL;
    struct cli_remote_streams streams = {
        .in = -1,
        .out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3),
        .err = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3),
        .image = image,
    };
    enum cli_exit exit;

    if (!cli_remote_parse(cli->connect, &remote, &error)) {
        close_streams(streams);
        return cli_fail(cli, error);
    }
    g_autoptr(GPtrArray) words = far_words(cli, remote.local_uri, extra);

    // It is said there, in time: what is undone on a signal is undone there.
    if (!cli_remote_run(cli, &remote, (char **)words->pdata, streams, &exit, &error))
        return cli_fail(cli, error);
    return exit;
}
