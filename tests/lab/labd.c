// SPDX-License-Identifier: GPL-2.0-or-later
// labd runs commands inside a lab guest for the `lab` command on the host.
//
// Goals: any number of commands at once over one virtio-serial port; a slow or vanished reader
// stalls nobody else; time may stop (the guest is paused) or jump at any moment.
//
//   frame:   'V' type:u8 zero:u16 channel:u32 length:u32 payload   (little endian, <= 32 KiB)
//   start:   labd -> 32 KiB of zeros, HELLO(nonce); host -> WELCOME(nonce)
//            The zeros complete any frame that an earlier labd left half sent; where a frame is
//            to begin, zeros are skipped. labd ignores all input up to its WELCOME.
//   command: host -> EXEC; labd -> STARTED(pid) | FAILED(errno, text)
//            host -> STDIN (empty: end of file), HANGUP (kill)
//            labd -> STDOUT, STDERR, EXIT(status, 128 + signal when killed)
//   flow:    a sender has at most WINDOW bytes of one channel under way; the receiver hands them
//            back by CREDIT(bytes). STDOUT and STDERR share a window.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT         "org.vmgraft.lab.0"
#define PORTS_DIR    "/dev/virtio-ports"
#define MAX_PAYLOAD  32768
#define WINDOW       (256 * 1024)
#define MAX_CHANNELS 256
#define MAX_WORDS    4096
#define REOPEN_MS    200
#define FRAME_MAGIC  'V'

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_WELCOME,
    FRAME_EXEC,
    FRAME_STARTED,
    FRAME_FAILED,
    FRAME_STDIN,
    FRAME_STDOUT,
    FRAME_STDERR,
    FRAME_EXIT,
    FRAME_CREDIT,
    FRAME_HANGUP,
};

struct frame {
    uint8_t magic;
    uint8_t type;
    uint16_t zero;
    uint32_t channel;
    uint32_t length;
};

struct buffer {
    uint8_t *data;
    size_t start, end, capacity; // bytes; what is held is [start, end)
};

struct channel {
    uint32_t id; // 0: unused slot
    pid_t pid;
    bool exited;
    int status;    // as wait(2) gives it, once exited
    int in;        // write end of the command's stdin, -1 once closed
    bool in_eof;   // close `in` when `pending` has drained
    int out[2];    // read ends of stdout and stderr, -1 once closed
    size_t credit; // bytes of output that the host still takes
    struct buffer pending;
};

// What an EXEC asks for; the strings live in the frame.
struct command {
    bool detach;
    const char *user;
    const char *output;
    char **argv;
};

static int port = -1;
static struct buffer outgoing;
static struct channel channels[MAX_CHANNELS];

static void die(const char *what)
{
    fprintf(stderr, "labd: %s: %s\n", what, strerror(errno));
    exit(1);
}

static size_t buffer_length(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}

static void buffer_append(struct buffer *buffer, const void *data, size_t length)
{
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    if (buffer->end + length > buffer->capacity) {
        memmove(buffer->data, buffer->data + buffer->start, buffer_length(buffer));
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->end + length > buffer->capacity) {
        buffer->capacity = 2 * (buffer->end + length);
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (!buffer->data)
            die("memory");
    }
    memcpy(buffer->data + buffer->end, data, length);
    buffer->end += length;
}

static void send_frame(enum frame_type type, uint32_t channel, const void *data, size_t length)
{
    struct frame head = {FRAME_MAGIC, type, 0, channel, length};

    buffer_append(&outgoing, &head, sizeof head);
    buffer_append(&outgoing, data, length);
}

static void send_number(enum frame_type type, uint32_t channel, uint32_t number)
{
    send_frame(type, channel, &number, sizeof number);
}

static void send_failure(uint32_t channel, int error, const char *what)
{
    char text[512];

    memcpy(text, &error, sizeof error);
    int length =
        snprintf(text + sizeof error, sizeof text - sizeof error, "%s: %s", what, strerror(error));
    if (length > (int)(sizeof text - sizeof error) - 1)
        length = sizeof text - sizeof error - 1;
    send_frame(FRAME_FAILED, channel, text, sizeof error + length);
}

static struct channel *channel_find(uint32_t id)
{
    for (int i = 0; i < MAX_CHANNELS; i++)
        if (channels[i].id == id)
            return &channels[i];
    return NULL;
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void channel_free(struct channel *channel)
{
    close_end(&channel->in);
    close_end(&channel->out[0]);
    close_end(&channel->out[1]);
    free(channel->pending.data);
    memset(channel, 0, sizeof *channel);
}

// The host no longer listens: end the command with all of its session's first process group.
static void channel_hangup(struct channel *channel)
{
    if (!channel->exited)
        kill(-channel->pid, SIGKILL);
    channel_free(channel);
}

// Payload of EXEC: options "name=value", an empty string, then the words of the command; each ends
// in a NUL.
static bool command_parse(uint8_t *data, size_t length, struct command *ret)
{
    static char *words[MAX_WORDS + 1];
    struct command command = {0};
    char *word = (char *)data, *end = word + length;
    size_t count = 0;

    if (!length || end[-1])
        return false;
    for (; word < end && *word; word += strlen(word) + 1) {
        if (!strcmp(word, "detach=1"))
            command.detach = true;
        else if (!strncmp(word, "user=", 5))
            command.user = word + 5;
        else if (!strncmp(word, "output=", 7))
            command.output = word + 7;
        else
            return false;
    }
    for (word++; word < end && count < MAX_WORDS; word += strlen(word) + 1)
        words[count++] = word;
    if (!count || word < end)
        return false;
    words[count] = NULL;
    command.argv = words;
    *ret = command;
    return true;
}

// Find `user`, a name or a number, without NSS: it cannot be linked statically.
static struct passwd *user_find(const char *user)
{
    static struct passwd nameless = {.pw_name = (char *)"user", .pw_dir = (char *)"/"};
    char *end;
    unsigned long uid = strtoul(user, &end, 10);
    bool numeric = *user && !*end;
    FILE *file = fopen("/etc/passwd", "re");
    struct passwd *entry = NULL;

    while (file && (entry = fgetpwent(file)))
        if (numeric ? entry->pw_uid == uid : !strcmp(entry->pw_name, user))
            break;
    if (file)
        fclose(file);
    if (!entry && numeric) {
        nameless.pw_uid = nameless.pw_gid = uid;
        entry = &nameless;
    }
    return entry;
}

static void become_user(const struct passwd *user)
{
    if (setgroups(0, NULL) || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) ||
        setresuid(user->pw_uid, user->pw_uid, user->pw_uid))
        _exit(126);
    clearenv();
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", user->pw_dir, 1);
    setenv("USER", user->pw_name, 1);
    setenv("LANG", "C.UTF-8", 1);
}

// The child's side: never returns. `error_fd` closes on success and carries errno otherwise.
static void run_child(const struct command *command, const struct passwd *user, const int fds[3],
                      int error_fd)
{
    sigset_t none;

    setsid();
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    // All of fds lie above 2 (main sees to it), so no dup2 overwrites a later source.
    for (int i = 0; i < 3; i++)
        dup2(fds[i], i);
    become_user(user);
    execvp(command->argv[0], command->argv);
    int error = errno;
    if (write(error_fd, &error, sizeof error) < 0)
        _exit(126);
    _exit(127);
}

// Run `command` on fds[]; the pid, or -1 with errno set.
static pid_t spawn(const struct command *command, const struct passwd *user, const int fds[3])
{
    int report[2], error = 0;

    if (pipe2(report, O_CLOEXEC))
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        run_child(command, user, fds, report[1]);
    if (pid < 0)
        error = errno;
    close(report[1]);
    // Ends at exec: the write end is close-on-exec.
    if (pid > 0 && read(report[0], &error, sizeof error) == sizeof error) {
        waitpid(pid, NULL, 0);
        pid = -1;
    }
    close(report[0]);
    errno = error;
    return pid;
}

static void exec_detached(uint32_t id, const struct command *command, const struct passwd *user)
{
    const char *output = command->output ? command->output : "/dev/null";
    int fds[3] = {open("/dev/null", O_RDONLY | O_CLOEXEC), -1, -1};

    fds[1] = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fds[1] < 0) {
        send_failure(id, errno, output);
    } else {
        if (fchown(fds[1], user->pw_uid, user->pw_gid)) {
            // A device or a foreign file system: the command can write to it all the same.
        }
        fds[2] = fds[1];
        pid_t pid = spawn(command, user, fds);
        if (pid < 0)
            send_failure(id, errno, command->argv[0]);
        else
            send_number(FRAME_STARTED, id, pid);
        close(fds[1]);
    }
    close_end(&fds[0]);
}

static void exec_attached(uint32_t id, const struct command *command, const struct passwd *user)
{
    struct channel *channel = channel_find(0);
    int ends[3][2];

    if (!channel) {
        send_failure(id, EAGAIN, command->argv[0]);
        return;
    }
    for (int i = 0; i < 3; i++)
        if (pipe2(ends[i], O_CLOEXEC))
            die("pipe");
    int fds[3] = {ends[0][0], ends[1][1], ends[2][1]};
    *channel =
        (struct channel){id, 0, false, 0, ends[0][1], false, {ends[1][0], ends[2][0]}, WINDOW, {0}};
    fcntl(channel->in, F_SETFL, O_NONBLOCK);
    fcntl(channel->out[0], F_SETFL, O_NONBLOCK);
    fcntl(channel->out[1], F_SETFL, O_NONBLOCK);
    channel->pid = spawn(command, user, fds);
    if (channel->pid < 0) {
        send_failure(id, errno, command->argv[0]);
        channel_free(channel);
    } else {
        send_number(FRAME_STARTED, id, channel->pid);
    }
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}

static void handle_exec(uint32_t id, uint8_t *data, size_t length)
{
    struct command command;

    if (channel_find(id) || !command_parse(data, length, &command)) {
        send_failure(id, EINVAL, "request");
        return;
    }
    const struct passwd *user = user_find(command.user ? command.user : "0");
    if (!user)
        send_failure(id, ENOENT, command.user);
    else if (command.detach)
        exec_detached(id, &command, user);
    else
        exec_attached(id, &command, user);
}

static void handle_frame(const struct frame *head, uint8_t *data)
{
    struct channel *channel = head->channel ? channel_find(head->channel) : NULL;

    if (head->type == FRAME_EXEC && head->channel) {
        handle_exec(head->channel, data, head->length);
    } else if (!channel) {
        return; // it has ended; the host does not know yet
    } else if (head->type == FRAME_STDIN) {
        channel->in_eof |= head->length == 0;
        buffer_append(&channel->pending, data, head->length);
    } else if (head->type == FRAME_CREDIT && head->length == sizeof(uint32_t)) {
        uint32_t bytes;
        memcpy(&bytes, data, sizeof bytes);
        channel->credit += bytes;
    } else if (head->type == FRAME_HANGUP) {
        channel_hangup(channel);
    }
}

// Take whole frames off `incoming`.
static void parse_frames(struct buffer *incoming)
{
    struct frame head;

    while (buffer_length(incoming) >= sizeof head) {
        memcpy(&head, incoming->data + incoming->start, sizeof head);
        if (head.magic != FRAME_MAGIC || head.length > MAX_PAYLOAD) {
            fprintf(stderr, "labd: the host does not speak our protocol\n");
            exit(1);
        }
        if (buffer_length(incoming) < sizeof head + head.length)
            return;
        handle_frame(&head, incoming->data + incoming->start + sizeof head);
        incoming->start += sizeof head + head.length;
    }
}

static bool read_port(struct buffer *incoming)
{
    uint8_t chunk[MAX_PAYLOAD];
    ssize_t got = read(port, chunk, sizeof chunk);

    if (got > 0)
        buffer_append(incoming, chunk, got);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static void flush_port(void)
{
    while (buffer_length(&outgoing)) {
        ssize_t put = write(port, outgoing.data + outgoing.start, buffer_length(&outgoing));
        if (put <= 0)
            return;
        outgoing.start += put;
    }
}

static void feed_stdin(struct channel *channel)
{
    struct buffer *pending = &channel->pending;
    size_t held = buffer_length(pending);

    if (channel->in < 0) {
        pending->start = pending->end; // the command closed its stdin: swallow the rest
    } else if (held) {
        ssize_t put = write(channel->in, pending->data + pending->start, held);
        if (put > 0)
            pending->start += put;
        else if (put < 0 && errno != EAGAIN && errno != EINTR)
            close_end(&channel->in);
    }
    if (held > buffer_length(pending))
        send_number(FRAME_CREDIT, channel->id, held - buffer_length(pending));
    if (channel->in_eof && !buffer_length(pending))
        close_end(&channel->in);
}

// True when something was taken from the pipe.
static bool drain_output(struct channel *channel, int which)
{
    uint8_t chunk[MAX_PAYLOAD];
    int *fd = &channel->out[which];
    size_t want = channel->credit < sizeof chunk ? channel->credit : sizeof chunk;

    if (*fd < 0 || !want || buffer_length(&outgoing) > WINDOW)
        return false;
    ssize_t got = read(*fd, chunk, want);
    if (got > 0) {
        channel->credit -= got;
        send_frame(which ? FRAME_STDERR : FRAME_STDOUT, channel->id, chunk, got);
    } else if (got == 0) {
        close_end(fd);
    }
    return got > 0;
}

// Whether the pipe holds nothing more of what an exited command wrote.
static bool output_empty(int fd)
{
    struct pollfd item = {fd, POLLIN, 0};

    return fd < 0 || poll(&item, 1, 0) == 0 || !(item.revents & POLLIN);
}

static void channel_step(struct channel *channel)
{
    feed_stdin(channel);
    for (int which = 0; which < 2; which++)
        while (drain_output(channel, which))
            ;
    // A background child may hold the pipes open for ever: the command's own exit ends it.
    if (channel->exited && output_empty(channel->out[0]) && output_empty(channel->out[1])) {
        int status = channel->status;
        send_number(FRAME_EXIT, channel->id,
                    WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        channel_free(channel);
    }
}

static void reap(int signals)
{
    struct signalfd_siginfo info;
    int status;
    pid_t pid;

    while (read(signals, &info, sizeof info) > 0)
        ;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int i = 0; i < MAX_CHANNELS; i++)
            if (channels[i].id && channels[i].pid == pid) {
                channels[i].exited = true;
                channels[i].status = status;
            }
}

static void watch(struct pollfd *items, nfds_t *count, int fd, short events)
{
    if (fd >= 0)
        items[(*count)++] = (struct pollfd){fd, events, 0};
}

// One round: wait for anything to do, then do it. False when the host has left.
static bool serve(int signals, struct buffer *incoming)
{
    static struct pollfd items[2 + 3 * MAX_CHANNELS];
    bool room = buffer_length(&outgoing) <= WINDOW;
    nfds_t count = 0;

    watch(items, &count, port, POLLIN | (buffer_length(&outgoing) ? POLLOUT : 0));
    watch(items, &count, signals, POLLIN);
    for (struct channel *channel = channels; channel < channels + MAX_CHANNELS; channel++) {
        if (!channel->id)
            continue;
        watch(items, &count, buffer_length(&channel->pending) ? channel->in : -1, POLLOUT);
        for (int which = 0; which < 2; which++)
            watch(items, &count, room && channel->credit ? channel->out[which] : -1, POLLIN);
    }
    if (poll(items, count, -1) < 0 && errno != EINTR)
        die("poll");
    if (items[1].revents)
        reap(signals);
    if (items[0].revents & POLLHUP || (items[0].revents & POLLIN && !read_port(incoming)))
        return false;
    parse_frames(incoming);
    for (struct channel *channel = channels; channel < channels + MAX_CHANNELS; channel++)
        if (channel->id)
            channel_step(channel);
    flush_port();
    return true;
}

// Say HELLO and swallow everything up to the WELCOME that answers it. False: no host there.
static bool greet(struct buffer *incoming)
{
    static const uint8_t zeros[MAX_PAYLOAD];
    struct frame head = {FRAME_MAGIC, FRAME_WELCOME, 0, 0, sizeof(uint64_t)};
    uint8_t answer[sizeof head + sizeof(uint64_t)];
    uint64_t nonce;

    if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        die("getrandom");
    memcpy(answer, &head, sizeof head);
    memcpy(answer + sizeof head, &nonce, sizeof nonce);
    outgoing.start = outgoing.end = incoming->start = incoming->end = 0;
    buffer_append(&outgoing, zeros, sizeof zeros);
    send_frame(FRAME_HELLO, 0, &nonce, sizeof nonce);
    for (;;) {
        struct pollfd item = {port, POLLIN | (buffer_length(&outgoing) ? POLLOUT : 0), 0};
        if (poll(&item, 1, -1) < 0 && errno != EINTR)
            die("poll");
        if (item.revents & POLLHUP || (item.revents & POLLIN && !read_port(incoming)))
            return false;
        flush_port();
        uint8_t *found = buffer_length(incoming)
                             ? memmem(incoming->data + incoming->start, buffer_length(incoming),
                                      answer, sizeof answer)
                             : NULL;
        if (found) {
            incoming->start = found - incoming->data + sizeof answer;
            parse_frames(incoming);
            return true;
        }
    }
}

// Link every named virtio port below /dev/virtio-ports, as udev does. True when ours is there.
static bool link_ports(void)
{
    DIR *dir = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    bool found = false;

    mkdir(PORTS_DIR, 0755);
    while (dir && (entry = readdir(dir))) {
        char path[512], name[128] = "", link[512];
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        FILE *file = fopen(path, "re");
        if (file && fscanf(file, "%127s", name) == 1) {
            snprintf(path, sizeof path, "../%s", entry->d_name);
            snprintf(link, sizeof link, PORTS_DIR "/%s", name);
            found |= (symlink(path, link) == 0 || errno == EEXIST) && !strcmp(name, PORT);
        }
        if (file)
            fclose(file);
    }
    if (dir)
        closedir(dir);
    return found;
}

int main(int argc, char **argv)
{
    struct buffer incoming = {0};
    sigset_t mask;

    // `labd --ports` comes before everything else at boot: ports get their names late.
    while (!link_ports())
        usleep(10 * 1000);
    if (argc > 1)
        return strcmp(argv[1], "--ports") != 0;

    // Descriptors 0-2 must be taken: run_child relies on all others being above.
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2)
        fd = dup(fd);
    close(fd);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    port = open(PORTS_DIR "/" PORT, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (signals < 0 || port < 0)
        die(PORT);
    for (;;) {
        if (greet(&incoming))
            while (serve(signals, &incoming))
                ;
        for (int i = 0; i < MAX_CHANNELS; i++)
            if (channels[i].id)
                channel_hangup(&channels[i]);
        usleep(REOPEN_MS * 1000);
    }
}
